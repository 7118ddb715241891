"""Transforms: the networks g_a, g_s, h_a, h_s, and nothing else.

A transform maps a picture to latents or back. It knows nothing of rates, quantisation or bytes.
"""

from waterfill.codec.transforms.blocks import BLOCK, FilteredAnalysis, FilteredSynthesis
from waterfill.codec.transforms.convolutional import table1, table2
from waterfill.codec.transforms.gdn import GDN
from waterfill.codec.transforms.hyper import hyper_analysis, hyper_residual, hyper_synthesis
from waterfill.codec.transforms.residual import residual

__all__ = [
    "BLOCK",
    "GDN",
    "FilteredAnalysis",
    "FilteredSynthesis",
    "hyper_analysis",
    "hyper_residual",
    "hyper_synthesis",
    "residual",
    "table1",
    "table2",
]
