from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genconvit.config import DecisionSettings
from genconvit.evaluate.aggregate import (
    calibrated,
    crop_probability,
    decide,
    frame_step,
    judge,
    unreachable,
)
from genconvit.verdict import TimelinePoint, Verdict

SCORES = st.floats(0.0, 1.0)


def point(p_fake: float, frame: int = 0, track: int = 0) -> TimelinePoint:
    return TimelinePoint(
        time_s=frame / 25,
        frame_index=frame,
        track=track,
        box=(0, 0, 10, 10),
        probability_fake=p_fake,
    )


def verdict_of(*scores: float, frames_sampled: int = 32) -> Verdict:
    points = [point(p_fake, frame) for frame, p_fake in enumerate(scores)]
    return decide("clip.mp4", points, frames_sampled, DecisionSettings())


def test_fake_and_real_say_what_they_rest_on() -> None:
    fake = verdict_of(0.9, 0.96, frames_sampled=4)
    assert fake.verdict == "FAKE"
    assert fake.probability_fake == pytest.approx(0.93)
    assert fake.reason == "mean P(fake) 0.93 over 2 faces in 2 of 4 frames; 1 person"
    real = verdict_of(0.1, frames_sampled=1)
    assert real.verdict == "REAL"
    assert real.reason == "mean P(fake) 0.10 over 1 face in 1 of 1 frame; 1 person"


def test_near_the_threshold_is_undecided() -> None:
    verdict = verdict_of(0.52)
    assert verdict.verdict == "UNDECIDED"
    assert verdict.reason == "P(fake) 0.52 is between 0.45 and 0.55, where it is unsure"


def test_no_face_has_no_score() -> None:
    verdict = decide("clip.mp4", [], 32, DecisionSettings())
    assert (verdict.verdict, verdict.probability_fake) == ("UNDECIDED", None)
    assert verdict.reason == "no face was found in 32 sampled frames"
    assert (verdict.frames_with_face, verdict.tracks, verdict.timeline) == (0, [], [])


def test_one_fake_person_among_real_ones_is_named() -> None:
    scores = {0: 0.05, 1: 0.95, 2: 0.1}
    points = [point(p, frame, track) for track, p in scores.items() for frame in range(5)]
    verdict = decide("clip.mp4", points, 5, DecisionSettings())
    assert verdict.verdict == "REAL"
    assert verdict.reason.endswith(
        "3 people; the people disagree: 1 of 3 looks fake (track 1 with P(fake) 0.95) "
        "and 2 look real"
    )


def test_people_of_one_kind_do_not_disagree() -> None:
    points = [point(0.9, 0, 0), point(0.52, 0, 1)]
    assert "disagree" not in decide("clip.mp4", points, 1, DecisionSettings()).reason


def test_tracks_are_summed_up_in_time_order() -> None:
    points = [point(0.2, 20, 1), point(0.4, 10, 1), point(0.8, 10, 0)]
    verdict = decide("clip.mp4", points, 3, DecisionSettings())
    assert [(p.frame_index, p.track) for p in verdict.timeline] == [(10, 0), (10, 1), (20, 1)]
    assert verdict.frames_with_face == 2
    second = verdict.tracks[1]
    assert (second.track, second.crops) == (1, 2)
    assert (second.first_s, second.last_s) == pytest.approx((0.4, 0.8))
    assert second.probability_fake == pytest.approx(0.3)


@given(
    st.lists(st.builds(point, SCORES, st.integers(0, 9), st.integers(0, 3)), min_size=1),
    st.randoms(use_true_random=False),
)
def test_the_order_of_the_points_changes_nothing(
    points: list[TimelinePoint], random: Random
) -> None:
    unique = list({(p.frame_index, p.track): p for p in points}.values())
    shuffled = random.sample(unique, len(unique))
    first, second = (decide("c", p, 10, DecisionSettings()) for p in (unique, shuffled))
    assert first == second
    assert sum(track.crops for track in first.tracks) == len(first.timeline)
    assert first.frames_with_face <= len(first.timeline)


@given(SCORES, st.floats(0.01, 0.99), st.floats(0.0, 0.49))
def test_words_follow_the_threshold_and_its_margin(
    p_fake: float, threshold: float, margin: float
) -> None:
    word = judge(p_fake, DecisionSettings(threshold=threshold, undecided_margin=margin))
    assert (word == "FAKE") == (p_fake > threshold + margin)
    assert (word == "REAL") == (p_fake < threshold - margin)


def test_the_usual_step_ignores_a_gap() -> None:
    points = [point(0.5, frame) for frame in (0, 25, 50, 200, 225)]
    assert frame_step(points) == pytest.approx(1.0)
    assert frame_step([point(0.5, 7, track) for track in (0, 1)]) is None


PUBLISHED = DecisionSettings(aggregation="original")
LOGITS = st.floats(-30.0, 30.0)


