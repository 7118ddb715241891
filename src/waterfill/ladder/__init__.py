"""The ladder: the same picture through one codec after another, each idealised in one part."""

from waterfill.ladder.measure import Ladder, limits
from waterfill.ladder.rungs import LADDER, Rung, Status

__all__ = ["LADDER", "Ladder", "Rung", "Status", "limits"]
