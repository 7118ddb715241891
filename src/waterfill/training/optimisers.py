"""What moves the weights: Adam, or Adam in the eigenbases of each weight's gradients (SOAP)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from waterfill.eigen import symmetric_eigen

__all__ = ["OPTIMISERS", "Soap", "make_optimiser", "slots_of"]

OPTIMISERS = ("adam", "soap")

#: Largest side of a weight that gets a basis: products with it cost its square.
_LARGEST_SIDE = 800


class Soap(torch.optim.Optimizer):
    """SOAP: Adam, run in the slowly turning eigenbases of Shampoo's preconditioner.

    Rate and distortion pull along directions that are not those of single weights. Adam scales each
    weight by itself and so takes many steps where this takes few; each costs more here: products
    with a basis for either side of a weight, and now and then a decomposition to turn the bases.

    A convolution is seen as an array of taps × output channels × input channels, or of outputs ×
    patches of inputs where those are small; each side has a basis of its own up to a size of 800.
    Biases, and whatever has another number of dimensions, are moved by Adam as it is. The first
    gradient of a weight gives it its bases and does not move it.

    Two things differ from the published rule, for latents that seldom wake and then matter much.
    Squares turn with the bases, in shares, where the paper leaves them in place; and a mean is held
    to what its squares allow. Without them a rare, large gradient can move a weight by thousands.

    Written here because runs have to resume bit for bit from a file of tensors: the state is
    tensors of known shapes alone, all of them contiguous.

    Parameters
    ----------
    groups
        Parameters, or groups of them with options of their own.
    lr
        Length of a step, as Adam's.
    betas
        Decay of the gradients' running mean and of their squares'; the latter also of the second
        moments whose eigenbases are used.
    eps
        Added to the root of the squares.
    look, turn
        Steps between looks at the second moments, and between turns of the bases towards their
        eigenvectors; the latter a multiple of the former.
    narrow
        Change bases in bfloat16: gradients of mixed precision have no more digits.

    References
    ----------
    N. Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", 2024, algorithm 3. For
    learned codecs: Y. Zhang, F. Zhu, "Leveraging Second-Order Curvature for Efficient Learned Image
    Compression", 2026.
    """

    def __init__(
        self,
        groups: Any,
        lr: float,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        look: int = 5,
        turn: int = 20,
        narrow: bool = False,
    ) -> None:
        options = {"lr": lr, "betas": betas, "eps": eps}
        super().__init__(groups, options | {"look": look, "turn": turn, "narrow": narrow})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all parameters that have a gradient. There is no closure to evaluate."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)

    def _move(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        slots, sides = self.state[parameter], _sides(parameter)
        fresh = not slots
        if fresh:
            slots.update(slots_of(self, parameter))
        array, taken = _array(grad), int(slots["step"])
        if sides and taken % group["look"] == 0:
            # A plain mean until there are enough of them, or the first would dominate for long.
            seen = 1 if fresh else 2 + taken // group["look"]
            weight = max(1.0 - group["betas"][1], 1.0 / seen)
            for side in sides:
                slots[f"second_{side}"].lerp_(_second_moment(array, side), weight)
        if sides and fresh:
            for side in sides:
                _, basis = symmetric_eigen(slots[f"second_{side}"])
                slots[f"basis_{side}"].copy_(basis.flip(1))
            # In bases of its own a gradient is diagonal: the rest of a step along it would be
            # rounding errors, normalised to full length.
            return
        if sides and taken and taken % group["turn"] == 0:
            self._turn(slots, sides)
        slots["step"] += 1
        taken += 1
        bases = [slots[f"basis_{side}"] for side in sides]
        if group["narrow"]:
            bases = [basis.bfloat16() for basis in bases]
        array = _turned(array, bases, sides)
        beta, beta_squares = group["betas"]
        mean, squares = slots["exp_avg"], slots["exp_avg_sq"]
        mean.lerp_(array, 1.0 - beta)
        squares.mul_(beta_squares).addcmul_(array, array, value=1.0 - beta_squares)
        unbiased = math.sqrt(1.0 - beta_squares**taken)
        root = squares.sqrt()
        # By Cauchy's inequality a mean can't be more than so many roots of the squares, but for one
        # that a turn of the bases has brought to where nothing had been.
        most = (1.0 - beta) / math.sqrt((1.0 - beta_squares) * (1.0 - beta**2 / beta_squares))
        mean = torch.clamp(mean, -most * root, most * root)
        move = mean / (root / unbiased).add_(group["eps"])
        move = _turned(move, [basis.T for basis in bases], sides)
        parameter.sub_(_like(move, parameter), alpha=group["lr"] / (1.0 - beta**taken))

    def _turn(self, slots: dict[str, Tensor], sides: list[int]) -> None:
        """Turn the bases towards today's eigenvectors, and what is kept in them with them."""
        for side in sides:
            basis, second = slots[f"basis_{side}"], slots[f"second_{side}"]
            grown = second @ basis
            # Power iteration finds the largest first, so they have to stand there.
            order = (basis * grown).sum(0).argsort(descending=True, stable=True)
            turned = torch.linalg.qr(grown[:, order]).Q
            change = basis.T @ turned
            slots["exp_avg"].copy_(_turned(slots["exp_avg"], [change], [side]))
            # Squares go along in shares, as those of uncorrelated coordinates do: to leave them
            # where they are would set the mean of a rare, large gradient beside next to nothing.
            shares = change.square()
            slots["exp_avg_sq"].copy_(_turned(slots["exp_avg_sq"], [shares], [side]))
            basis.copy_(turned)


