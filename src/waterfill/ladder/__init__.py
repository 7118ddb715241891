"""The ladder: the same picture through one codec after another, each idealised in one part."""

from waterfill.ladder.adapters import Analysis, ContextCodec, TransformCodec
from waterfill.ladder.measure import limits
from waterfill.ladder.result import Ladder
from waterfill.ladder.rungs import LADDER, Rung, Status

__all__ = [
    "LADDER",
    "Analysis",
    "ContextCodec",
    "Ladder",
    "Rung",
    "Status",
    "TransformCodec",
    "limits",
]
