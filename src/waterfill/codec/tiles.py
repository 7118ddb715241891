"""Tiles: large pictures in pieces of bounded memory, without seams.

A tile is coded by itself, but analysed and synthesised together with as much of its surroundings as
the networks look at, so that latents and pixels are those of the whole picture. How much that is,
the networks say themselves: what is not a number spreads exactly as far as they reach.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["TILE", "Surroundings", "Tile", "reach_of", "tiles_of"]

#: Side of a tile in pixels.
TILE = 1024


@dataclass(frozen=True)
class Tile:
    """A tile of a picture, in pixels; its far sides may be those of the picture."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left


def tiles_of(height: int, width: int, side: int = TILE) -> list[Tile]:
    """The tiles of a picture, row by row."""
    return [
        Tile(top, left, min(top + side, height), min(left + side, width))
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


@torch.no_grad()
def reach_of(
    network: Callable[[Tensor], Tensor], channels: int, *, cell: int, up: bool, limit: int
) -> int:
    """How many latents' cells around it an output of a network depends on.

    Parameters
    ----------
    network
        g_a, or g_s.
    channels
        Channels of its input.
    cell
        Side of a latent's cell in pixels.
    up
        Whether the input is latents (g_s) and not pixels (g_a).
    limit
        No network may look further.

    Raises
    ------
    ValueError
        If it does.
    """
    into, out = (1, cell) if up else (cell, 1)
    across, down = 2 * limit * into, 4 * into
    reach = 0
    for axis in (2, 3):
        for side in (-1, 1):
            shape = (down, across) if axis == 3 else (across, down)
            x = torch.zeros(1, channels, *shape, dtype=torch.float32)
            middle = across // 2
            x.narrow(axis, 0 if side < 0 else middle, middle).fill_(torch.nan)
            lost = network(x).isnan().any(1)[0].any(1 if axis == 2 else 0)
            clean = lost[out * limit :] if side < 0 else lost[: out * limit].flip(0)
            depth = int(clean.nonzero().max()) + 1 if clean.any() else 0
            reach = max(reach, -(-depth // out))
    if reach >= limit:
        raise ValueError(f"the network looks further than {limit} cells")
    return reach


class Surroundings:
    """Three rows of tiles, and cuts from them that cross their borders."""

    def __init__(
        self, above: Sequence[Tensor], current: Sequence[Tensor], below: Sequence[Tensor]
    ) -> None:
        self._rows = (above, current, below)

    def around(self, place: int, margin: int) -> tuple[Tensor, int, int]:
        """A tile with a margin wherever there are neighbours; the margin's rows and columns."""
        bands = []
        cuts = (slice(-margin, None), slice(None), slice(margin))
        for row, cut in zip(self._rows, cuts, strict=True):
            if not row or (margin == 0 and row is not self._rows[1]):
                continue
            pieces = [row[place][:, cut]]
            if place > 0 and margin:
                pieces.insert(0, row[place - 1][:, cut, -margin:])
            if place + 1 < len(row) and margin:
                pieces.append(row[place + 1][:, cut, :margin])
            bands.append(torch.cat(pieces, 2))
        top = min(margin, self._rows[0][place].shape[1]) if self._rows[0] else 0
        left = min(margin, self._rows[1][place - 1].shape[2]) if place else 0
        return torch.cat(bands, 1), top, left
