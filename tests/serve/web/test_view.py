from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serve.web.footage import MARKER
from tests.serve.web.page_server import Script
from tests.serve.web.steps import HALF_FAKE, OpenPage, Page, judge, soon, video_time


def magenta(page: Page) -> tuple[float, float, float, float]:
    """Where the marker of the footage is on the screen: left, top, right, bottom, CSS pixels.

    Nothing (zeros) while there is none.
    """
    page.evaluate("document.getElementById('overlay').style.visibility = 'hidden'")
    shot = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)
    page.evaluate("document.getElementById('overlay').style.visibility = ''")
    blue, green, red = MARKER
    rows, columns = np.nonzero(np.abs(shot - (red, green, blue)).sum(axis=2) < 150)
    if not rows.size:
        return 0, 0, 0, 0
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def drawn_box(page: Page) -> tuple[float, float, float, float]:
    """Where the first face's box is: the middle of its line."""
    rect = page.evaluate(
        "(({left, top, right, bottom}) => [left, top, right, bottom])"
        "(document.querySelector('.face .box').getBoundingClientRect())"
    )
    return tuple(rect)


@pytest.mark.parametrize("size", [(1200, 900), (1200, 420), (400, 800)])
def test_boxes_lie_where_the_faces_are(
    opened: OpenPage, server: str, footage: Path, size: tuple[int, int]
) -> None:
    page = opened(server)
    judge(page, footage / "marked.webm")
    # Resized after it was drawn; 420 px are too low for the picture, which gets bars at its sides.
    page.set_viewport_size({"width": size[0], "height": size[1]})
    for key in ("Home", "End"):
        page.locator(".lane").press(key)
        video_time(page)
        page.locator("#view").scroll_into_view_if_needed()
        soon(page, lambda: drawn_box(page) == pytest.approx(magenta(page), abs=2))


def test_the_box_of_an_image_lies_on_its_face(
    opened: OpenPage, server: str, script: Script, footage: Path
) -> None:
    script.scores, script.seconds = [[0.93]], 0
    page = opened(server)
    judge(page, footage / "face.png")
    assert drawn_box(page) == pytest.approx(magenta(page), abs=2)
    assert page.locator(".face text").text_content().split() == ["Face", "1", "0.93"]


def test_the_timeline_leads_through_the_clip(
    opened: OpenPage, server: str, script: Script, footage: Path
) -> None:
    script.scores = HALF_FAKE
    page = opened(server)
    judge(page, footage / "clip.webm")
    lane = page.locator(".lane").first
    width = lane.bounding_box()["width"]
    lane.hover(position={"x": width / 2, "y": 30})
    assert "P(fake) 0.95" in lane.locator(".tip").inner_text()
    lane.click(position={"x": 0.48 * width, "y": 30})
    assert video_time(page) == pytest.approx(2.88, abs=0.02)  # of the sampled frame beside it
    assert "Face 1 at 2.88 s, frame 29: P(fake) 0.95" in page.locator("#point").inner_text()
    assert page.locator(".face").first.text_content().split() == ["Face", "1", "0.95"]
    page.get_by_role("button", name="Face 1, 2.00 s to 4.").click()
    assert video_time(page) == pytest.approx(2.0, abs=0.02)
    page.get_by_text("As a table").click()
    soon(page, lambda: page.locator("#table tbody tr").count() == 45)
    # A clip that is REAL on the whole does not hide what is not.
    assert "But Face 1 (2.00 s to 4." in page.locator(".but").inner_text()


def test_two_faces_are_told_apart_by_more_than_colour(
    opened: OpenPage, server: str, script: Script, footage: Path
) -> None:
    script.scores = HALF_FAKE
    page = opened(server)
    judge(page, footage / "clip.webm")
    looks = page.evaluate(
        """[...document.querySelectorAll(".lane")].map(lane => [
            getComputedStyle(lane.querySelector(".plot")).color,
            lane.querySelector(".line").getAttribute("stroke-dasharray"),
            lane.querySelector(".mark path").getAttribute("d")])"""
    )
    assert all(one != other for one, other in zip(*looks, strict=True))
    # Where a face is out of sight its line has a gap.
    assert page.locator(".lane").nth(1).locator(".line").count() == 2


