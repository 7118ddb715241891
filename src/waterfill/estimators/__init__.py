"""Estimators of the rate–distortion function R(D) of a source, behind one door."""

from waterfill.estimators.curve import RDCurve, RDPoint, Status, Units
from waterfill.estimators.estimate import METHODS, all_bounds, bounds

__all__ = ["METHODS", "RDCurve", "RDPoint", "Status", "Units", "all_bounds", "bounds"]
