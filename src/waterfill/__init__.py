"""waterfill: how far an image codec is from the rate–distortion limit, and what holds it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from waterfill import theory
from waterfill.errors import (
    BitstreamError,
    CodecError,
    CurveError,
    ImageError,
    QualityError,
    TrainingError,
    WaterfillError,
)

if TYPE_CHECKING:
    from waterfill.codec.registry import decompress, load_codec
    from waterfill.estimators import RDCurve, bounds
    from waterfill.evaluation.curves import bd_rate
    from waterfill.ladder import Ladder, limits
    from waterfill.training.regulariser import Regulariser

__all__ = [
    "BitstreamError",
    "CodecError",
    "CurveError",
    "ImageError",
    "Ladder",
    "QualityError",
    "RDCurve",
    "Regulariser",
    "TrainingError",
    "WaterfillError",
    "bd_rate",
    "bounds",
    "decompress",
    "limits",
    "load_codec",
    "theory",
]

__version__ = "0.1.0"

# What needs torch or SciPy is imported at first use: theory and the command line's help stay quick.
_LAZY = {
    "bd_rate": "waterfill.evaluation.curves",
    "bounds": "waterfill.estimators",
    "decompress": "waterfill.codec.registry",
    "load_codec": "waterfill.codec.registry",
    "Ladder": "waterfill.ladder",
    "RDCurve": "waterfill.estimators",
    "Regulariser": "waterfill.training.regulariser",
    "limits": "waterfill.ladder",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        module = importlib.import_module(_LAZY[name])
        value = getattr(module, name)
        globals()[name] = value  # looked up once
        return value
    raise AttributeError(f"module 'waterfill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
