"""The information-theoretic regulariser: −α·H_q(X|X̂), for any codec (paper 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from waterfill.codec.priors.source import SourceModel
from waterfill.errors import TrainingError

__all__ = ["UNITS", "Regulariser"]

#: What H_q is counted by: a pixel has as many dimensions as there are colours.
UNITS = ("dimension", "pixel")
#: Windows lie at multiples of this, as the cells of codecs do.
_GRID = 8
#: Pixels above this are not in [0, 1].
_BRIGHTEST = 1.5


class _Turned(torch.autograd.Function):
    """The identity whose gradient is multiplied by a factor, sign included."""

    @staticmethod
    def forward(ctx: object, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)  # type: ignore[attr-defined]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return factor * grad, None


class Regulariser(nn.Module):
    """−α·H_q(X|X̂), and the source model q that it is measured by.

    The codec minimises R + λD − α·H_q with q fixed; q maximises the likelihood of the originals
    with x̂ fixed. Both are gradients of one number, the cross-entropy H_q = E[−log₂ q(x|x̂)], taken
    with opposite signs where x̂ enters q. So one passage through q serves both steps of an
    iteration, and one call of ``backward`` on loss + ``regulariser(x, x_hat)``::

        regulariser = wf.Regulariser(0.1)
        learning = torch.optim.Adam(regulariser.parameters(), lr=1e-3)  # ten times the codec's
        for x in crops:
            x_hat, loss = codec(x)
            (loss + regulariser(x, x_hat)).backward()
            for one in (optimiser, learning):
                one.step()
                one.zero_grad()

    Afterwards it is thrown away: the codec is what it would be without.

    Parameters
    ----------
    alpha
        Weight α, in bits per pixel of the loss for each bit of H_q.
    source
        q; None for a hyperprior's counterpart. See
        :func:`~waterfill.codec.priors.source.source_model_for`.
    unit
        One of :data:`UNITS`. In bits per pixel α weighs as much as three times that per dimension,
        and the weights of the paper would outgrow λ.
    share
        Share of each picture that H_q is measured on, which takes that share of the time: a window
        drawn anew for each call. Over random crops its mean is that of the whole.

    Attributes
    ----------
    entropy
        H_q of the last batch, a mean in bits by ``unit``; NaN before.

    Raises
    ------
    TrainingError
        For a weight that is negative or no number, an unknown unit, a share outside (0, 1]; when
        called at first with pixels that are not in [0, 1].
    CodecError
        When called with batches of other shapes.
    """

    entropy: Tensor
    _pull: Tensor
    _power: Tensor
    _scale: Tensor

    def __init__(
        self,
        alpha: float,
        source: SourceModel | None = None,
        *,
        unit: str = "dimension",
        share: float = 0.25,
    ) -> None:
        super().__init__()
        if not 0 <= alpha < math.inf:
            raise TrainingError(f"alpha must be finite and at least 0, not {alpha}")
        if unit not in UNITS:
            raise TrainingError(f"the unit must be one of {', '.join(UNITS)}, not {unit}")
        if not 0 < share <= 1:
            raise TrainingError(f"a share of a picture lies in 0 … 1, not {share}")
        self.alpha, self.unit, self.share = alpha, unit, share
        self.source = source or SourceModel()
        self.entropy, self._pull, self._power = torch.full((3,), math.nan)
        self._checked = False

    def forward(
        self,
        x: Tensor,
        x_hat: Tensor,
        weight: Tensor | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Tensor:
        """−α times the mean of weight·H_q, a scalar to add to a loss.

        Parameters
        ----------
        x, x_hat
            Originals and reconstructions (B, planes, H, W) in [0, 1], 8-bit steps being 1/255.
        weight
            Of each picture's cost in the loss, (B,); None for 1. q learns from all alike.
        seeds
            Seeds of the windows, one for each picture; None draws them from torch's generator.
        """
        self.source.check(x, x_hat)
        if not self._checked:
            self._check(x)
        if self.share < 1:
            if seeds is None:
                seeds = torch.randint(1 << 31, (len(x),)).tolist()
            x, x_hat = self._windows(x, x_hat, seeds)
        dimensions = self.source.planes if self.unit == "pixel" else 1
        alpha = self.alpha * dimensions
        factor = x_hat.new_full((len(x_hat),), -alpha) if weight is None else -alpha * weight
        error = (x_hat - x).detach()
        self._power = 2.0 * 255.0**2 * error.square().mean((1, 2, 3))
        if alpha:
            seen = _Turned.apply(x_hat, factor[:, None, None, None])  # type: ignore[no-untyped-call]
            if seen.requires_grad:
                seen.register_hook(lambda gradient: self._note(gradient, error, alpha))
        else:  # not even a zero that an infinite gradient could spoil
            seen = x_hat.detach()
            self._pull = torch.zeros(len(x_hat), device=x_hat.device)
        entropy = self.source.bits_per_dimension(x, seen)
        self.entropy = entropy.detach().mean() * dimensions
        value = (factor * entropy).mean().detach()
        # The value is −αH's; of the two gradients each goes where it belongs.
        mean = entropy.mean()
        if mean.requires_grad:
            mean.register_hook(self._scaled)  # type: ignore[no-untyped-call]
        return value + (mean - mean.detach())

    def _windows(self, x: Tensor, x_hat: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A window of each picture and of its reconstruction."""
        sides = [max(_GRID, round(side * self.share**0.5 / _GRID) * _GRID) for side in x.shape[2:]]
        height, width = (min(a, b) for a, b in zip(sides, x.shape[2:], strict=True))
        found: list[tuple[Tensor, Tensor]] = []
        for one, other, seed in zip(x, x_hat, seeds, strict=True):
            room = np.subtract(x.shape[2:], (height, width)) // _GRID
            top, left = _GRID * np.random.default_rng(seed).integers(room + 1)
            part = (slice(None), slice(top, top + height), slice(left, left + width))
            found.append((one[part], other[part]))
        windows = (torch.stack(parts) for parts in zip(*found, strict=True))
        first, second = (w.contiguous(memory_format=torch.channels_last) for w in windows)
        return first, second

    def _scaled(self, gradient: Tensor) -> None:
        """Keep what the loss has been multiplied by, as a scaler and pieces of a batch do."""
        self._scale = gradient.detach()

    def _note(self, gradient: Tensor, error: Tensor, alpha: float) -> None:
        """Keep how far the gradient of H_q, before its turn, goes along the error."""
        along = (gradient * error).sum((1, 2, 3)) * len(error)
        self._pull = alpha * along / self._scale

    def tug(self, lambdas: Tensor | float) -> tuple[float, float]:
        """How hard regulariser and distortion pull on x̂, against each other along its error.

        Known of the last batch after ``backward``, means over its pictures: −α·H_q pulls by the
        first number where λ·255²·MSE pulls by the second. So the first over the second is the share
        of λ that the regulariser takes: near 0 it does nothing, beyond 1 the codec is paid for
        distortion. With a perfect q the share is α/(2 ln 2·MSE·λ) per dimension. Of single batches
        it is a ratio of what may be next to nothing: compare means over many.

        Parameters
        ----------
        lambdas
            λ of each picture (B,), or of all.
        """
        return float(self._pull.mean()), float((lambdas * self._power).mean())

    def _check(self, x: Tensor) -> None:
        """Pixels on another scale make H_q vanish, or drown all else. The first batch tells."""
        if not -0.5 <= float(x.detach().min()) <= float(x.detach().max()) <= _BRIGHTEST:
            raise TrainingError("the regulariser takes pixels in [0, 1], not 0 … 255")
        self._checked = True
