"""Codecs by name or file: bundled weights, presets, saving and loading."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import IO

import safetensors
import safetensors.torch
import torch
from PIL import Image
from safetensors.torch import load as tensors_from_bytes

from waterfill.bitstream import Container, Tables
from waterfill.codec.coding import StoredTables
from waterfill.codec.config import CodecConfig
from waterfill.codec.foreign import (
    DEFAULT_QUALITY,
    from_compressai,
    is_checkpoint,
    is_compressai,
    read_checkpoint,
)
from waterfill.codec.identity import identity
from waterfill.codec.model import Codec
from waterfill.data.images import MAX_PIXELS, bytes_in
from waterfill.devices import check_device
from waterfill.errors import BitstreamError, CodecError
from waterfill.files import unread, write_whole

__all__ = [
    "PRESETS",
    "as_codec",
    "codec_at",
    "decompress",
    "load_codec",
    "read_codec",
    "save_codec",
]

_FORMAT_KEY, _FORMAT = "waterfill.codec", "2"
_TABLES = "coding."  # in front of the names of tensors that hold probability tables

#: Architectures by name. ``table1`` is Table I of the rate–distortion limits paper, and ``table2``
#: its net for MNIST, each without and with its context.
PRESETS: dict[str, CodecConfig] = {
    "default": CodecConfig(
        n=64,
        m=480,
        hyper=64,
        transform="klt",
        context="space-channel",
        pairs=(3, 4),
        conditional=True,
    ),
    "table1": CodecConfig(n=192, m=192, hyper=192),
    "table1-context": CodecConfig(n=192, m=192, hyper=192, context="masked"),
    "table2": CodecConfig(n=36, m=36, hyper=36, transform="table2"),
    "table2-context": CodecConfig(n=36, m=36, hyper=36, transform="table2", context="masked"),
    "factorized": CodecConfig(n=128, m=192, side="none", qualities=(4.0, 4.0)),
    "scale-hyperprior": CodecConfig(n=128, m=192, hyper=128, side="scale"),
    "mean-scale": CodecConfig(n=128, m=192, hyper=128, side="mean-scale-wide"),
    "autoregressive": CodecConfig(
        n=192, m=192, hyper=192, side="mean-scale-wide", context="masked"
    ),
    "attention": CodecConfig(
        n=128, m=128, hyper=128, transform="attention", side="residual", context="masked"
    ),
    "attention-mixture": CodecConfig(
        n=128,
        m=128,
        hyper=128,
        transform="attention",
        side="residual",
        context="masked",
        mixtures=3,
    ),
    "space-channel": CodecConfig(
        n=192, m=320, hyper=192, transform="attention", context="space-channel"
    ),
    "medium": CodecConfig(n=128, m=192, hyper=128),
    "tiny": CodecConfig(n=16, m=24, hyper=16),
}


_TABLE_PARTS = ("first", "sizes", "frequencies")


def _stored_tables(tensors: dict[str, torch.Tensor]) -> StoredTables:
    """Take the probability tables out of the tensors of a file.

    Raises
    ------
    CodecError, KeyError
        If they are damaged, or not all there.
    """
    flat = {k: tensors.pop(k).long().numpy() for k in list(tensors) if k.startswith(_TABLES)}
    names = {key.removeprefix(_TABLES).rpartition(".")[0] for key in flat}
    return {
        name: Tables.from_flat(*(flat[f"{_TABLES}{name}.{part}"] for part in _TABLE_PARTS))
        for name in names
    }


def _holding(config: CodecConfig, tensors: Mapping[str, torch.Tensor]) -> Codec:
    """A codec that holds tensors; ``RuntimeError`` if they don't fit."""
    with torch.device("meta"):  # shapes alone: a lying header must not cost memory
        codec = Codec(config)
    codec.load_state_dict({name: t.float() for name, t in tensors.items()}, assign=True)
    return codec


def save_codec(codec: Codec, path: str | os.PathLike[str], facts: Mapping[str, str]) -> None:
    """Write a codec's weights as float16 safetensors, whole or not at all.

    The file also holds the probability tables that are derived from the weights through
    exponentials: all who load it code with the same ones, to the last bit. The same codec and facts
    make the same bytes, and the codec has the same ``weights_id`` whatever the facts are.

    Parameters
    ----------
    codec
        The codec.
    path
        File to write.
    facts
        Provenance, stored beside the widths in the file's header.
    """
    tensors = {k: v.detach().cpu().half().contiguous() for k, v in codec.state_dict().items()}
    metadata = {**facts, _FORMAT_KEY: _FORMAT, "config": json.dumps(codec.config.to_dict())}
    # Tables are those of the weights as they are stored.
    prior = _holding(codec.config, tensors).coded_prior()
    for name in prior.table_names():
        for part, values in zip(_TABLE_PARTS, prior.tables(name).flat(), strict=True):
            tensors[f"{_TABLES}{name}.{part}"] = torch.from_numpy(values).int()
    write_whole(path, _file_of(tensors, metadata))


