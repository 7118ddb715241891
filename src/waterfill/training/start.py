"""Starting a run from the weights of another codec."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from waterfill.codec.config import CodecConfig
from waterfill.codec.model import Codec
from waterfill.codec.registry import load_codec
from waterfill.codec.transforms.blocks import FilteredAnalysis, FilteredSynthesis
from waterfill.data.sets import PictureSet
from waterfill.errors import TrainingError
from waterfill.training.klt import grow_from

__all__ = ["load_start", "start_from"]


def load_start(name: str, ours: CodecConfig) -> Codec:
    """The codec by name or file that one of the architecture ``ours`` can start from.

    It may differ in the qualities it covers, unless one of the two has gains and the other none; it
    may have no context where ``ours`` has one, and networks that are not told the quality; and of a
    ``klt`` it may have fewer latents, or filters of fewer pairs of convolutions: the further ones
    start by adding nothing. A context of
    space and channels starts by saying nothing, so that the other's prior is kept. A masked one
    makes means and scales by layers of its own, which start untrained: transforms and hyper-latent
    are kept, and what they predict is learned anew.

    Raises
    ------
    CodecError
        If there is no such codec.
    TrainingError
        If it has another architecture.
    """
    other = load_codec(name)
    theirs = other.config
    if _may_start(ours, theirs):
        return other
    has, wanted = theirs.to_dict(), ours.to_dict()
    differ = [part for part in has | wanted if has.get(part) != wanted.get(part)]
    listed = "; ".join(f"{part} = {has.get(part)}, not {wanted.get(part)}" for part in differ)
    raise TrainingError(f"{name}: has another architecture than the run ({listed})")


def _may_start(ours: CodecConfig, theirs: CodecConfig) -> bool:
    """Whether weights of one architecture are a start for another."""
    if ours.variable_rate != theirs.variable_rate or (theirs.conditional and not ours.conditional):
        return False
    # As mappings: of what is compared with ours, not all is an architecture.
    wanted = ours.to_dict()
    same = {name: wanted[name] for name in ("qualities", "conditional")}

    def alike(*names: str) -> bool:
        """Whether they differ in these and nothing else."""
        return theirs.to_dict() | same | {name: wanted[name] for name in names} == wanted

    plain = ours.transform == "klt" and ours.context == "none"
    more = all(few <= many for few, many in zip(theirs.pairs, ours.pairs, strict=True))
    return (
        alike()
        or (theirs.context == "none" and alike("context"))
        or (plain and theirs.m < ours.m and alike("m"))
        or (more and alike("pairs"))
    )


def start_from(codec: Codec, other: Codec, pictures: PictureSet, *, seed: int) -> str:
    """Take over the weights of a codec that :func:`load_start` gave, and return their identity.

    Parameters
    ----------
    codec
        The codec to be trained, just made.
    other
        Where it starts.
    pictures, seed
        For what further latents are made of.
    """
    if other.config.m < codec.config.m:
        grow_from(codec, other, pictures, seed=seed)
    else:  # a context that the other lacks keeps what it was made with
        codec.load_state_dict(codec.state_dict() | _fitted(other.state_dict(), codec.state_dict()))
        for transform, pairs in zip((codec.g_a, codec.g_s), other.config.pairs, strict=True):
            if isinstance(transform, FilteredAnalysis | FilteredSynthesis):
                transform.filter.silence(pairs)
    return other.weights_id.hex()


def _fitted(known: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Known tensors in the shapes that are wanted: a further input of a layer weighs nothing."""
    fitted = {}
    for name, tensor in known.items():
        fitted[name] = torch.zeros_like(wanted[name])
        fitted[name][tuple(slice(size) for size in tensor.shape)] = tensor
    return fitted
