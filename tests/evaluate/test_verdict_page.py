from __future__ import annotations

import base64
import html
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from genconvit.config import DecisionSettings
from genconvit.evaluate.aggregate import decide
from genconvit.evaluate.pages import clock
from genconvit.evaluate.verdict_page import JudgedClip, write_verdict_page
from genconvit.explain import evidence_for
from genconvit.predict import load_detector
from genconvit.verdict import TimelinePoint


def drawn_face(shade: int) -> bytes:
    image = np.full((32, 32, 3), shade, np.uint8)
    cv2.circle(image, (16, 16), 10, (200, 210, 220), -1)
    return cv2.imencode(".jpg", image)[1].tobytes()


def judged(name: str, scores: dict[int, dict[int, float]], frames_sampled: int = 8) -> JudgedClip:
    """A clip from `{frame: {track: P(fake)}}`, one frame a second."""
    points = [
        TimelinePoint(
            time_s=frame,
            frame_index=frame * 25,
            track=track,
            box=(1, 2, 33, 44),
            probability_fake=p_fake,
        )
        for frame, tracks in scores.items()
        for track, p_fake in tracks.items()
    ]
    verdict = decide(name, points, frames_sampled, DecisionSettings())
    return JudgedClip(verdict, [drawn_face(20 + i) for i in range(len(verdict.timeline))])


def page_of(folder: Path, *items: JudgedClip) -> str:
    path = folder / "deep" / "verdict.html"
    write_verdict_page(path, items, {"id": "nano-1", "model": {"arch": "v2"}}, DecisionSettings())
    assert [file.name for file in path.parent.iterdir()] == ["verdict.html"]
    return path.read_text(encoding="utf-8")


def test_the_published_aggregation_is_explained_and_has_no_band(tmp_path: Path) -> None:
    published = DecisionSettings(aggregation="original")
    item = judged("talk.mp4", {second: {0: 0.3} for second in range(8)})
    points = [p.model_copy(update={"sigmoids": (0.3, 0.2)}) for p in item.verdict.timeline]
    verdict = decide("talk.mp4", points, 8, published)
    path = tmp_path / "verdict.html"
    write_verdict_page(path, [JudgedClip(verdict, item.thumbnails)], {"id": "a"}, published)
    page = path.read_text(encoding="utf-8")
    assert "<title>FAKE: talk.mp4</title>" in re.sub(r">\s+|\s+<", lambda m: m[0].strip(), page)
    assert "REAL" not in page.split("<main>")[1]  # nor is a track or a crop called so
    assert "as the published program does" in page
    assert "UNDECIDED." not in page
    assert "shaded: undecided" not in page


def test_a_clip_shows_verdict_timeline_and_every_crop(tmp_path: Path) -> None:
    item = judged("talk.mp4", {second: {0: 0.9} for second in range(8)})
    page = page_of(tmp_path, item)
    assert "<title>FAKE: talk.mp4</title>" in re.sub(r">\s+|\s+<", lambda m: m[0].strip(), page)
    for image in item.thumbnails:
        assert base64.b64encode(image).decode() in page
    assert page.count("P(fake) 0.90</title>") == 8
    assert page.count('class="line"') == 7
    assert "1, 2, 33, 44" in page
    assert "A score is evidence, not proof." in page
    assert "model.arch" in page


def test_nothing_is_loaded_from_outside(tmp_path: Path) -> None:
    page = page_of(tmp_path, judged("a.mp4", {0: {0: 0.9}, 1: {0: 0.8}}))
    assert not re.findall(r"https?://|@import|<script|<link", page)
    sources = re.findall(r'(?:src|href)="([^"#]{0,12})', page)
    assert sources
    assert all(source.startswith("data:image/j") for source in sources)


def test_no_line_bridges_a_gap_in_a_track(tmp_path: Path) -> None:
    scores = {second: {1: 0.1} for second in range(8)}
    for second in (0, 1, 6, 7):
        scores[second][0] = 0.2
    page = page_of(tmp_path, judged("gap.mp4", scores))
    assert page.count('class="line"') == 7 + 2


