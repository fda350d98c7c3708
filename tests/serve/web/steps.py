"""What the tests of the page do again and again."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

Page = Any
"""Of Playwright, which may be missing."""
OpenPage = Callable[..., Page]
HALF_FAKE = [
    [0.1] * 8 + [0.95] * 10 + [0.1] * 6,
    [0.08] * 9 + [math.nan] * 3 + [0.06] * 12,
]
"""Two faces in 24 frames: one looks manipulated in the middle, the other is out of sight there."""


def judge(page: Page, file: Path) -> None:
    page.set_input_files("#file", file)
    page.wait_for_selector("#actions:not([hidden])")


def soon(page: Page, check: Callable[[], bool]) -> None:
    """Waits until something is so; 5 seconds at most."""
    for _ in range(100):
        if check():
            return
        page.wait_for_timeout(50)
    assert check()


def marks(page: Page) -> int:
    return page.locator(".lane .mark").count()


def video_time(page: Page) -> float:
    settled = """new Promise(resolve => {
        const video = document.getElementById("video");
        const look = () => (video.seeking ? setTimeout(look, 10) : resolve(video.currentTime));
        look();
    })"""
    return page.evaluate(settled)
