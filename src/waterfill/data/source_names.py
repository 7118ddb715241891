"""Sources by their names on a command line: a law with its settings, or a path."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from waterfill.data.idx import is_idx
from waterfill.data.images import IMAGE_SUFFIXES
from waterfill.data.sources import (
    Source,
    banana,
    beta,
    discrete,
    from_array,
    gaussian,
    laplacian,
    mnist,
    patches,
    sawbridge,
    sphere,
)
from waterfill.errors import WaterfillError

__all__ = ["open_source"]

Array = NDArray[np.float64]

_LARGEST_DIMENSION = 1 << 16


def open_source(spec: str | os.PathLike[str]) -> Source:
    """The source that a command line names.

    Parameters
    ----------
    spec
        ``gaussian:n=2,var=1``, ``gaussian:var=1.2+0.8``, ``gaussian:n=40,decay=0.5``,
        ``gaussian:n=2,rho=0.9``, ``laplacian:n=1,scale=1``, ``sphere:n=2,noise=0.1``, ``banana``,
        ``beta:a=2,b=2``, ``sawbridge:n=1024``, ``discrete:p=0.5+0.3+0.2``; or a path: an IDX file,
        a NumPy file, or a folder of pictures (``FOLDER,size=8,grey=1``).

    Raises
    ------
    WaterfillError
        If nothing is known by this name, a setting is unknown or out of range, or a file is
        missing or unreadable.
    """
    text = os.fspath(spec)
    name, _, rest = text.partition(":")
    if name in _LAWS:
        return _LAWS[name](_Settings(name, rest))
    bare, _, rest = text.partition(",")
    for whole, options in ((text, ""), (bare, rest)):
        path = Path(whole)
        if os.path.exists(path):
            return _from_path(path, _Settings(whole, options))
    if os.sep in text or Path(bare).suffix:
        raise WaterfillError(f"{text}: no such file or folder")
    raise WaterfillError(f"{text}: no source of this name ({', '.join(_LAWS)}, or a path)")


def _from_path(path: Path, settings: _Settings) -> Source:
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        size, grey = settings.whole("size", 8), settings.whole("grey", 1, least=0)
        settings.done()
        if grey > 1:
            raise WaterfillError(f"{path}: grey must be 0 or 1, not {grey}")
        return patches(path, size, bool(grey))
    settings.done()
    if is_idx(path):
        return mnist(path)
    if path.suffix.lower() != ".npy":
        raise WaterfillError(f"{path}: neither IDX (…idx3-ubyte), .npy, nor a folder of pictures")
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise WaterfillError(f"{path}: can't be read ({error})") from None
    return from_array(vectors, path.name)


class _Settings:
    """``key=value,…`` of a source's name."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._left: dict[str, str] = {}
        for item in filter(None, text.split(",")):
            key, equals, value = item.partition("=")
            if not equals or key in self._left:
                raise WaterfillError(f"{name}: {item!r} is not a setting (key=value, each once)")
            self._left[key] = value

    def _parsed(self, key: str, text: str) -> Array:
        try:
            return np.array([float(part) for part in text.split("+")])
        except ValueError:
            raise WaterfillError(f"{self._name}: {key}={text} is not a number") from None

    def numbers(self, key: str, default: str, *, least: float = 0.0) -> Array:
        text = self._left.pop(key, default)
        found = self._parsed(key, text)
        if not np.isfinite(found).all() or (found <= least).any():
            raise WaterfillError(f"{self._name}: {key}={text} must be above {least:g}")
        return found

    def number(self, key: str, default: float, *, least: float = 0.0) -> float:
        found = self.numbers(key, str(default), least=least)
        if found.size != 1:
            raise WaterfillError(f"{self._name}: {key} takes one number")
        return float(found[0])

    def whole(self, key: str, default: int, *, least: int = 1) -> int:
        text = self._left.pop(key, str(default))
        found = self._parsed(key, text)
        value = float(found[0])
        if found.size != 1 or not least <= value <= _LARGEST_DIMENSION or value != int(value):
            raise WaterfillError(
                f"{self._name}: {key} must be a whole number from {least} to "
                f"{_LARGEST_DIMENSION}, not {text}"
            )
        return int(value)

    def has(self, key: str) -> bool:
        return key in self._left

    def done(self) -> None:
        if self._left:
            raise WaterfillError(f"{self._name}: has no setting {', '.join(self._left)}")


def _gaussian(settings: _Settings) -> Source:
    told = settings.has("var")
    var = settings.numbers("var", "1")
    n = settings.whole("n", var.size)
    if var.size not in (1, n):
        raise WaterfillError(f"gaussian: {var.size} variances for n = {n}")
    var, rotation = np.broadcast_to(var, n).copy(), None
    kinds = [key for key in ("decay", "rho", "spread") if settings.has(key)]
    if told and kinds in (["decay"], ["spread"]):
        kinds.append("var")  # they say themselves what the variances are
    if len(kinds) > 1:
        raise WaterfillError(f"gaussian: {' and '.join(kinds)} don't go together")
    if kinds == ["decay"]:  # deviations 2 e^{−rk}, turned by some orthogonal matrix
        var = 4.0 * np.exp(-2.0 * settings.number("decay", 0.0) * np.arange(n))
        rotation = np.linalg.qr(np.random.default_rng(n).standard_normal((n, n)))[0]
    elif kinds == ["rho"]:  # neighbours correlated as in a first-order autoregression
        rho = settings.number("rho", 0.0, least=-1.0)
        if rho >= 1.0:
            raise WaterfillError("gaussian: rho must lie between −1 and 1")
        k = np.arange(n)
        covariance = np.sqrt(np.outer(var, var)) * rho ** np.abs(k[:, None] - k)
        var, rotation = np.linalg.eigh(covariance)
    elif kinds == ["spread"]:  # variances uniform on (0, spread)
        top = settings.number("spread", 2.0)
        var = np.random.default_rng(n).uniform(0.0, top, n)
    settings.done()
    return gaussian(var, rotation, f"Gaussian, n = {n}")


def _laplacian(settings: _Settings) -> Source:
    n, scale = settings.whole("n", 1), settings.number("scale", 1.0)
    settings.done()
    return laplacian(n, scale)


def _sphere(settings: _Settings) -> Source:
    n, noise = settings.whole("n", 2), settings.number("noise", 0.1)
    settings.done()
    return sphere(n, noise)


def _banana(settings: _Settings) -> Source:
    settings.done()
    return banana()


def _beta(settings: _Settings) -> Source:
    a, b = settings.number("a", 2.0), settings.number("b", 2.0)
    settings.done()
    return beta(a, b)


def _sawbridge(settings: _Settings) -> Source:
    n = settings.whole("n", 1024)
    settings.done()
    return sawbridge(n)


def _discrete(settings: _Settings) -> Source:
    p = settings.numbers("p", "0.5+0.5")
    settings.done()
    return discrete(p)


_LAWS: dict[str, Callable[[_Settings], Source]] = {
    "gaussian": _gaussian,
    "laplacian": _laplacian,
    "sphere": _sphere,
    "banana": _banana,
    "beta": _beta,
    "sawbridge": _sawbridge,
    "discrete": _discrete,
}
