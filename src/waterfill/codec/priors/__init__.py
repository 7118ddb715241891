"""Priors: what is known of each latent before it is coded, and what knowing it costs.

Side information is sent ahead; a context predicts from latents that are known already; densities
turn the two into the price of a symbol.
"""

from waterfill.codec.priors.context import Context, MaskedContext, NoContext, SpaceChannelContext
from waterfill.codec.priors.factorized import DeepFactorized, Factorized
from waterfill.codec.priors.prior import NoSideInformation, Prior, Sent
from waterfill.codec.priors.side import HyperLatent, SideInformation, integer_symbols

__all__ = [
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
    "SpaceChannelContext",
    "integer_symbols",
]
