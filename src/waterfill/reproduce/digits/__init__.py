"""Digits: the limits of paper 1 beside estimators of R(D)."""

from waterfill.reproduce.digits.figure import fig5c

__all__ = ["fig5c"]
