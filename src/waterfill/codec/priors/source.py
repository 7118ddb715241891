"""Source models q(x|x̂): what a reconstruction says of its original, by the means of a prior.

They are to pixels what a codec's prior is to its latents, and made of the same parts: x̂ stands
where side information stands, a network of it gives features, a context corrects them by pixels
that are known already, a Gaussian turns them into bits. So a source model can be *aligned* with a
prior: it knows of x what the prior knows of y (paper 2, supplementary §9, §10).
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from waterfill.codec.bounds import bounded
from waterfill.codec.channels import Crossing
from waterfill.codec.config import CodecConfig
from waterfill.codec.densities import dequantised_bits
from waterfill.codec.priors.context import Context, MaskedContext, NoContext, SpaceChannelContext
from waterfill.errors import CodecError

__all__ = ["RELATIONS", "SOURCE_MODELS", "SourceModel", "source_model_for"]

#: By what is predicted of a pixel, and from what.
SOURCE_MODELS = ("constant", "scale", "mean-scale", "space-channel", "masked", "masked-wide")
#: How a source model may stand to the prior of its codec.
RELATIONS = ("weaker", "aligned", "stronger")

#: Of each kind of side information, what it predicts.
_BY_SIDE = {"none": "constant", "scale": "scale"}
#: By what is aligned: (weaker, stronger). The paper takes the hyperprior's for the weaker of all
#: contexts, and the masked context for the stronger of all hyperpriors.
_NEIGHBOURS: dict[str, tuple[str | None, str]] = {
    "constant": (None, "mean-scale"),
    "scale": ("constant", "masked"),
    "mean-scale": ("scale", "masked"),
    "space-channel": ("mean-scale", "masked"),
    "masked": ("mean-scale", "masked-wide"),
}

#: Side in pixels of the cells that the network of x̂ works on.
_CELL = 4
#: 8-bit steps in a unit of what networks see and predict.
_UNIT = 8.0
#: Range of log₂ σ in 8-bit steps, and where it starts unless it is told better. Too narrow a q
#: pulls on x̂ far harder than a good one: so none is narrower than a step, and a young one is wide.
_LOG2_MIN, _LOG2_MAX, _LOG2_START = 0.0, 8.0, 5.0


def source_model_for(config: CodecConfig, relation: str = "aligned") -> str:
    """The source model that stands in a relation to the prior of a codec.

    Parameters
    ----------
    config
        Architecture of the codec.
    relation
        ``aligned``: predicts of pixels what the prior predicts of latents, by a context of the same
        kind. ``weaker``, ``stronger``: with less, or more, than that.

    Returns
    -------
    str
        One of :data:`SOURCE_MODELS`.

    Raises
    ------
    CodecError
        If there is no such relation, or nothing weaker.
    """
    if relation not in RELATIONS:
        raise CodecError(f"a source model is {', '.join(RELATIONS)}, not {relation!r}")
    aligned = _BY_SIDE.get(config.side, "mean-scale")
    if config.context != "none":
        aligned = config.context
    weaker, stronger = _NEIGHBOURS[aligned]
    if relation == "aligned":
        return aligned
    found = weaker if relation == "weaker" else stronger
    if found is None:
        raise CodecError("no source model is weaker than a factorised prior's")
    return found


class SourceModel(nn.Module):
    """A Gaussian for each pixel and colour of an original, given its reconstruction.

    ::

        x̂ ──network──▶ features ──▶ context ──parameters──▶ Gaussian ──▶ bits of x
                                       ▲                        │
                                       └──── x − x̂, causal ─────┘

    Parameters
    ----------
    kind
        ``constant``: mean x̂, a scale for each plane. ``scale``: mean x̂, scales from x̂.
        ``mean-scale``: both from x̂, as a hyperprior's. ``space-channel``, ``masked``: corrected by
        pixels that come before in the order of the contexts of those names; ``masked-wide`` has a
        wider network of x̂ besides.
    planes
        Colours.
    width
        Channels inside; of ``masked-wide`` three times as many.

    Attributes
    ----------
    log2_start
        log₂ σ in 8-bit steps that corrections are to: 5, or by :meth:`expect`. Stored, not trained.

    Raises
    ------
    CodecError
        For an unknown kind.
    """

    log2_start: Tensor

    def __init__(self, kind: str = "mean-scale", *, planes: int = 3, width: int = 32) -> None:
        super().__init__()
        if kind not in SOURCE_MODELS:
            raise CodecError(f"a source model is {', '.join(SOURCE_MODELS)}, not {kind!r}")
        self.kind, self.planes = kind, planes
        if kind == "masked-wide":
            width *= 3
        self.constant = nn.Parameter(torch.zeros(planes, 1, 1)) if kind == "constant" else None
        self.network = None if kind == "constant" else _network(planes, width, kind != "scale")
        self.context = _context(kind, planes)
        self.register_buffer("log2_start", torch.tensor(_LOG2_START))

    @torch.no_grad()
    def expect(self, mse: float) -> None:
        """Start from errors of a size, instead of spending hundreds of steps to come near it.

        Parameters
        ----------
        mse
            Mean squared error of reconstructions, pixels in [0, 1].
        """
        power = max(255.0**2 * mse, 0.0) + 1.0 / 12.0
        self.log2_start.fill_(0.5 * math.log2(power)).clamp_(_LOG2_MIN, _LOG2_MAX)

    def bits_per_dimension(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Mean of −log₂ q(x|x̂) over pixels and colours: the cross-entropy H_q, (B,).

        The density is that of pixels on their 8-bit scale, spread over their unit bins. That bounds
        the entropy of the integers from above, and stays differentiable where a reconstruction is
        all but exact. With pixels in [0, 1] in bins of one, next to nothing would be left of H_q.

        Parameters
        ----------
        x, x_hat
            Original and reconstruction (B, planes, H, W) in [0, 1]. What does not fill cells of
            4×4 pixels at the right and lower edge is left out.

        Raises
        ------
        CodecError
            For other shapes.
        """
        self.check(x, x_hat)
        height, width = (size // _CELL * _CELL for size in x.shape[2:])
        x, x_hat = x[..., :height, :width], x_hat[..., :height, :width]
        residual = (x - x_hat) * (255.0 / _UNIT)
        return self._sent(residual, self._features(x_hat)).bits.mean((1, 2, 3))

    def check(self, x: Tensor, x_hat: Tensor) -> None:
        """Check that there is something to measure.

        Raises
        ------
        CodecError
            As :meth:`bits_per_dimension`.
        """
        if x.shape != x_hat.shape or x.ndim != 4 or x.shape[1] != self.planes:
            raise CodecError(
                f"a source model takes two batches (B, {self.planes}, H, W), "
                f"not {tuple(x.shape)} and {tuple(x_hat.shape)}"
            )
        if min(x.shape[2:]) < _CELL:
            raise CodecError(f"a source model takes pictures of {_CELL}×{_CELL} pixels at least")

    def _features(self, x_hat: Tensor) -> Tensor:
        """Means and log₂ scales of each pixel and colour, (B, 2·planes, H, W), by x̂ alone."""
        if self.network is None:
            assert self.constant is not None
            log2_sigma = self.constant.expand_as(x_hat)
            return torch.cat([torch.zeros_like(log2_sigma), log2_sigma], 1)
        told: Tensor = self.network(x_hat - 0.5).float()
        if self.kind == "scale":
            return torch.cat([torch.zeros_like(told), told], 1)
        return told

    def _sent(self, residual: Tensor, features: Tensor) -> Crossing:
        """Residuals, and what each of them costs."""

        def send(parameters: Tensor, part: Tensor, channels: slice) -> Crossing:
            shift, log2_sigma = parameters.chunk(2, dim=1)
            log2_sigma = bounded(log2_sigma + self.log2_start, _LOG2_MIN, _LOG2_MAX)
            return Crossing(part, dequantised_bits((part - shift) * _UNIT, log2_sigma))

        # A handful of channels: in a narrow type, padded to the width of its units, twice as slow.
        with torch.autocast(residual.device.type, enabled=False):
            return self.context.exact(features, residual, send)


def _network(planes: int, width: int, means: bool) -> nn.Sequential:
    """x̂ → features. In cells, because a pixel's worth of arithmetic is then a codec's, not ten."""
    inside, outputs = planes * _CELL**2, (2 if means else 1) * planes * _CELL**2
    last = nn.Conv2d(width, outputs, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(cast(Tensor, last.bias))
    return nn.Sequential(
        nn.PixelUnshuffle(_CELL),
        nn.Conv2d(inside, width, 3, padding=1),
        nn.LeakyReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.LeakyReLU(),
        last,
        nn.PixelShuffle(_CELL),
    )


def _context(kind: str, planes: int) -> Context:
    if kind == "space-channel":
        return SpaceChannelContext(planes)
    if kind.startswith("masked"):
        return MaskedContext(planes, 2 * planes)
    return NoContext()
