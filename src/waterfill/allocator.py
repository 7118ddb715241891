"""How the C library deals with the memory of large tensors."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_large_blocks"]


def keep_large_blocks() -> None:
    """Ask glibc to reuse the blocks of large tensors instead of returning them to the kernel.

    Fresh pages are zeroed by the kernel every time otherwise: a quarter of the time of a training
    step or of a transform. It is a setting of the whole process: training and the
    command line make it, loading the library doesn't.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        libc = ctypes.CDLL(None)
        trim, top_pad, mmap_threshold = -1, -2, -3
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim, (1 << 31) - 1)
        libc.mallopt(top_pad, 256 << 20)
    except (OSError, AttributeError):  # another libc: slower, not wrong
        return
