"""What mathematics alone says about the limits of transform coding. NumPy only.

Rates are in bits. Functions take scalars or arrays, broadcast, and give a float for scalars.
"""

from .blahut_arimoto import BlahutArimoto, blahut_arimoto
from .gaussian import (
    CorrelatedRates,
    TestChannel,
    correlated_rates,
    gaussian_distortion,
    gaussian_rate,
    gaussian_test_channel,
)
from .genie import clamped_variance_price, genie_gain, oracle_rate, variance_price
from .identities import (
    CodecSearch,
    EntropyAccount,
    conditional_entropy,
    entropy,
    entropy_account,
    search_codecs,
)
from .mismatch import (
    gaussian_code_length,
    gaussian_kl,
    test_channel_rate,
    variance_mismatch,
)
from .normal import erfc, log_ndtr, ndtr, normal_interval
from .quantiser import HIGH_RATE_GAP, quantiser_entropy, quantiser_mse, rate_gap
from .waterfill import ReverseWaterfill, reverse_waterfill

__all__ = [
    "HIGH_RATE_GAP",
    "BlahutArimoto",
    "CodecSearch",
    "CorrelatedRates",
    "EntropyAccount",
    "ReverseWaterfill",
    "TestChannel",
    "blahut_arimoto",
    "clamped_variance_price",
    "conditional_entropy",
    "correlated_rates",
    "entropy",
    "entropy_account",
    "erfc",
    "gaussian_code_length",
    "gaussian_distortion",
    "gaussian_kl",
    "gaussian_rate",
    "gaussian_test_channel",
    "genie_gain",
    "log_ndtr",
    "ndtr",
    "normal_interval",
    "oracle_rate",
    "quantiser_entropy",
    "quantiser_mse",
    "rate_gap",
    "reverse_waterfill",
    "search_codecs",
    "test_channel_rate",
    "variance_mismatch",
    "variance_price",
]
