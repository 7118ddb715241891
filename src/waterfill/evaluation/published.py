"""Published rate–distortion curves on the 24 Kodak photographs, with their sources.

The table is of facts that others measured; each row names the public file that it was read from.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from waterfill.errors import WaterfillError
from waterfill.evaluation.metrics import in_decibels

__all__ = [
    "ALIASES",
    "PublishedCurve",
    "PublishedPoint",
    "published_curve",
    "published_curves",
    "published_names",
]

#: Short names of the curves that are asked for most.
ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "vtm-9.1": "vtm",
        "vvc": "vtm",
        "vtm18": "VTM-18.0",
        "vtm-18": "VTM-18.0",
        "bpg": "bpg_444_x265_ycbcr",
        "bpg444": "bpg_444_x265_ycbcr",
        "bpg420": "tfc-bpg420",
        "factorized": "compressai-bmshj2018-factorized_mse_cpu",
        "hyperprior": "compressai-bmshj2018-hyperprior_mse_cpu",
        "scale-hyperprior": "compressai-bmshj2018-hyperprior_mse_cpu",
        "mean-scale": "compressai-mbt2018-mean_mse_cpu",
        "mbt2018-mean": "compressai-mbt2018-mean_mse_cpu",
        "autoregressive": "compressai-mbt2018_mse_cpu",
        "mbt2018": "compressai-mbt2018_mse_cpu",
        "cheng2020": "compressai-cheng2020-anchor_mse_cpu",
        "cheng2020-attention": "compressai-cheng2020-attn_mse_cpu",
        "elic": "paper-elic2022_mse",
        "tcm": "TCM-Large",
        "hpcm": "HPCM-Large",
        "cool-chic": "CoolChic-v5.0",
        "c3": "c3repo-C3(Adaptive)",
        "evc": "EVC-L",
        "yang-mandt": "RD-UB-resnet_vae(Yang&Mandt)",
    }
)

#: What to know before comparing with a curve, by the start of its name or of its source.
_CAVEATS = {
    "vtm": (
        "VTM-9.1, as later papers take it; its pixels were cut, not rounded, to 8 bits, which "
        "costs most at high rates: claims against VTM-18.0 and later are other claims"
    ),
    "hm": "pixels were cut, not rounded, to 8 bits, which costs most at high rates",
    "VTM-18.0": "another version, and another measurement, than the curve named vtm",
    "bpg_444_x265_ycbcr": "BPG 0.9.8; tfc-bpg444 is another measurement, and differs",
    "jpeg": "Pillow 7.1.2; tfc-jpeg420 is another measurement, and differs",
    "jpeg2000": "ffmpeg 3.4.6; tfc-j2k-opj5 and tfc-j2k-kdu5 are other encoders, and differ",
    "webp": "Pillow 7.1.2; tfc-webp is another measurement, and differs",
    "av1": "encoder, version and settings are not stated in its row",
    "paper-": "figures of the paper's authors, not measured by the source",
    "tfc-": "without MS-SSIM; version and PSNR convention are not stated in its row",
    "RD-UB-": "an upper bound on R(D) by a β-VAE, not a codec: no file has this size",
    "EVC-": "four points: the least that BD-rate takes",
    "CoolChic-": "networks fitted to each picture",
    "c3repo-": "collected from the paper that its note names",
}


@dataclass(frozen=True)
class PublishedPoint:
    """One row: bpp, PSNR in dB, and MS-SSIM in 0 … 1 or None where it was not published."""

    bpp: float
    psnr: float
    ms_ssim: float | None


@dataclass(frozen=True)
class PublishedCurve:
    """A curve as its source has it.

    Attributes
    ----------
    name
        As in the table.
    points
        In the table's order.
    source
        Repository and file.
    note
        The source's own remark.
    caveat
        What to know before comparing; may be empty.
    kind
        ``bound`` for what no file achieves.
    objective
        What a learned codec was trained for, or what a conventional one is judged by.
    """

    name: str
    points: tuple[PublishedPoint, ...] = field(repr=False)
    source: str
    note: str
    caveat: str
    kind: Literal["codec", "bound"]
    objective: Literal["mse", "ms-ssim"]

    @property
    def status(self) -> str:
        """What its rates are: achieved by files, or an upper bound on R(D)."""
        return "achieved" if self.kind == "codec" else "upper bound on R(D)"

    def array(self, metric: Literal["psnr", "ms_ssim"] = "psnr") -> NDArray[np.float64]:
        """(n, 2) of bpp and dB, MS-SSIM as −10 log₁₀(1 − it), sorted by quality.

        Raises
        ------
        WaterfillError
            If no MS-SSIM was published.
        """
        if metric == "psnr":
            pairs = [(p.bpp, p.psnr) for p in self.points]
        else:
            pairs = [(p.bpp, in_decibels(p.ms_ssim)) for p in self.points if p.ms_ssim is not None]
            if not pairs:
                raise WaterfillError(f"published curve {self.name}: has no MS-SSIM")
        return np.array(sorted(pairs, key=lambda pair: pair[1]), dtype=np.float64)


def _caveat(name: str) -> str:
    exact = _CAVEATS.get(name)
    if exact is not None:
        return exact
    return next(
        (c for start, c in _CAVEATS.items() if start[-1] == "-" and name.startswith(start)), ""
    )


@cache
def published_curves() -> Mapping[str, PublishedCurve]:
    """All curves by name, in the table's order."""
    text = (resources.files("waterfill.evaluation") / "kodak_published.csv").read_text("utf-8")
    rows: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader(text.splitlines()):
        rows.setdefault(row["codec"], []).append(row)
    return MappingProxyType(
        {
            name: PublishedCurve(
                name,
                tuple(
                    PublishedPoint(
                        float(r["bpp"]),
                        float(r["psnr_rgb"]),
                        float(r["ms_ssim"]) if r["ms_ssim"] else None,
                    )
                    for r in found
                ),
                found[0]["source"],
                found[0]["note"],
                _caveat(name),
                "bound" if name.startswith("RD-UB-") else "codec",
                "ms-ssim" if "ms-ssim" in name or "msssim" in name else "mse",
            )
            for name, found in rows.items()
        }
    )


def published_names() -> tuple[str, ...]:
    """Names of all curves, in the table's order; :data:`ALIASES` are further ones."""
    return tuple(published_curves())


def published_curve(name: str) -> PublishedCurve:
    """A curve by its name or an alias, in any case; ``published:`` may stand before it.

    Raises
    ------
    WaterfillError
        If no curve has that name.
    """
    curves = published_curves()
    asked = name.strip().removeprefix("published:")
    if asked in curves:
        return curves[asked]
    known = {key.lower(): target for key, target in ALIASES.items()}
    known |= {key.lower(): key for key in curves}
    if asked.lower() in known:
        return curves[known[asked.lower()]]
    near = difflib.get_close_matches(asked.lower(), known, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise WaterfillError(f"no published curve is named {asked!r}{hint}")
