"""Estimators of R(D) on square patches of photographs: the patch's size is part of each result.

A whole picture is beyond an estimator of finitely many atoms, which can't say more than the
logarithm of their number. Of patches it can; and to code them one by one, ideally, is one way to
code a picture, so that an upper bound for patches is one for pictures, loose by all that
neighbouring patches share.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from waterfill.codec.gains import lambda_of_quality
from waterfill.data.images import Picture
from waterfill.data.sets import PictureSet, open_pictures
from waterfill.data.sources import Source, cut_patches
from waterfill.errors import ImageError, WaterfillError
from waterfill.estimators.method import FitThenScore
from waterfill.estimators.nerd import Nerd
from waterfill.estimators.sandwich import SandwichUpper
from waterfill.estimators.wgd import WassersteinDescent
from waterfill.reproduce.estimates import estimates
from waterfill.reproduce.result import Request

__all__ = ["ATOMS", "QUALITIES_READ", "PatchBound", "bounds_on_patches", "gap_at_equal_psnr"]

Array = NDArray[np.float64]

#: Of the estimators that have atoms, as their authors have them.
ATOMS = 40_000
#: At whose λ estimators are fitted.
QUALITIES_READ = (1, 2, 3, 5, 7)
#: By scale: estimators, and the sizes of patches that each is fitted to.
ESTIMATORS: Mapping[str, Mapping[str, tuple[FitThenScore, Sequence[int]]]] = {
    "mini": {
        "sandwich": (SandwichUpper(hidden=200, latent=128, steps=800, batch=256), (8, 16)),
        "NERD": (
            Nerd(atoms=ATOMS, training_atoms=4096, batch=256, steps=150, hidden=128),
            (4, 8),
        ),
        "WGD": (WassersteinDescent(particles=4096, steps=60, batch=4096), (4, 8)),
    },
    "full": {
        "sandwich": (SandwichUpper(hidden=1000, latent=256, steps=100_000), (8, 16)),
        "NERD": (Nerd(atoms=ATOMS, training_atoms=ATOMS, steps=10_000, hidden=1024), (4, 8)),
        "WGD": (WassersteinDescent(particles=ATOMS, steps=1000, batch=60_000), (4, 8)),
    },
}

#: Patches that are fitted to, and of how many pictures at most; patches of each picture read.
_FITTED, _PICTURES, _READ = 40_000, 400, 300


@dataclass(frozen=True)
class PatchBound:
    """An upper bound on R(D) for patches coded one by one, slope by slope.

    Attributes
    ----------
    name
        Of the estimator.
    size
        Pixels along a side of a patch.
    steps
        That it was fitted for.
    bpp, psnr
        Means over the pictures, as of codecs; decoded values are not rounded to 8 bits.
    at_ceiling
        Whether the estimator could hardly have said more, of one of the pictures at least.
    ceiling
        The most that it can say, in bits for a pixel; None if there is none.
    """

    name: str
    size: int
    steps: int
    bpp: tuple[float, ...]
    psnr: tuple[float, ...]
    at_ceiling: tuple[bool, ...]
    ceiling: float | None

    @property
    def label(self) -> str:
        """For legends and tables."""
        return f"{self.name}, {self.size}×{self.size} patches"


def bounds_on_patches(request: Request, pictures: Sequence[Picture]) -> list[PatchBound]:
    """Fitted to patches of the request's photographs, and read on those of pictures.

    Raises
    ------
    WaterfillError
        If no photograph is as large as the largest patch, or a picture isn't; nothing is fitted
        then.
    """
    chosen = ESTIMATORS[request.scale]
    wanted = sorted({size for _, sizes in chosen.values() for size in sizes}, reverse=True)
    for picture in pictures:
        if min(picture.height, picture.width) < wanted[0]:
            raise WaterfillError(
                f"{picture.name}: is smaller than a patch of {wanted[0]}×{wanted[0]}"
            )
    photographs = open_pictures(request.photographs)
    fits = {size: _sources(photographs, pictures, size, request.seed) for size in wanted}
    found = []
    for name, (method, sizes) in chosen.items():
        for size in sizes:
            fit, judges, digest = fits[size]
            # bpp + λ·255²·MSE of a codec, for the bits and the squared error of a patch.
            slopes = [lambda_of_quality(q) * 255.0**2 / 3.0 for q in QUALITIES_READ]
            about = {"patches": digest}
            said = estimates(request, name, method, slopes, fit, judges, about)
            columns = list(zip(*said.readings.values(), strict=True))
            area = size * size
            errors = [np.array([p.distortion for p in c]) / (3 * area) for c in columns]
            found.append(
                PatchBound(
                    name,
                    size,
                    vars(method)["steps"],
                    tuple(float(np.mean([p.rate for p in c])) / area for c in columns),
                    tuple(float(np.mean(-10.0 * np.log10(e))) for e in errors),
                    tuple(any(p.near_ceiling for p in c) for c in columns),
                    said.ceiling and said.ceiling / area,
                )
            )
    return found


def _sources(
    photographs: PictureSet, pictures: Sequence[Picture], size: int, seed: int
) -> tuple[Source, dict[str, Source], str]:
    """Patches to fit on, patches of each picture to read on, and what tells them from others."""
    rng = np.random.default_rng([seed, size])
    indices = np.unique(
        np.linspace(0, len(photographs) - 1, min(_PICTURES, len(photographs))).astype(int)
    )
    many = -(-_FITTED // len(indices))
    parts = []
    for index in indices:
        try:
            pixels = photographs.pixels(int(index))
        except ImageError:  # as in training, one that is broken is left out
            continue
        if min(pixels.shape[:2]) >= size:
            parts.append(cut_patches(pixels, size, many, rng, grey=False))
    if not parts:
        raise WaterfillError(f"no photograph to fit on of at least {size}×{size}")
    fitted = np.concatenate(parts)
    digest = hashlib.sha256(fitted.tobytes())
    judges = {}
    for number, picture in enumerate(pictures):
        read = cut_patches(picture.pixels, size, _READ, rng, grey=False)
        digest.update(read.tobytes())
        judges[f"{number} {picture.name}"] = _judge(fitted, read, picture.name)
    return _judge(fitted, fitted, "photographs"), judges, digest.hexdigest()


def _judge(fitted: Array, read: Array, name: str) -> Source:
    return Source(
        f"patches of {name}",
        fitted.shape[1],
        lambda count, rng: fitted[rng.integers(0, len(fitted), count)],
        lambda count, rng: read[:count],
        stored=len(fitted) + len(read),
    )


def gap_at_equal_psnr(bound: PatchBound, curve: Array) -> list[float]:
    """How far, in percent of rate, a curve (bpp, dB) lies from points that are no ceiling's."""
    order = np.argsort(curve[:, 1])
    rates, psnrs = curve[order, 0], curve[order, 1]
    shares = [
        100.0 * (math.exp(float(np.interp(psnr, psnrs, np.log(rates)))) / bpp - 1.0)
        for bpp, psnr, full in zip(bound.bpp, bound.psnr, bound.at_ceiling, strict=True)
        if not full and bpp > 0 and psnrs[0] <= psnr <= psnrs[-1]
    ]
    return [share for share in shares if math.isfinite(share)]
