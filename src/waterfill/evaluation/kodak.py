"""Which pictures are the 24 Kodak photographs that published curves are means over."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["KODAK", "is_kodak"]

#: The first 16 digits of each one's :func:`~waterfill.evaluation.cache.fingerprint`.
KODAK = frozenset(
    {
        "033bf6571d1f6698",
        "05f78c904a20f1d6",
        "0c6598455f85576d",
        "106e47154c971567",
        "1c6f7139b1fd92ac",
        "32d36ddbce423802",
        "3c32cbfa0eae5cff",
        "41a4866adc5707e7",
        "49185638689dabf4",
        "54e31ab76ca6301c",
        "6b3618412f7ab9f8",
        "6ea06d0ee4a4ab2f",
        "6f57e5951cf19059",
        "784913098a3c215a",
        "97a69659de0d13dc",
        "987a4bfb5d6b8e12",
        "aa5251caaa803319",
        "bee7a88ab366fec4",
        "cd9dd8fbd6b5cba5",
        "d24d345b609963e2",
        "d3d5eed0e6a568ad",
        "e0ccc0aeb7425f4b",
        "f7b57fcf359b695c",
        "fd45a72745ec7a34",
    }
)


def is_kodak(fingerprints: Sequence[str]) -> bool:
    """Whether pictures are all 24, once each."""
    short = [one[:16] for one in fingerprints]
    return len(short) == len(KODAK) and set(short) == KODAK
