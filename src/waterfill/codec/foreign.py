"""Weights made elsewhere: the classic codecs of CompressAI.

A state dict of CompressAI 1.2.8 is a mapping from names to tensors and nothing else. Six of its
architectures differ in their names and shapes, so these tell which one it is; every tensor then
finds its place in a codec of the same architecture here. What differs between the two is undone in
the weights:

* Their networks predict scale, then mean; ours mean, then scale.
* β and γ of GDN are stored in another parametrisation.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from waterfill.bitstream.container import QUALITY_STEPS
from waterfill.codec.config import CodecConfig
from waterfill.codec.gains import check_quality
from waterfill.codec.identity import identity
from waterfill.codec.model import Codec
from waterfill.codec.priors import DeepFactorized, HyperLatent, MaskedContext, Prior
from waterfill.codec.transforms import GDN
from waterfill.codec.transforms.residual import (
    Attention,
    Bottleneck,
    ResidualBlock,
    ResidualDown,
    ResidualUp,
)
from waterfill.errors import CodecError

__all__ = [
    "DEFAULT_QUALITY",
    "from_compressai",
    "is_checkpoint",
    "is_compressai",
    "read_checkpoint",
]

#: Quality that weights are assumed to be trained for unless told: 4, λ = .013.
DEFAULT_QUALITY = 4.0

#: What parts are called there, by the kind of module they belong to; others have the same names.
_NAMES: dict[type[nn.Module], dict[str, str]] = {
    Codec: {"prior": ""},
    Prior: {"side": "", "factorized": "entropy_bottleneck", "context": ""},
    HyperLatent: {"density": "entropy_bottleneck"},
    DeepFactorized: {"centre": "quantiles"},
    MaskedContext: {"neighbours": "context_prediction", "layers": "entropy_parameters"},
    GDN: {"root_beta": "beta", "root_gamma": "gamma"},
    ResidualBlock: {"first": "conv1", "second": "conv2"},
    ResidualDown: {"first": "conv1", "second": "conv2", "norm": "gdn"},
    ResidualUp: {"first": "subpel_conv", "second": "conv", "norm": "igdn", "skip": "upsample"},
    Attention: {"trunk": "conv_a", "mask": "conv_b"},
    Bottleneck: {"enter": "conv.0", "inner": "conv.2", "leave": "conv.4"},
}

#: What follows from the rest, or is the same in all: tables for coding, masks, bounds.
_DERIVED = {
    "_offset",
    "_quantized_cdf",
    "_cdf_length",
    "scale_table",
    "scale_bound",
    "target",
    "pedestal",
    "mask",
}

#: The parts of a factorised density under older names, as in ``_matrix0`` or ``_matrices.0``.
_OLD = re.compile(r"^(entropy_bottleneck)\._?(matri|bias|factor)(?:x|ces|es|s)?\.?(\d+)$")
_NEW = {"matri": "matrices", "bias": "biases", "factor": "factors"}

#: Bounds of GDN's parameters there, before squaring; what is subtracted afterwards.
_PEDESTAL = 2.0**-36
_GAMMA_BOUND, _BETA_BOUND = math.sqrt(_PEDESTAL), math.sqrt(1e-6 + _PEDESTAL)


def is_checkpoint(data: bytes) -> bool:
    """Whether bytes are what ``torch.save`` writes, now (a zip) or before version 1.6 (a pickle).

    A safetensors file can begin with the byte of a pickle, but not have its brace in the ninth.
    """
    return data.startswith(b"PK\x03\x04") or (data.startswith(b"\x80") and data[8:9] != b"{")


def read_checkpoint(data: bytes, label: str) -> dict[str, Tensor]:
    """The tensors of a PyTorch checkpoint, by the restricted loader, which runs no code.

    Parameters
    ----------
    data
        The file: a state dict, or a dictionary that holds one under ``state_dict``, as training
        scripts write it.
    label
        Name of the file, for messages.

    Raises
    ------
    CodecError
        If it is damaged, or holds anything besides names and tensors.
    """
    try:
        # These weights were published as checkpoints, and nothing else reads those. Only
        # unpickle=True gets here, and weights_only builds tensors and runs no code.
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:
        # A file can raise any kind of exception. Torch's message advises loading it without
        # restriction, which must not be passed on.
        raise CodecError(f"{label}: damaged, or more than tensors in a dictionary") from None
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping):
        raise CodecError(f"{label}: holds no dictionary of tensors")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CodecError(f"{label}: {name!r} is not the name of a tensor")
    return dict(found)


def is_compressai(names: Iterable[str]) -> bool:
    """Whether names of tensors are those of a CompressAI codec, though maybe not one that we know.

    All have an analysis transform and an entropy bottleneck.
    """
    parts = {_current(name).partition(".")[0] for name in names}
    return {"g_a", "entropy_bottleneck"} <= parts


def _current(name: str) -> str:
    """A tensor's name as CompressAI 1.2.8 has it, from older ones and those of DataParallel."""
    name = name.removeprefix("module.").replace(".downsample.", ".skip.")
    if old := _OLD.match(name):
        return f"{old[1]}.{_NEW[old[2]]}.{old[3]}"
    return name


