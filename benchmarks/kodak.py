"""The bundled codec on a folder of photographs, beside JPEG and WebP.

    python benchmarks/kodak.py FOLDER [--codec NAME|FILE] [--json results.json]

Prints mean (bpp, PSNR, MS-SSIM) per quality, BD-rates, what integer networks and tables cost in
rate, the time that coding and a ladder at one rate take, and checks for every picture at every
quality that the file lies between its ideal code length and 1.005 × it + 64 bytes, and that the
decoder's pixels equal the encoder's. Means of per-picture figures throughout.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import waterfill as wf
from waterfill.codec.channels import Rounding
from waterfill.codec.gains import QUALITIES
from waterfill.codec.latents import Latents
from waterfill.codec.model import Codec
from waterfill.codec.noise import Noise
from waterfill.codec.registry import load_codec
from waterfill.data.images import find_images, load_picture
from waterfill.evaluation.measure import evaluate
from waterfill.evaluation.metrics import SimilarityTo, psnr
from waterfill.provenance import environment

ANCHORS = ("jpeg", "webp")


@torch.no_grad()
def float_bits(codec: Codec, latents: Latents) -> float:
    """Bits of y by the prior in floating point, which integers stand for in a stream."""
    quality = torch.tensor([latents.quality])
    log2_gain, _ = codec.gains(quality)
    y = latents.y[None] / torch.exp2(log2_gain)
    sent = codec.prior(y, quality, log2_gain, Rounding(), Noise(0))
    return float(sent.y_bits.double().sum())


def measure_codec(codec: Any, pictures: list[Any], similarity: list[SimilarityTo]) -> list[Any]:
    rows = []
    for quality in QUALITIES:
        cells = []
        for picture, similar in zip(pictures, similarity, strict=True):
            began = time.perf_counter()
            latents = codec.latents(picture, quality)
            data = codec.pack(picture, [latents], quality)
            encoded = time.perf_counter()
            decoded = np.asarray(wf.decompress(data, codec=codec).convert("RGB"))
            finished = time.perf_counter()
            symbols = latents.quantised
            ideal = (symbols.bits.sum() + latents.side_bits) / 8
            y_hat = symbols.y_hat
            seen = codec.synthesise(y_hat, quality, picture.height, picture.width)
            cells.append(
                {
                    "image": Path(picture.name).name,
                    "bpp": 8 * len(data) / picture.pixel_count,
                    "psnr": psnr(picture.pixels, decoded),
                    "ms_ssim": similar(decoded),
                    "bytes": len(data),
                    "ideal_bytes": ideal,
                    "float_bytes": (float_bits(codec, latents) + latents.side_bits) / 8,
                    "within_bounds": bool(ideal <= len(data) <= 1.005 * ideal + 64),
                    "pixels_equal": bool((decoded == seen).all()),
                    "encode_seconds": encoded - began,
                    "decode_seconds": finished - encoded,
                }
            )
        rows.append({"quality": quality, "images": cells})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--codec", default="default")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    pictures = [load_picture(path) for path in find_images([arguments.folder])]
    codec = load_codec(arguments.codec)
    codec.compress(pictures[0], 4)  # warm up
    similarity = [SimilarityTo(picture.pixels) for picture in pictures]
    rows = measure_codec(codec, pictures, similarity)
    cells = [cell for row in rows for cell in row["images"]]

    def mean(row: Any, key: str) -> float:
        return float(np.mean([cell[key] for cell in row["images"]]))

    print(f"{len(pictures)} pictures, codec {codec.name} ({codec.weights_id.hex()})\n")
    print("quality      bpp  PSNR dB  MS-SSIM")
    curve = []
    for row in rows:
        bpp, quality, similar = (mean(row, key) for key in ("bpp", "psnr", "ms_ssim"))
        curve.append((bpp, quality))
        print(f"{row['quality']:7}  {bpp:7.4f}  {quality:7.3f}  {similar:.4f}")
    found = evaluate(pictures, ANCHORS)
    anchors = {name: found.points(name).tolist() for name in ANCHORS}
    rates = {name: wf.bd_rate(points, curve) for name, points in anchors.items()}
    print()
    for name, rate in rates.items():
        print(f"BD-rate against {name:9} {rate:+7.2f} %")
    bounded = sum(cell["within_bounds"] for cell in cells)
    equal = sum(cell["pixels_equal"] for cell in cells)
    encode = float(np.median([cell["encode_seconds"] for cell in cells]))
    decode = float(np.median([cell["decode_seconds"] for cell in cells]))
    integers = [
        100 * (np.mean([c["ideal_bytes"] / c["float_bytes"] for c in row["images"]]) - 1)
        for row in rows
    ]
    shown = ", ".join(f"{cost:+.3f}" for cost in integers)
    print(f"\nintegers instead of floating point, % of rate by quality: {shown}")
    print(f"ideal ≤ file ≤ 1.005 × ideal + 64 bytes: {bounded} of {len(cells)}")
    print(f"decoder's pixels equal the encoder's:     {equal} of {len(cells)}")
    print(f"median seconds per picture: encode {encode:.3f}, decode {decode:.3f}")
    began = time.perf_counter()
    wf.limits(codec, pictures, 4)
    ladder = time.perf_counter() - began
    print(f"the ladder of all pictures at one rate: {ladder:.1f} s")
    if arguments.json:
        result = {
            "codec": codec.weights_id.hex(),
            "rows": rows,
            "curve": curve,
            "anchors": anchors,
            "bd_rate_percent": rates,
            "integer_cost_percent": integers,
            "encode_seconds": encode,
            "decode_seconds": decode,
            "ladder_seconds": ladder,
            "libraries": {anchor.name: anchor.version for anchor in found.codecs},
            "environment": environment(seed=0),
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
