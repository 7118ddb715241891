"""Tables I and II of paper 1: the layers, read off the networks that are trained here."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from waterfill.codec.model import Codec
from waterfill.codec.priors import MaskedContext
from waterfill.codec.registry import PRESETS
from waterfill.codec.transforms import GDN
from waterfill.provenance import environment
from waterfill.reproduce.result import Reproduction, Request, Table, Verdict

__all__ = ["layers_of", "table1", "table2"]

#: What the paper prints; a width that its text lost is "?".
_PAPER_1 = {
    "encoder": "conv c192 s2, GDN, conv c192 s2, GDN, conv c192 s2, GDN, conv c? s2",
    "decoder": "deconv c? s2, IGDN, deconv c192 s2, IGDN, deconv c192 s2, IGDN, deconv c3 s2",
    "hyper-encoder": "conv c192 s1, leaky ReLU, conv c192 s2, leaky ReLU, conv c192 s2",
    "hyper-decoder": "deconv c192 s2, leaky ReLU, deconv c192 s2, leaky ReLU, deconv c192 s1",
    "context prediction": "masked c? s1",
    "entropy parameters": "conv c640 s1, leaky ReLU, conv c512 s1, leaky ReLU, conv c384 s1",
}
_PAPER_2 = {
    "encoder": "conv c36 s1, GDN, conv c36 s2, GDN, conv c36 s2, GDN, conv c36 s2",
    "decoder": "deconv c36 s2, IGDN, deconv c36 s2, IGDN, deconv c36 s2, IGDN, deconv c1 s1",
}


def layers_of(network: nn.Module) -> str:
    """The layers of a network in the paper's words."""
    return ", ".join(_words(network.modules()))


def _words(modules: Iterable[nn.Module]) -> Iterable[str]:
    for module in modules:
        if isinstance(module, nn.ConvTranspose2d):
            yield f"deconv c{module.out_channels} s{module.stride[0]}"
        elif isinstance(module, nn.Conv2d):
            yield f"conv c{module.out_channels} s{module.stride[0]}"
        elif isinstance(module, GDN):
            yield "IGDN" if module.inverse else "GDN"
        elif isinstance(module, nn.LeakyReLU):
            yield "leaky ReLU"


def _networks(codec: Codec) -> dict[str, str]:
    """Our layers by the paper's names of networks."""
    found = {"encoder": layers_of(codec.g_a), "decoder": layers_of(codec.g_s)}
    if codec.prior.side is not None:
        found["hyper-encoder"] = layers_of(codec.prior.side.h_a)
        found["hyper-decoder"] = layers_of(codec.prior.side.h_s)
    context = codec.prior.context
    if isinstance(context, MaskedContext):
        found["context prediction"] = f"masked c{context.neighbours.out_channels} s1"
        found["entropy parameters"] = layers_of(context.layers)
    return found


def _agrees(ours: str, paper: str) -> bool:
    """Whether two lists of layers are one, where the paper's text lost nothing."""
    pairs = zip(ours.split(), paper.split(), strict=False)
    same_length = len(ours.split()) == len(paper.split())
    return same_length and all(a == b or b.startswith("c?") for a, b in pairs)


def _compared(
    name: str, title: str, codec: Codec, paper: dict[str, str], request: Request, note: str
) -> Reproduction:
    ours = _networks(codec)
    rows = tuple(
        (part, ours[part], text, "yes" if _agrees(ours[part], text) else "no")
        for part, text in paper.items()
    )
    different = [row[0] for row in rows if row[3] == "no"]
    verdict = Verdict(
        "the architecture is the paper's",
        "not reproduced" if different else "reproduced",
        f"different: {', '.join(different)}" if different else "layer by layer",
    )
    return Reproduction(
        name,
        title,
        request.scale,
        (),
        (),
        (Table(title, ("network", "ours", "paper", "equal"), rows),),
        (verdict,),
        (note,),
        environment(request.seed),
    )


def table1(request: Request) -> Reproduction:
    """The nets for photographs."""
    return _compared(
        "table1",
        "Networks for photographs (paper 1, table I)",
        Codec(PRESETS["table1-context"]),
        _PAPER_1,
        request,
        "The text of the paper lost some widths (?): ours are M = 192, or 320 at high rates, and "
        "2M for the context, as in Minnen 2018. The last layer of the hyper-decoder gives means "
        "and scales, 2M channels, where the paper's text says 192.",
    )


def table2(request: Request) -> Reproduction:
    """The nets for digits."""
    return _compared(
        "table2",
        "Networks for digits (paper 1, table II)",
        Codec(PRESETS["table2"]),
        _PAPER_2,
        request,
        "Digits of 28×28 are padded to 32×32.",
    )
