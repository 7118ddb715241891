"""Starting a run from the weights of another codec."""

from __future__ import annotations

from dataclasses import replace

from waterfill.codec.model import Codec
from waterfill.codec.registry import load_codec
from waterfill.data.sets import PictureSet
from waterfill.errors import TrainingError
from waterfill.training.klt import grow_from

__all__ = ["start_from"]


def start_from(codec: Codec, name: str, pictures: PictureSet, *, seed: int) -> str:
    """Take over the weights of a codec by name or file, and return their identity.

    It may differ in the qualities it covers, unless one of the two has gains and the other none; it
    may have no context where ``codec`` has one; and it may have fewer latents of a ``klt``. A
    context of space and channels starts by saying nothing, so that the other's prior is kept. A
    masked one makes means and scales by layers of its own, which start untrained: transforms and
    hyper-latent are kept, and what they predict is learned anew.

    Parameters
    ----------
    codec
        To be trained, just made.
    name
        Of the other.
    pictures, seed
        For what further latents are made of.

    Raises
    ------
    TrainingError
        If the other has another architecture.
    """
    other = load_codec(name)
    ours, theirs = codec.config, other.config
    alike = replace(theirs, qualities=ours.qualities)
    same_gains = ours.variable_rate == theirs.variable_rate
    if same_gains and alike == ours:
        codec.load_state_dict(other.state_dict())
    elif same_gains and theirs.context == "none" and replace(alike, context=ours.context) == ours:
        codec.load_state_dict(codec.state_dict() | other.state_dict())
    elif (
        same_gains
        and ours.transform == "klt"
        and ours.context == "none"
        and theirs.m < ours.m
        and replace(alike, m=ours.m) == ours
    ):
        grow_from(codec, other, pictures, seed=seed)
    else:
        raise TrainingError(
            f"{name}: has the architecture {theirs.to_dict()}, not {ours.to_dict()}"
        )
    return other.weights_id.hex()