def test_scores_are_drawn_at_their_height(tmp_path: Path) -> None:
    page = page_of(tmp_path, judged("a.mp4", {0: {0: 0.0}, 1: {0: 1.0}, 2: {0: 0.25}}))
    lines = re.findall(r'class="line" x1="(.+?)%" y1="(.+?)" x2="(.+?)%" y2="(.+?)"', page)
    numbers = [tuple(map(float, line)) for line in lines]
    assert numbers == [(0, 180, 50, 0), (50, 0, 100, 135)]


def test_intervals_are_marked_below_the_time_axis_and_listed(tmp_path: Path) -> None:
    scores = {second: {0: 0.1, 1: 0.1} for second in range(17)}
    for second in range(4, 9):
        scores[second][1] = 0.95
    page = page_of(tmp_path, judged("talk.mp4", scores))
    [(x, width)] = re.findall(r'class="span c1" x="(.+?)%" width="(.+?)%"', page)
    start, end = float(x) * 16 / 100, (float(x) + float(width)) * 16 / 100
    assert (start, end) == pytest.approx((3.5, 8.5))
    assert "Track 1 looks manipulated from 3.5 s to 8.5 s" in page
    assert "Where it looks manipulated" in page


def test_where_frames_lie_too_far_apart_it_says_that_none_were_sought(tmp_path: Path) -> None:
    scores = {second: {0: 0.9} for second in range(0, 24, 3)}
    page = page_of(tmp_path, judged("talk.mp4", scores))
    assert "No intervals were sought: the sampled frames lie 3.0 s apart" in page
    assert 'class="span' not in page


def test_evidence_is_shown_with_its_check(tmp_path: Path, detector: Path, clips: Path) -> None:
    judge = load_detector(detector, "cpu")
    verdict, jpegs = judge.judge_with_crops(sorted(clips.parent.glob("test/fake/*"))[0])
    evidence = evidence_for(judge, verdict, jpegs, count=1)
    page = page_of(tmp_path, JudgedClip(verdict, jpegs, evidence))
    shown = re.sub(r"\s+", " ", page)
    for crop in evidence.crops:
        assert crop.findings.check.sentence in html.unescape(shown)
        assert crop.findings.agreement.sentence in html.unescape(shown)
        assert f"what speaks for {crop.findings.speaks_for}" in shown
    assert evidence.sentence() in shown
    assert shown.count("reconstruction error of") >= 2 * len(evidence.crops)
    assert "Evidence" not in page_of(tmp_path, JudgedClip(verdict, jpegs))


def test_a_still_image_has_a_crop_but_no_timeline(tmp_path: Path) -> None:
    page = page_of(tmp_path, judged("portrait.jpg", {0: {0: 0.04}}, frames_sampled=1))
    assert "Timeline" not in page
    assert page.count("data:image/jpeg") == 1


def test_no_face_says_so(tmp_path: Path) -> None:
    page = page_of(tmp_path, judged("sky.mp4", {}))
    assert "No face was found in 8 sampled frames." in page
    assert "no score" in page
    assert "<img" not in page


def test_file_names_are_escaped(tmp_path: Path) -> None:
    name = '<script>alert(1)</script> & "x".mp4'
    page = page_of(tmp_path, judged(name, {0: {0: 0.9}}), judged("b.mp4", {}))
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#34;x&#34;.mp4") == 2


def test_many_tracks_and_clips_are_told_apart(tmp_path: Path) -> None:
    crowd = judged("crowd.mp4", {s: {t: t / 30 for t in range(30)} for s in range(2)})
    page = page_of(tmp_path, crowd, judged("sky.mp4", {}))
    looks = re.findall(r'<li><svg class="(c\d)"[^>]*>(.*?)</svg>track', page, re.DOTALL)
    assert len(looks) == len(set(looks)) == 30
    assert 'href="#clip-2"' in page
    assert "0 FAKE, 0 REAL, 2 UNDECIDED." in page


def test_thumbnails_must_match_the_timeline() -> None:
    item = judged("a.mp4", {0: {0: 0.9}})
    with pytest.raises(ValueError, match=r"2 thumbnails for 1 crops of a\.mp4"):
        JudgedClip(item.verdict, [*item.thumbnails, b""])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.54, "9.5 s"), (59.96, "1:00.0"), (125, "2:05.0"), (3605.5, "60:05.5")],
)
def test_times_are_short(seconds: float, text: str) -> None:
    assert clock(seconds) == text
