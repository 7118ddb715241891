"""Which weights a stream was made with: eight bytes that follow from what decides a codec alone."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import fields

import torch
from torch import Tensor

from waterfill.codec.config import CodecConfig

__all__ = ["identity"]


def identity(config: CodecConfig, tensors: Mapping[str, Tensor]) -> bytes:
    """Eight bytes that only this architecture with these tensors has.

    Neither the order of the tensors nor a file's other contents matter.

    Parameters
    ----------
    config
        The architecture. What is left at its default doesn't count, so that a field that comes
        later leaves older weights their identity.
    tensors
        Weights by name, and probability tables where they are stored with them; of each its name,
        type, shape and values count.
    """
    values = ((field, getattr(config, field.name)) for field in fields(config))
    chosen = {field.name: value for field, value in values if value != field.default}
    digest = hashlib.blake2b(digest_size=8)
    digest.update(json.dumps(chosen, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        kind = str(tensor.dtype).removeprefix("torch.")
        # This says how many bytes follow: no two lists of tensors read alike.
        digest.update(json.dumps([name, kind, list(tensor.shape)]).encode())
        digest.update(_octets(tensor).numpy().data)
    return digest.digest()


def _octets(tensor: Tensor) -> Tensor:
    """The bytes of a tensor of any type, low ones first, as files hold them."""
    octets = tensor.detach().cpu().reshape(-1, 1).view(torch.uint8)
    return octets.flip(1).contiguous() if sys.byteorder == "big" else octets
