"""Priors: what is known of each latent before it is coded, and what knowing it costs.

Side information is sent ahead; a context predicts from latents that are known already; densities
turn the two into the price of a symbol.
"""

from waterfill.codec.priors.context import Context, MaskedContext, NoContext, SpaceChannelContext
from waterfill.codec.priors.factorized import DeepFactorized, Factorized
from waterfill.codec.priors.prior import NoSideInformation, Prior, Sent
from waterfill.codec.priors.side import HyperLatent, SideInformation, integer_symbols
from waterfill.codec.priors.source import RELATIONS, SOURCE_MODELS, SourceModel, source_model_for

__all__ = [
    "RELATIONS",
    "SOURCE_MODELS",
    "Context",
    "DeepFactorized",
    "Factorized",
    "HyperLatent",
    "MaskedContext",
    "NoContext",
    "NoSideInformation",
    "Prior",
    "Sent",
    "SideInformation",
    "SourceModel",
    "SpaceChannelContext",
    "integer_symbols",
    "source_model_for",
]