def _file_of(tensors: dict[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file, the same bytes for the same content.

    The library sorts tensors, but leaves metadata in an order that differs from call to call.
    """
    data = safetensors.torch.save(tensors)
    end = 8 + int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8:end])}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # what follows is aligned
    return len(text).to_bytes(8, "little") + text + data[end:]


# Also inside a caller's inference mode, whose tensors have no versions: coded tables go by those.
@torch.inference_mode(False)
def _seeded(config: CodecConfig, seed: int = 0) -> Codec:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Codec(config)


@torch.inference_mode(False)  # as above
def read_codec(
    data: bytes, label: str, *, quality: float | None = None, unpickle: bool = False
) -> tuple[Codec, dict[str, str]]:
    """A codec and what is known of its provenance, from the bytes of a file of weights.

    Parameters
    ----------
    data
        What :func:`save_codec` wrote, or a state dict made elsewhere.
    label
        Name of the codec, and of the file in messages.
    quality, unpickle
        As for :func:`load_codec`.

    Raises
    ------
    CodecError
        If the bytes are not a codec's, don't fit together, or hold values that are not finite; if a
        quality is given for a codec that says its own.
    """
    foreign = _foreign_tensors(data, label, unpickle=unpickle)
    if foreign is not None:
        at = DEFAULT_QUALITY if quality is None else quality
        return from_compressai(foreign, label, quality=at), {}
    if quality is not None:
        raise CodecError(f"{label}: states its own qualities; don't give one")
    try:
        tensors = tensors_from_bytes(data)
        header_size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + header_size]).get("__metadata__", {})
        if metadata.get(_FORMAT_KEY) != _FORMAT:
            raise CodecError(f"{label}: not the weights of a waterfill codec")
        config = CodecConfig(**json.loads(metadata["config"]))
        for name, tensor in tensors.items():
            if tensor.is_complex():  # of which torch would take the real part
                raise CodecError(f"{label}: {name} holds complex numbers")
        weights_id = identity(config, tensors)
        tables = _stored_tables(tensors)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CodecError(f"{label}: not the weights of a waterfill codec ({error})") from None
    try:
        codec = _holding(config, tensors)
    except RuntimeError as error:
        reason = str(error).replace("\n", " ")
        raise CodecError(f"{label}: the weights don't fit the codec ({reason})") from None
    # What the codec holds: of some narrow types, torch can't say whether they are finite.
    broken = [name for name, t in codec.state_dict().items() if not torch.isfinite(t).all()]
    if broken:
        raise CodecError(f"{label}: {broken[0]} holds values that are not finite")
    prior = codec.coded_prior(tables)
    widths = {"y": config.m} if config.side == "none" else {}
    if set(tables) != set(prior.table_names()) or any(
        len(table) != widths.get(name, config.hyper) for name, table in tables.items()
    ):
        raise CodecError(f"{label}: the probability tables don't fit the codec")
    codec.weights_id = weights_id
    codec.name = label
    facts = {k: v for k, v in metadata.items() if k not in (_FORMAT_KEY, "config")}
    return codec.eval(), facts


def _foreign_tensors(data: bytes, label: str, *, unpickle: bool) -> dict[str, torch.Tensor] | None:
    """Tensors of weights that were made elsewhere; None if the file says that they weren't."""
    if is_checkpoint(data):
        if not unpickle:
            raise CodecError(
                f"{label}: a PyTorch checkpoint, which can run code when it is read; write its "
                "tensors with safetensors.torch.save_file, or read no more than tensors of it "
                "by load_codec(…, unpickle=True)"
            )
        return read_checkpoint(data, label)
    # Anything that is wrong with the file, reading it as a codec of our own will say.
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        if _FORMAT_KEY in header.pop("__metadata__", {}) or not is_compressai(header):
            return None
        return tensors_from_bytes(data)
    except (safetensors.SafetensorError, ValueError, AttributeError, TypeError, RecursionError):
        return None


def load_codec(
    name_or_path: str | os.PathLike[str] = "default",
    *,
    pretrained: bool = True,
    quality: float | None = None,
    unpickle: bool = False,
) -> Codec:
    """Load a codec by name or from a file.

    Parameters
    ----------
    name_or_path
        A name of :data:`PRESETS`, a safetensors file that ``waterfill train`` wrote, or a state
        dict of one of CompressAI's classic codecs (see
        :func:`~waterfill.codec.foreign.from_compressai`).
    pretrained
        ``False`` gives any architecture with seeded random weights.
    quality
        For weights made elsewhere, which don't state theirs: 4 unless given.
    unpickle
        Also read PyTorch checkpoints (``.pth``, ``.pt``, ``.tar``), by the loader that is
        restricted to tensors.

    Returns
    -------
    Codec
        In evaluation mode, on the processor, float32.

    Raises
    ------
    CodecError
        If the name is unknown, nothing is bundled under it, the file is not a codec's, or a quality
        is given for a codec that says its own.
    QualityError
        If the quality doesn't lie in 1 … 8.
    """
    try:
        name = os.fsdecode(name_or_path)
    except TypeError:
        kind = type(name_or_path).__name__
        raise CodecError(f"{kind} is neither a codec's name nor a path") from None
    if name in PRESETS and not pretrained:
        if quality is not None:
            raise CodecError(f"{name}: states its own qualities; don't give one")
        codec = _seeded(PRESETS[name])
        codec.name = f"{name} (untrained)"
        return codec.eval()
    data = _weights(name, pretrained=pretrained)
    if not pretrained:
        raise CodecError(f"{name}: is a file of weights; pretrained=False takes an architecture")
    return read_codec(data, name, quality=quality, unpickle=unpickle)[0]


def codec_at(
    name_or_path: str | os.PathLike[str], quality: float | None, device: str = "cpu"
) -> Codec:
    """Load a codec that is to be used at a quality.

    Weights that were made elsewhere don't say what they were made for, and are taken to be of this
    quality; a codec that says which it covers is what :func:`load_codec` gives.

    Parameters
    ----------
    name_or_path
        As for :func:`load_codec`.
    quality
        From 1 to 8; None for the default of :func:`load_codec`.
    device
        Where its transforms are to compute, as for :func:`~waterfill.devices.check_device`.

    Raises
    ------
    CodecError, QualityError
        As :func:`load_codec`.
    WaterfillError
        If there is no such device here.
    """
    place = check_device(device, torch.float32)
    name = os.fsdecode(name_or_path)
    data = _weights(name)
    if _foreign_tensors(data, name, unpickle=False) is None:
        quality = None
    return read_codec(data, name, quality=quality)[0].to(place)


def _weights(name: str, *, pretrained: bool = True) -> bytes:
    """The file of weights of a codec, by its name or path.

    Raises
    ------
    CodecError
        If there is no such codec or file.
    """
    if name in PRESETS:
        bundled = _bundled(name)
        if not bundled.is_file():
            raise CodecError(f"{name}: no weights are bundled for it; give a file of weights")
        return bundled.read_bytes()
    path = Path(name)
    if (weights := path / "codec.safetensors").is_file():  # of a run
        raise CodecError(f"{name}: is a folder; its weights are {weights}")
    if not path.is_file():
        known = [one for one in PRESETS if not pretrained or _bundled(one).is_file()]
        which = " with bundled weights" if pretrained else ""
        raise CodecError(f"{name}: neither a file nor a codec's name{which} ({', '.join(known)})")
    return path.read_bytes()


def _bundled(name: str) -> Traversable:
    return resources.files("waterfill.codec") / "weights" / f"{name}.safetensors"


def as_codec(codec: Codec | str | os.PathLike[str]) -> Codec:
    """A codec, its name, or its file.

    Raises
    ------
    CodecError
        As :func:`load_codec`, and for anything else.
    """
    if isinstance(codec, str | os.PathLike):
        return load_codec(codec)
    if isinstance(codec, Codec):
        return codec
    raise CodecError(f"{type(codec).__name__} is no codec; pass a Codec, a name or a file")


@cache
def _default() -> Codec:
    """The bundled codec, apart from those that users have loaded, which they may change."""
    return load_codec()


def decompress(
    data: bytes | bytearray | memoryview | str | os.PathLike[str] | IO[bytes],
    *,
    codec: Codec | str | os.PathLike[str] | None = None,
) -> Image.Image:
    """Decode a stream.

    Parameters
    ----------
    data
        What :meth:`Codec.compress` returned; the path of a file of that, or the file, open.
    codec
        The codec that made it, its name, or its file of weights; by default the bundled one.
        Weights that don't say their quality are taken to be of the stream's.

    Returns
    -------
    PIL.Image.Image
        Mode ``RGB``, or ``L`` for a stream of a grey picture; of the original's size.

    Raises
    ------
    BitstreamError
        If the stream is foreign, cut, altered, or made with other weights; if there is no such
        file.
    CodecError
        As :func:`load_codec`.
    """
    container = Container.unpack(_stream(data), max_pixels=MAX_PIXELS)
    if codec is None:
        made_by = _default()
    elif isinstance(codec, str | os.PathLike):
        made_by = codec_at(codec, container[0].quality)
    else:
        made_by = as_codec(codec)
    return made_by.decompress(container).to_pil()


def _stream(data: object) -> bytes:
    if isinstance(data, str | os.PathLike):
        path = Path(data)
        try:
            if path.exists() and not path.is_file():
                raise BitstreamError(f"{path}: is not a file")
            return path.read_bytes()
        except OSError as error:
            raise BitstreamError(unread(path, error)) from None
    found = bytes_in(data)
    if found is None:
        raise BitstreamError(f"{type(data).__name__} is no stream; pass its bytes, or a path")
    return found
