"""Bytes ⇄ symbols: integer probability tables, range coding, and the container around them.

This floor knows nothing of networks. It is given symbols and the distribution that each is coded
with, and gives them back.
"""

from waterfill.bitstream.coder import Distribution, SymbolReader, SymbolWriter
from waterfill.bitstream.container import Container, Header
from waterfill.bitstream.mixtures import Mixtures
from waterfill.bitstream.tables import Rows, Tables, gaussian_tables
from waterfill.bitstream.trellis import Trellis

__all__ = [
    "Container",
    "Distribution",
    "Header",
    "Mixtures",
    "Rows",
    "SymbolReader",
    "SymbolWriter",
    "Tables",
    "Trellis",
    "gaussian_tables",
]
