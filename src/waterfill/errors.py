"""The errors a user can meet. Each message is one line that says what to do."""

from __future__ import annotations

__all__ = [
    "BitstreamError",
    "CodecError",
    "CurveError",
    "DivergedError",
    "ImageError",
    "Interrupted",
    "QualityError",
    "TrainingError",
    "WaterfillError",
]


class WaterfillError(Exception):
    """Base of every error that is the input's fault and not the program's.

    The command line prints the message as one line and exits with code 2.
    """


class BitstreamError(WaterfillError):
    """A stream that is cut, altered, foreign, or made for another codec."""


class ImageError(WaterfillError):
    """A picture that is missing, unreadable, or of a kind that is not supported."""


class CodecError(WaterfillError):
    """Weights or a codec name that can't be used."""


class CurveError(WaterfillError, ValueError):
    """Rate–distortion curves that can't be compared."""


class QualityError(WaterfillError, ValueError):
    """A quality out of range, or one that a codec doesn't cover."""


class TrainingError(WaterfillError):
    """A training run that can't start or go on."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after what was done has been kept, or where there is nothing to keep.

    Parameters
    ----------
    number
        Of the signal.
    finished
        Whether nothing was left to do when it came.
    """

    def __init__(self, number: int, *, finished: bool = False) -> None:
        super().__init__(number)
        self.number = number
        self.finished = finished

    @property
    def exit_code(self) -> int:
        """What a shell gives a program that ended so: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


class DivergedError(TrainingError):
    """A training run that has diverged beyond recovery."""
