"""Bytes ⇄ symbols: integer probability tables, range coding, and the container around them.

This floor knows nothing of networks. It is given symbols and the row of the table that each is
coded with, and gives them back.
"""

from waterfill.bitstream.coder import SymbolReader, SymbolWriter
from waterfill.bitstream.container import Container, Header
from waterfill.bitstream.tables import Tables

__all__ = ["Container", "Header", "SymbolReader", "SymbolWriter", "Tables"]