def _is_derived(name: str) -> bool:
    return any(part in _DERIVED or "lower_bound" in part for part in name.split("."))


def from_compressai(
    state: Mapping[str, Tensor], label: str, *, quality: float = DEFAULT_QUALITY
) -> Codec:
    """A codec from a state dict of CompressAI 1.2.8.

    ``bmshj2018-factorized``, ``bmshj2018-hyperprior``, ``mbt2018-mean``, ``mbt2018``,
    ``cheng2020-anchor`` and ``cheng2020-attn`` are known by the names and shapes of their tensors.

    The codec keeps their float32 weights, and computes its tables of z (of y where there is none)
    on the machine it runs on; between machines whose exponentials differ in the last bit, a stream
    can fail its checksum. A file by :func:`~waterfill.codec.registry.save_codec` stores the tables,
    beside weights in float16.

    Parameters
    ----------
    state
        Names to tensors, on any device. Names may have the prefix ``module.`` of DataParallel, and
        parts of a factorised density the names they had in older versions. Tables and bounds that
        follow from the weights are ignored.
    label
        Name of the codec, and of the file in messages.
    quality
        What the weights were made for: a state dict doesn't say its λ. 4 unless given. Nothing but
        limits that depend on λ, and symbols that are chosen by it (``effort``), depends on it.

    Returns
    -------
    Codec
        With the same ``weights_id`` for the same weights and quality, however they were stored.

    Raises
    ------
    CodecError
        If tensors are missing, unknown, of other shapes or types, or not finite: the first of them.
    QualityError
        If the quality doesn't lie in 1 … 8.

    References
    ----------
    Bégaint et al., "CompressAI: a PyTorch library and evaluation platform for end-to-end
    compression research", arXiv:2011.03029, 2020, https://github.com/InterDigitalInc/CompressAI.
    Of the architectures: Ballé et al., ICLR 2018; Minnen et al., NeurIPS 2018; Cheng et al., CVPR
    2020.
    """
    # Streams carry a quality in such steps; one in between could never be asked for.
    quality = round(check_quality(quality) * QUALITY_STEPS) / QUALITY_STEPS
    left: dict[str, tuple[str, Tensor]] = {}
    for given, tensor in state.items():
        name = _current(given)
        if name in left:
            raise CodecError(f"{label}: {given} is there twice, also as {left[name][0]}")
        if not _is_derived(name):
            left[name] = given, tensor
    try:
        config = _config_of({name: tuple(t.shape) for name, (_, t) in left.items()}, quality)
    except KeyError as error:
        raise CodecError(
            f"{label}: not a codec that is known: {error.args[0]} is missing"
        ) from None
    except ValueError as error:
        raise CodecError(f"{label}: not a codec that is known: {error}") from None

    with torch.device("meta"):
        codec = Codec(config)
    tensors: dict[str, Tensor] = {}
    convert = _conversions(codec)
    for ours, theirs, shape in _pairs(codec):
        if theirs not in left:
            raise CodecError(f"{label}: {theirs} is missing")
        given, tensor = left.pop(theirs)
        tensors[ours] = _converted(tensor, shape, convert.get(ours), f"{label}: {given}")
    if left:
        raise CodecError(f"{label}: {next(iter(left.values()))[0]} is not part of such a codec")

    codec.load_state_dict(tensors, assign=True)
    codec.weights_id = identity(config, tensors)
    codec.name = label
    return codec.eval()