def _shape(weight: Tensor) -> tuple[int, ...]:
    """Shape a weight is seen in: taps × outputs × inputs, few taps being joined to the inputs.

    The fewer sides, the better the bases: a patch of all inputs has directions that neither its
    taps nor its channels have.
    """
    if weight.ndim != 4:
        return tuple(weight.shape)
    outputs, inputs, height, width = weight.shape
    taps = height * width
    if taps * inputs <= _LARGEST_SIDE:
        return 1, outputs, taps * inputs
    return taps, outputs, inputs


def _array(weight: Tensor) -> Tensor:
    """A weight, or its gradient, in that shape."""
    shape = _shape(weight)
    if weight.ndim != 4:
        return weight.reshape(shape)
    # Taps before inputs is how channels last lie in memory.
    return weight.permute((0, 2, 3, 1) if shape[0] == 1 else (2, 3, 0, 1)).reshape(shape)


def _like(array: Tensor, weight: Tensor) -> Tensor:
    """What :func:`_array` made of a weight as a weight again."""
    if weight.ndim != 4:
        return array.reshape(weight.shape)
    outputs, inputs, height, width = weight.shape
    if len(array) == 1:
        return array.view(outputs, height, width, inputs).permute(0, 3, 1, 2)
    return array.view(height, width, outputs, inputs).permute(2, 3, 0, 1)


def _sides(weight: Tensor) -> list[int]:
    """The sides of a weight's array that get a basis."""
    if weight.ndim != 4:
        return []
    return [k for k, size in enumerate(_shape(weight)) if 1 < size <= _LARGEST_SIDE]


def _turned(array: Tensor, bases: list[Tensor], sides: list[int]) -> Tensor:
    """The coordinates of an array's sides in bases, whose columns are the new axes."""
    if not sides:
        return array
    turned = array.to(bases[0].dtype)
    for side, basis in zip(sides, bases, strict=True):
        if side == 0:
            turned = (basis.T @ turned.flatten(1)).view(array.shape)
        elif side == 1:
            turned = basis.T @ turned
        else:
            turned = (turned.flatten(0, 1) @ basis).view(array.shape)
    return turned.to(array.dtype)


def _second_moment(array: Tensor, side: int) -> Tensor:
    """Sum of outer products of an array's fibres along a side."""
    if side == 1:
        return torch.stack([tap @ tap.T for tap in array]).sum(0)
    rows = array.flatten(1).T if side == 0 else array.flatten(0, 1)
    return rows.T @ rows


def make_optimiser(
    name: str, groups: Any, rate: float, *, fused: bool, narrow: bool
) -> torch.optim.Optimizer:
    """An optimiser by its name, one of :data:`OPTIMISERS`."""
    if name == "soap":
        return Soap(groups, rate, narrow=narrow)
    return torch.optim.Adam(groups, lr=rate, fused=fused)


def slots_of(optimiser: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """State of an optimiser for a parameter: zeros, in the layout the optimiser keeps them in."""
    return dict(_slots(isinstance(optimiser, Soap), parameter))


def _slots(soap: bool, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
    # The fused Adam walks through memory: its slots must lie there as the parameter does.
    kept = parameter.new_zeros(_shape(parameter)) if soap else torch.zeros_like(parameter)
    yield "step", torch.zeros(())
    yield "exp_avg", kept
    yield "exp_avg_sq", kept.clone()
    for side in _sides(parameter) if soap else ():
        size = _shape(parameter)[side]
        yield f"basis_{side}", parameter.new_zeros(size, size)
        yield f"second_{side}", parameter.new_zeros(size, size)
