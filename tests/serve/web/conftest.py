"""A browser, footage, and a server that does what its script says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import free_port
from tests.serve.web.footage import write_clip, write_image
from tests.serve.web.page_server import Script, running
from tests.serve.web.steps import OpenPage, Page

REFUSED = "Failed to load resource"
"""What Chromium writes to the console when a server answers with an error."""


@pytest.fixture(scope="module")  # not longer: while it runs, asyncio.run() does not
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium to look at the page with; apt-get install chromium")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=chromium)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("footage")
    write_clip(folder / "clip.webm", 6, faces=2)
    write_clip(folder / "marked.webm", 6, marked=True)
    write_clip(folder / "old.mp4", 6, codec="mp4v")
    write_image(folder / "face.png", marked=True)
    return folder


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def server(script: Script) -> Iterator[str]:
    with running(script, free_port()) as url:
        yield url


@pytest.fixture
def opened(browser: Any) -> Iterator[OpenPage]:
    """Opens pages; in the end none may have gone elsewhere, met an error or broken its policy."""
    contexts, faults = [], []

    def open_page(url: str, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        origin = url.split("/")[2]

        def look(request: Any) -> None:
            if not request.url.startswith((f"http://{origin}/", "blob:", "data:")):
                faults.append(request.url)

        page.on("request", look)
        page.on("console", lambda said: faults.append(said.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(url)
        page.wait_for_selector("#model-hint:not(:empty), #problem:not([hidden])")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [fault for fault in faults if not fault.startswith(REFUSED)] == []