def _config_of(shapes: Mapping[str, tuple[int, ...]], quality: float) -> CodecConfig:
    """The architecture that names and shapes are those of.

    Raises
    ------
    KeyError, ValueError
        If none.
    """

    def outputs(name: str) -> int:
        if not shapes[name]:
            raise ValueError(f"{name} is a single number")
        return shapes[name][0]

    modules = {name.partition(".")[0] for name in shapes}
    masked = bool({"context_prediction", "entropy_parameters"} & modules)
    if "g_a.0.conv1.weight" in shapes:
        n = m = outputs("g_a.0.conv1.weight")
        transform = "attention" if any(".conv_a." in name for name in shapes) else "residual"
        side, masked = "residual", True
    else:
        n, m = outputs("g_a.0.weight"), outputs("g_a.6.weight")
        transform = "table1"
        if not {"h_a", "h_s"} & modules:
            side = "none"
        else:
            scales_alone = not masked and outputs("h_s.4.weight") == m
            side = "scale" if scales_alone else "mean-scale-wide"
    return CodecConfig(
        n=n,
        m=m,
        hyper=n,
        transform=transform,
        side=side,
        context="masked" if masked else "none",
        linear_scale=side != "none",
        centred=False,
        qualities=(quality, quality),
    )


class _Pair(NamedTuple):
    """A tensor's name here and there, and its shape there."""

    ours: str
    theirs: str
    shape: tuple[int, ...]


def _pairs(module: nn.Module, ours: str = "", theirs: str = "") -> Iterator[_Pair]:
    """All tensors of a module."""
    known = next((names for kind, names in _NAMES.items() if isinstance(module, kind)), {})

    def there(name: str) -> str:
        return ".".join(part for part in (theirs, known.get(name, name)) if part)

    for name, tensor in [*module.named_parameters("", False), *module.named_buffers("", False)]:
        shape = tuple(tensor.shape)
        # There, two more quantiles lie on either side of the median.
        yield _Pair(ours + name, there(name), (*shape, 1, 3) if name == "centre" else shape)
    for name, child in module.named_children():
        yield from _pairs(child, f"{ours}{name}.", there(name))


_Conversion = Callable[[Tensor], Tensor]


def _conversions(codec: Codec) -> dict[str, _Conversion]:
    """What happens to single tensors on the way, in float64, by their names here."""
    convert: dict[str, _Conversion] = {}
    for name, module in codec.named_modules():
        if isinstance(module, GDN):
            convert[f"{name}.root_gamma"] = _gamma
            convert[f"{name}.root_beta"] = _beta
        elif isinstance(module, DeepFactorized):
            convert[f"{name}.centre"] = _median
    config = codec.config
    if config.predicts_means:
        if isinstance(codec.prior.context, MaskedContext):
            last = _last_with_weights(codec.prior.context.layers, "prior.context.layers")
        else:
            assert codec.prior.side is not None
            last = _last_with_weights(codec.prior.side.h_s, "prior.side.h_s")
        # Scales, then means, become means, then scales.
        for part in ("weight", "bias"):
            convert[f"{last}.{part}"] = lambda rows: rows.roll(config.m, 0)
    return convert


def _last_with_weights(network: nn.Module, name: str) -> str:
    """The last layer with weights of a network, whatever shuffles its outputs afterwards."""
    *_, last = (path for path, _ in network.named_parameters(name))
    return last.rpartition(".")[0]


def _gamma(raw: Tensor) -> Tensor:
    return GDN.root_of_gamma(raw.clamp_min(_GAMMA_BOUND).square() - _PEDESTAL)


def _beta(raw: Tensor) -> Tensor:
    return GDN.root_of_beta(raw.clamp_min(_BETA_BOUND).square() - _PEDESTAL)


def _median(quantiles: Tensor) -> Tensor:
    return quantiles[:, 0, 1]


def _converted(
    tensor: Tensor, shape: tuple[int, ...], convert: _Conversion | None, what: str
) -> Tensor:
    """A tensor of a codec from one of theirs: float32, contiguous, and nobody else's."""
    if tuple(tensor.shape) != shape:
        sizes, expected = ("×".join(map(str, s)) or "()" for s in (tensor.shape, shape))
        raise CodecError(f"{what} has the shape {sizes}, not {expected}")
    if tensor.layout != torch.strided or not tensor.is_floating_point() or tensor.is_meta:
        raise CodecError(f"{what} does not hold floating-point numbers")
    found = tensor.detach().to("cpu", torch.float32, copy=True)
    if not bool(torch.isfinite(found).all()):
        raise CodecError(f"{what} holds values that are not finite")
    if convert is not None:
        found = convert(found.double()).float()
    return found.contiguous()
