"""How the C library deals with the memory of large tensors."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["keep_large_blocks", "release_free_blocks"]


def _of_glibc(name: str) -> Callable[..., Any]:
    """A function of glibc; one that does nothing where there is another libc."""
    try:
        if sys.platform.startswith("linux"):
            found: Callable[..., Any] = getattr(ctypes.CDLL(None), name)
            return found
    except (OSError, AttributeError):
        pass
    return lambda *_: None


def keep_large_blocks() -> None:
    """Ask glibc to reuse the blocks of large tensors instead of returning them to the kernel.

    Fresh pages are zeroed by the kernel every time otherwise: a quarter of the time of a training
    step or of a transform. No block is mapped by itself any more, since the size from which blocks
    are can't be set above 32 MiB, which tensors of a step exceed. It is a setting of the whole
    process: training and the command line make it, loading the library doesn't.
    """
    set_option = _of_glibc("mallopt")
    trim, top_pad, mmap_max = -1, -2, -4
    set_option(mmap_max, 0)
    set_option(trim, (1 << 31) - 1)
    set_option(top_pad, 256 << 20)


def release_free_blocks() -> None:
    """Have glibc return to the kernel what has been freed, wherever in its heaps that lies.

    What is freed between blocks that are kept adds up otherwise: the latents of a large picture
    live on while what is made of each tile comes and goes. The next tile takes a little longer,
    whose pages are fresh.
    """
    _of_glibc("malloc_trim")(0)
