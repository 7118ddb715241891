"""A page in a real browser, without a screen."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def drawn(
    page: Path, profile: Path, *, theme: str = "light", then: str = "", width: int = 1200
) -> str:
    """The page's elements once its scripts have run, and ``then`` after them; no complaints.

    A window is never narrower than 500 pixels.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((found for name in names if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    if then:
        whole = page.read_text()
        page = page.with_suffix(".scripted.html")
        page.write_text(whole.replace("</body>", f"<script>{then}</script></body>"))
    run = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--blink-settings=preferredColorScheme={int(theme == 'light')}",
            f"--user-data-dir={profile}",
            f"--window-size={width},1000",
            "--virtual-time-budget=8000",
            "--enable-logging=stderr",
            "--v=0",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in run.stderr
    return run.stdout
