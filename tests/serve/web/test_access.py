from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.serve.web.page_server import CSP, FINGERPRINT, Script
from tests.serve.web.steps import HALF_FAKE, OpenPage, judge, video_time


def test_it_can_be_used_by_keyboard_alone(opened: OpenPage, server: str, footage: Path) -> None:
    page = opened(server)

    def tab_to(selector: str) -> None:
        for _ in range(30):
            page.keyboard.press("Tab")
            shows = page.evaluate(
                """() => {
                    const node = document.activeElement;
                    const seen = node.id === "file" ? node.nextElementSibling : node;
                    return getComputedStyle(seen).outlineStyle;
                }"""
            )
            assert shows != "none", page.evaluate("document.activeElement.outerHTML")
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(f"{selector} is not reached")

    # Listened to from the start: Chromium takes the order to hand choosers over, and a key, by
    # two ways, so that under load a key pressed right after the order can come first.
    page.on("filechooser", lambda chooser: chooser.set_files(footage / "clip.webm"))
    tab_to("#file")
    page.keyboard.press("Enter")
    page.wait_for_selector("#actions:not([hidden])")
    tab_to("#play")
    tab_to("#print")
    tab_to(".lane")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert "Face 1 at 1.50 s" in page.locator("#point").inner_text()
    assert video_time(page) == pytest.approx(1.5, abs=0.01)
    assert "looks manipulated" in page.locator(".lane").get_attribute("aria-valuetext")
    tab_to("#spans button")
    tab_to("#explain-start")
    page.keyboard.press("Enter")
    page.locator("#pictures img").first.wait_for()
    tab_to("#pictures button")


def test_everything_that_takes_the_focus_has_a_name(
    opened: OpenPage, server: str, script: Script, footage: Path
) -> None:
    script.scores = HALF_FAKE
    page = opened(server)
    judge(page, footage / "clip.webm")
    page.get_by_text("As a table").click()
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    names = {}
    for node in tree:
        focusable = any(each["name"] == "focusable" for each in node.get("properties", []))
        if focusable and node["role"]["value"] != "RootWebArea":
            names[node["backendDOMNodeId"]] = (node["role"]["value"], node["name"]["value"])
    assert len(names) > 10
    assert [role for role, name in names.values() if not name.strip()] == []
    assert ("slider", "Face 1: P(fake) over time") in names.values()
    assert page.locator("[aria-live=polite]").inner_text().startswith("Verdict:")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(opened: OpenPage, server: str, scheme: str) -> None:
    page = opened(server, color_scheme=scheme)
    read = "names => names.map(n => getComputedStyle(document.documentElement).getPropertyValue(n))"

    def colours(*names: str) -> list[str]:
        return page.evaluate(read, [f"--{name}" for name in names])

    for paper in colours("card", "paper"):
        for text in colours("ink", "soft", "fake", "real", "undecided"):
            assert contrast(text, paper) >= 4.5, (text, paper)
        for line in colours("edge", *(f"c{i}" for i in range(6))):
            assert contrast(line, paper) >= 3, (line, paper)


def contrast(one: str, other: str) -> float:
    """Of two colours #rrggbb, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        shares = np.array([int(colour.strip()[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_narrow_phone_needs_no_sideways_scrolling(
    opened: OpenPage, server: str, script: Script, footage: Path, tmp_path: Path
) -> None:
    script.scores = HALF_FAKE
    page = opened(server, viewport={"width": 320, "height": 640}, has_touch=True)
    long = tmp_path / f"{'averylongname' * 12}.webm"
    shutil.copy(footage / "clip.webm", long)
    judge(page, long)
    page.get_by_text("As a table").click()
    page.get_by_role("button", name="Show what the detector heeds").tap()
    page.locator("#pictures img").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_a_hostile_name_is_text(
    opened: OpenPage, server: str, footage: Path, tmp_path: Path
) -> None:
    name = "<img src=x onerror=alert(1)><b>bold<b>.webm"
    hostile = Path(shutil.copy(footage / "clip.webm", tmp_path / name))
    page = opened(server)
    judge(page, hostile)
    assert page.locator("#name").inner_text() == name
    assert page.locator("main b").filter(has_text="bold").count() == 0
    assert page.locator("img[src=x]").count() == 0


def test_the_policy_holds(opened: OpenPage, server: str) -> None:
    page = opened(server)
    response = page.request.get(server)
    assert response.headers["content-security-policy"] == CSP
    assert "style=" not in response.text()
    assert "onclick" not in response.text()


def test_the_json_is_the_servers_answer(
    opened: OpenPage, server: str, script: Script, footage: Path, tmp_path: Path
) -> None:
    page = opened(server)
    judge(page, footage / "clip.webm")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download JSON").click()
    assert download.value.suggested_filename == "clip.detection.json"
    download.value.save_as(tmp_path / "answer.json")
    expected = script.detection("clip.webm").model_dump(mode="json")
    assert json.loads((tmp_path / "answer.json").read_text()) == expected


def test_the_report_tells_what_was_judged_and_by_what(
    opened: OpenPage, server: str, footage: Path
) -> None:
    page = opened(server)
    judge(page, footage / "clip.webm")
    digest = hashlib.sha256((footage / "clip.webm").read_bytes()).hexdigest()
    page.get_by_text(digest).wait_for()
    page.evaluate("window.print = () => { window.printed = document.title; }")
    page.get_by_role("button", name="Print report").click()
    assert page.evaluate("window.printed") == "Looks manipulated: clip.webm"
    page.emulate_media(media="print")
    said = page.locator("body").inner_text()
    for part in ("Looks manipulated", "0.84 and 0.95", "clip.webm", FINGERPRINT, "4be1a0c2d7"):
        assert part in said
    assert "not proof" in said
    assert page.locator(".lane .plot").is_visible()
    for control in ("#ask", "#view", "#actions", "#explain"):
        assert page.locator(control).is_hidden()
