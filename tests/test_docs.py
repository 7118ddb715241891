"""What the documentation shows is what works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]


class Model(nn.Module):
    """The simplest model that the page could mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down, self.up = nn.Conv2d(3, 8, 16, stride=16), nn.ConvTranspose2d(8, 3, 16, stride=16)
        with torch.no_grad():
            self.down.weight.mul_(10)

    def encode(self, x: Tensor) -> Tensor:
        return self.down(x)  # type: ignore[no-any-return]

    def decode(self, y: Tensor) -> Tensor:
        return self.up(y)  # type: ignore[no-any-return]

    def prior(self, y: Tensor) -> tuple[Tensor, Tensor, float]:
        return torch.zeros(1), torch.full((1, 8, 1, 1), 2.0), 64.0

    def prior_given(self, mean: Tensor, deviation: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(y), deviation.expand_as(y)


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


@pytest.mark.usefixtures("photo")
def test_a_codec_of_ones_own_takes_twenty_lines(
    photo: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = blocks(ROOT / "docs" / "your-own-codec.md")
    lines = [line for line in first.split("\n\n\n")[1].splitlines() if line.strip()]
    assert len(lines) <= 20
    names: dict[str, Any] = {"model": Model(), "pictures": [photo[:50, :70]]}
    exec(first, names)
    assert (tmp_path / "report.html").exists()
    plain = names["ladder"]
    exec(second + "\nladder = wf.limits(MyContextCodec(model), pictures)", names)
    assert names["ladder"].rungs[0].bpp == pytest.approx(plain.rungs[0].bpp)


def test_bounds_are_had_as_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for block in blocks(ROOT / "docs" / "bounds.md"):
        exec(block, names)
    assert capsys.readouterr().out.count("upper bound") == 2