def test_of_many_faces_the_most_suspicious_come_first(
    opened: OpenPage, server: str, script: Script, footage: Path
) -> None:
    script.scores = [[0.05 + 0.08 * track] * 4 for track in range(12)]
    page = opened(server)
    judge(page, footage / "clip.webm")
    names = page.locator(".label > span:first-of-type")
    assert names.all_inner_texts() == [f"Face {number}" for number in range(5, 13)]
    page.get_by_role("button", name="Show the other 4 faces").click()
    assert names.count() == 12


def test_what_the_browser_cannot_play_is_judged_nevertheless(
    opened: OpenPage, server: str, footage: Path
) -> None:
    page = opened(server)
    judge(page, footage / "old.mp4")
    assert "cannot play this format" in page.locator("#unplayable").inner_text()
    lane = page.get_by_role("slider", name="Face 1")
    lane.press("End")
    assert lane.get_attribute("aria-valuenow") == "5.50"


def test_evidence_is_fetched_once_and_follows_the_chosen_point(
    opened: OpenPage, server: str, script: Script, footage: Path
) -> None:
    script.scores = HALF_FAKE
    page = opened(server)
    judge(page, footage / "clip.webm")
    page.get_by_role("button", name="Show what the detector heeds").click()
    pictures = page.locator("#pictures img")
    pictures.first.wait_for()
    assert pictures.count() == 4  # crop, heat map, errors of both branches
    assert all(page.evaluate("[...document.querySelectorAll('#pictures img')].map(i => i.width)"))
    assert "passed its check" in page.locator("#pictures").inner_text()
    page.locator(".lane").nth(1).press("End")
    assert "Face 2 at 5.88 s" in page.locator("#pictures p").first.inner_text()
    assert "did not pass" in page.locator("#pictures").inner_text()
    assert [each for each in script.asked if "explain" in each] == [
        "POST /detect?model=main&explain=true"
    ]


def test_evidence_of_another_detector_comes_with_its_verdict(
    opened: OpenPage, server: str, script: Script, footage: Path
) -> None:
    script.scores = [[0.95] * 6]
    page = opened(server)
    judge(page, footage / "clip.webm")
    script.scores, script.fingerprint = [[0.05] * 6], "5e" * 32
    page.get_by_role("button", name="Show what the detector heeds").click()
    page.locator("#pictures img").first.wait_for()
    assert "No sign of manipulation" in page.locator("#headline").inner_text()
    assert "exchanged meanwhile" in page.locator("#view-note").inner_text()
    assert "5e5e" in page.locator("#facts").inner_text()


def words(page: Page, script: Script, calibrated: bool | None = True) -> dict[str, Any]:
    """What the page says of the script's detection."""
    detection = script.detection("clip").model_dump(mode="json")
    return page.evaluate(
        "async ([detection, calibrated]) => {"
        " const { inWords } = await import(new URL('web/verdict.js', document.baseURI));"
        " return inWords(detection, calibrated); }",
        [detection, calibrated],
    )


def test_verdicts_are_said_in_plain_words(opened: OpenPage, server: str) -> None:
    page = opened(server)
    said = words(page, Script(scores=[[0.52] * 6], interval=(0.41, 0.66)))
    assert said["headline"] == "The detector does not know"
    assert "between 0.41 and 0.66" in said["sentences"][0]
    said = words(page, Script(scores=[]))
    assert said["headline"] == "No face was found"
    assert "Nothing can be said" in said["sentences"][0]
    said = words(page, Script(scores=[[0.6] * 6], interval=(0.4, 0.7)))
    assert "Other frames might have given another verdict." in said["sentences"]
    said = words(page, Script(), calibrated=False)
    assert said["sentences"][0].startswith("Score 0.90")
    assert "no probability" in said["sentences"][-1]
    said = words(page, Script(scores=[[0.93] * 6, [0.04] * 6, [0.04] * 6]))
    assert said["headline"] == "On the whole no sign of manipulation"
    assert said["but"] == "But Face 1 (0.50 s to 5.50 s) looks manipulated."