def published_verdict(rows_NRK: np.ndarray) -> Verdict:
    """The verdict on N crops that R networks judged."""
    points = []
    for frame, rows_RK in enumerate(rows_NRK):
        p_fake, sigmoids = crop_probability(rows_RK, PUBLISHED)
        new = {"probability_fake": p_fake, "sigmoids": sigmoids}
        points.append(point(0.0, frame).model_copy(update=new))
    return decide("clip.mp4", points, 15, PUBLISHED)


@given(
    st.integers(1, 2).flatmap(
        lambda networks: st.lists(
            st.lists(st.tuples(LOGITS, LOGITS), min_size=networks, max_size=networks),
            min_size=1,
            max_size=20,
        )
    )
)
def test_original_is_the_published_formula(rows: list[list[tuple[float, float]]]) -> None:
    rows_NRK = np.array(rows)
    verdict = published_verdict(rows_NRK)
    # The rows of all crops and both networks stacked, sigmoid of each logit, mean over rows.
    m0, m1 = (1 / (1 + np.exp(-rows_NRK.reshape(-1, 2)))).mean(axis=0)
    if abs(m0 - m1) > 1e-9:  # nearer, the order of the sum decides
        assert verdict.verdict == ("FAKE" if m0 > m1 else "REAL")
        assert verdict.probability_fake == pytest.approx(m0 if m0 > m1 else 1 - m1)


def test_original_calls_no_face_fake_at_a_half_and_says_so() -> None:
    verdict = decide("clip.mp4", [], 15, PUBLISHED)
    assert (verdict.verdict, verdict.probability_fake) == ("FAKE", 0.5)
    assert "no face was found" in verdict.reason
    assert "counts as FAKE at 0.5" in verdict.reason


def test_original_can_call_a_clip_fake_below_a_half() -> None:
    """Both sigmoids may be small; the larger one wins, and the score is its own."""
    verdict = published_verdict(np.log([[[0.3 / 0.7, 0.2 / 0.8]]]))
    assert verdict.verdict == "FAKE"
    assert verdict.probability_fake == pytest.approx(0.3)
    assert verdict.reason.startswith("mean sigmoids 0.30 fake and 0.20 real over 1 face")


def test_original_never_abstains_and_has_no_other_threshold() -> None:
    strict = DecisionSettings(aggregation="original", threshold=0.9, undecided_margin=0.09)
    assert (strict.threshold, strict.undecided_margin) == (0.5, 0.0)


def test_original_judges_each_person_as_it_judges_the_clip() -> None:
    """Two people whose fake sigmoid is the larger one do not disagree, however small it is."""
    points = [
        point(p_fake, 0, track).model_copy(update={"sigmoids": sigmoids})
        for track, (p_fake, sigmoids) in enumerate([(0.3, (0.3, 0.2)), (0.9, (0.9, 0.1))])
    ]
    verdict = decide("clip.mp4", points, 1, PUBLISHED)
    assert verdict.verdict == "FAKE"
    assert [track.probability_fake for track in verdict.tracks] == pytest.approx([0.3, 0.9])
    assert "disagree" not in verdict.reason


@given(st.lists(st.tuples(LOGITS, LOGITS), min_size=1, max_size=2))
def test_mean_scores_a_crop_by_the_softmax_of_the_mean_logits(
    rows: list[tuple[float, float]],
) -> None:
    p_fake, sigmoids = crop_probability(np.array(rows), DecisionSettings())
    fake, real = np.mean(rows, axis=0)
    assert p_fake == pytest.approx(np.exp(fake) / (np.exp(fake) + np.exp(real)))
    assert sigmoids is None


def test_only_original_shows_sigmoids() -> None:
    assert "sigmoids" not in verdict_of(0.9).model_dump()["timeline"][0]
    shown = published_verdict(np.zeros((1, 1, 2))).model_dump(mode="json")["timeline"][0]
    assert shown["sigmoids"] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("settings", "never"),
    [
        ({}, []),
        ({"threshold": 0.94}, []),
        ({"threshold": 0.96}, ["FAKE"]),
        ({"threshold": 0.05}, ["REAL"]),
        ({"undecided_band": (0.0, 1.0)}, ["FAKE", "REAL"]),
        ({"isotonic": ((0.2, 0.1), (0.8, 0.5))}, ["FAKE"]),
        ({"aggregation": "original", "threshold": 0.99}, []),
    ],
)
def test_words_that_no_score_leads_to_are_named(
    settings: dict[str, object], never: list[str]
) -> None:
    decision = DecisionSettings.model_validate(settings)
    sentences = unreachable(decision)
    assert [line.split()[4].rstrip(":") for line in sentences] == never
    if decision.aggregation != "original":
        words = {judge(calibrated(score, decision), decision) for score in np.linspace(0, 1, 1001)}
        assert {"FAKE", "REAL"} - words == set(never)
