from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from genconvit.answers import Detection, ModelId, Timings
from genconvit.checkpoint import Calibration, DetectorInfo, read_info
from genconvit.reference import CropSample, Reference, build_reference
from genconvit.verdict import TimelinePoint
from serve.watching.drift import CROPS_A_CLIP, ENOUGH, look_at
from serve.watching.metrics import MOST_VALUES, Metrics

CONFIGS = Path(__file__).parents[3] / "configs" / "monitoring"
CLIPS, SIDE = 400, 48


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every value of the text, by name and labels."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((f"genconvit_{name}", tuple(sorted(labels.items()))))


def clip(rng: np.random.Generator, light: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Four crops of a clip with a brightness of its own, and their P(fake)."""
    level = rng.uniform(80, 160)
    crops = rng.normal(light * level, 20, (4, SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
    return crops, rng.beta(2, 2) * np.ones(4)


@cache
def reference() -> Reference:
    rng = np.random.default_rng(0)
    sample = CropSample(2 * CLIPS)
    scores = []
    for number in range(CLIPS):
        crops, p_fake = clip(rng)
        scores.append(p_fake)
        box = np.tile([0, 0, 100, 100], (4, 1))
        names = np.full(4, f"clip{number}")
        sample.add({"image": crops, "label": np.full(4, number % 2), "video_id": names, "box": box})
    names = [f"clip{number}" for number in range(CLIPS)]
    means, is_fake = np.mean(scores, axis=1), np.arange(CLIPS) % 2 == 0
    return build_reference((names, means, is_fake), [sample.scored(np.concatenate(scores)), {}])


@pytest.fixture
def info(detector: Path) -> DetectorInfo:
    return read_info(detector).model_copy(update={"reference": reference()})


def detection(info: DetectorInfo, p_fake: np.ndarray, size: int = 100, **known: Any) -> Detection:
    points = [
        TimelinePoint(
            time_s=n, frame_index=n, track=0, box=(0, 0, size, size), probability_fake=float(p)
        )
        for n, p in enumerate(p_fake)
    ]
    usual = {
        "clip": "anna.mp4",
        "verdict": "FAKE",
        "probability_fake": 0.9,
        "reason": "",
        "frames_sampled": len(points),
        "frames_with_face": len(points),
        "tracks": [],
        "timeline": points,
        "threshold": 0.5,
        "band": (0.5, 0.5),
        "duration_s": None,
        "model": ModelId(name="main", id=info.id, fingerprint=info.weights_sha256),
        "timings_ms": Timings(wait=1, decode=200, queue=3, network=40, total=244),
    }
    return Detection(**{**usual, **known})


def watched(info: DetectorInfo, clips: int = CLIPS, light: float = 1.0, size: int = 100) -> Metrics:
    """The metrics after clips of the same kind as those of the reference, but for their light."""
    metrics, rng = Metrics(), np.random.default_rng(1)
    metrics.model("main", info)
    for _ in range(clips):
        crops, p_fake = clip(rng, light)
        metrics.detection(detection(info, p_fake, size), [look_at(crops)])
    return metrics


def test_clips_like_those_of_the_validation_are_no_drift(info: DetectorInfo) -> None:
    found = samples(watched(info))
    indices = {key: index for key, index in found.items() if key[0].endswith("_psi")}
    assert len(indices) == 6
    assert max(indices.values()) < 0.1


def test_darker_clips_are_a_drift_of_brightness(info: DetectorInfo) -> None:
    metrics = watched(info, light=0.7)
    assert (value(metrics, "crop_psi", model="main", statistic="brightness") or 0) > 0.25
    assert (value(metrics, "score_psi", model="main") or 1) < 0.1


def test_smaller_faces_are_a_drift_too(info: DetectorInfo) -> None:
    metrics = watched(info, size=40)
    assert (value(metrics, "crop_psi", model="main", statistic="face_size") or 0) > 0.25


def test_what_rests_on_little_is_not_told(info: DetectorInfo) -> None:
    metrics = watched(info, clips=ENOUGH // 2, light=0.5)
    assert not [name for name, _ in samples(metrics) if name.endswith("_psi")]
    assert value(metrics, "drift_clips", model="main") == pytest.approx(ENOUGH // 2, rel=0.1)


def test_without_a_reference_crops_are_counted_and_compared_with_nothing(
    info: DetectorInfo,
) -> None:
    metrics = watched(info.model_copy(update={"reference": None}))
    assert not [name for name, _ in samples(metrics) if name.endswith("_psi")]
    assert value(metrics, "clip_score_count", model="main") == CLIPS
    assert value(metrics, "crop_brightness_count", model="main") == 4 * CLIPS


def test_calibration_is_no_drift(info: DetectorInfo) -> None:
    metrics, rng = Metrics(), np.random.default_rng(1)
    metrics.model("main", info.model_copy(update={"calibration": Calibration(temperature=4)}))
    for _ in range(CLIPS):
        raw = clip(rng)[1]
        calibrated = 1 / (1 + ((1 - raw) / raw) ** (1 / 4))
        metrics.detection(detection(info, calibrated))
    assert (value(metrics, "score_psi", model="main") or 1) < 0.1


def test_the_published_aggregation_is_compared_by_its_looks(info: DetectorInfo) -> None:
    metrics = Metrics()
    metrics.model("main", info)
    points = [
        point.model_copy(update={"sigmoids": (0.5, 0.4)})
        for point in detection(info, np.full(4, 0.5)).timeline
    ]
    crops = clip(np.random.default_rng(0))[0]
    metrics.detection(detection(info, np.zeros(0), timeline=points), [look_at(crops)])
    assert value(metrics, "crop_brightness_count", model="main") == 4
    assert value(metrics, "face_size_count", model="main") == 4
    assert value(metrics, "crop_score_count", model="main") == 0
    assert value(metrics, "drift_clips", model="main") == 0


def test_ready_crops_are_compared_and_their_mean_is_no_clip(info: DetectorInfo) -> None:
    metrics, rng = Metrics(), np.random.default_rng(1)
    metrics.model("main", info)
    model = ModelId(name="main", id=info.id, fingerprint=info.weights_sha256)
    other = model.model_copy(update={"fingerprint": "f" * 64})
    for _ in range(CLIPS):
        crops, p_fake = clip(rng, light=0.7)
        metrics.crops(model, p_fake.tolist(), look_at(crops))
        metrics.crops(other, p_fake.tolist(), look_at(crops))
    assert value(metrics, "crop_score_count", model="main") == 4 * CLIPS
    assert value(metrics, "clip_score_count", model="main") == 0
    assert (value(metrics, "crop_psi", model="main", statistic="brightness") or 0) > 0.25
    assert (value(metrics, "crop_psi", model="main", statistic="crop_score") or 1) < 0.1
    assert value(metrics, "crop_psi", model="main", statistic="face_size") is None
    assert value(metrics, "score_psi", model="main") is None


def test_ready_crops_for_the_published_aggregation_have_no_score(info: DetectorInfo) -> None:
    metrics = Metrics()
    decision = info.decision.model_copy(update={"aggregation": "original"})
    metrics.model("main", info.model_copy(update={"decision": decision}))
    model = ModelId(name="main", id=info.id, fingerprint=info.weights_sha256)
    metrics.crops(model, [0.5] * 4, look_at(clip(np.random.default_rng(0))[0]))
    assert value(metrics, "crop_score_count", model="main") == 0
    assert value(metrics, "crop_contrast_count", model="main") == 4


def test_a_reloaded_detector_starts_anew(info: DetectorInfo) -> None:
    metrics = watched(info, clips=10)
    metrics.model("main", info.model_copy(update={"weights_sha256": "f" * 64}))
    metrics.reload("main", "taken")
    metrics.detection(detection(info, np.full(4, 0.5)))  # judged before the exchange
    assert value(metrics, "drift_clips", model="main") == 0
    assert value(metrics, "verdicts_total", model="main", verdict="FAKE") == 11
    models = [dict(labels) for name, labels in samples(metrics) if name == "genconvit_model_info"]
    assert [model["fingerprint"] for model in models] == ["f" * 64]


def test_a_request_is_counted(info: DetectorInfo) -> None:
    metrics = Metrics()
    metrics.model("main", info)
    metrics.request("/v1/detect", 200, 0.2, 1000)
    metrics.request("/v1/detect", 503, 0.001, 0)
    answers = detection(info, np.full(100, 0.5)), detection(info, np.zeros(0), verdict="UNDECIDED")
    metrics.detection(answers[0], [look_at(np.zeros((100, 8, 8, 3), "u1"))])
    metrics.detection(answers[1])
    for answer in answers:
        metrics.stages(answer.timings_ms)
    metrics.batch([3, 64])
    metrics.in_flight(7)
    metrics.queue(12)
    metrics.jobs({"queued": 2})
    metrics.problem("broken")
    route = "/v1/detect"
    for name, labels, expected in [
        ("requests_total", {"route": route, "status": "200"}, 1),
        ("requests_total", {"route": route, "status": "503"}, 1),
        ("request_seconds_bucket", {"route": route, "le": "0.25"}, 2),
        ("request_seconds_sum", {"route": route}, 0.201),
        ("uploaded_bytes_total", {}, 1000),
        ("requests_in_flight", {}, 7),
        ("queue_crops", {}, 12),
        ("stage_seconds_sum", {"stage": "decode"}, 0.4),
        ("batch_crops_count", {}, 2),
        ("batch_crops_bucket", {"le": "4.0"}, 1),
        ("verdicts_total", {"model": "main", "verdict": "FAKE"}, 1),
        ("jobs", {"state": "queued"}, 2),
        ("jobs", {"state": "failed"}, 0),
        ("problems_total", {"reason": "broken"}, 1),
        ("decoder_deaths_total", {}, 1),
        ("model_info", {"model": "main", "id": info.id, "fingerprint": info.weights_sha256}, 1),
        ("clip_score_count", {"model": "main"}, 1),
        ("crop_score_count", {"model": "main"}, 100),
        ("crop_brightness_count", {"model": "main"}, CROPS_A_CLIP),
        ("face_size_bucket", {"model": "main", "le": "+Inf"}, 100),
    ]:
        assert value(metrics, name, **labels) == pytest.approx(expected), name
    assert not [name for name, _ in samples(metrics) if name.endswith("_created")]
    assert ("process_resident_memory_bytes", ()) in samples(metrics)


def test_the_sums_are_whole(info: DetectorInfo) -> None:
    """Prometheus takes the last bucket for the count, and buckets that rise."""
    found = samples(watched(info, clips=20))
    for name in ("clip_score", "crop_score", "crop_sharpness", "face_size"):
        full = f"genconvit_{name}"
        buckets = [
            (float(dict(labels)["le"]), count)
            for (key, labels), count in found.items()
            if key == f"{full}_bucket"
        ]
        counts = [count for _, count in sorted(buckets)]
        assert counts == sorted(counts)
        assert counts[-1] == found[f"{full}_count", (("model", "main"),)]


@given(st.lists(st.tuples(st.text(), st.integers(), st.text(), st.text()), max_size=100))
def test_clients_cannot_make_new_series_without_end(
    asked: list[tuple[str, int, str, str]],
) -> None:
    metrics = Metrics()
    for number, (route, status, reason, model) in enumerate(asked):
        metrics.request(route, status, 0.1, 0)
        metrics.request(f"/v1/{number}", 404, 0.1, 0)
        metrics.problem(reason)
        metrics.reload(model, reason)
    labels: dict[str, set[str]] = {}
    for _, pairs in samples(metrics):
        for label, text in pairs:
            labels.setdefault(label, set()).add(text)
    assert len(labels.get("route", ())) <= MOST_VALUES + 1
    assert len(labels.get("reason", ())) <= MOST_VALUES + 1
    assert labels.get("model", {"other"}) == labels.get("outcome", {"other"}) == {"other"}
    assert labels.get("status", set()) <= {str(n) for n in range(100, 600)} | {"other"}


@pytest.fixture
def exported(info: DetectorInfo) -> set[str]:
    """The names of all series, once everything has happened."""
    metrics = watched(info)
    metrics.request("/v1/detect", 200, 0.2, 1000)
    metrics.stages(detection(info, np.zeros(0)).timings_ms)
    metrics.problem("broken")
    metrics.batch([3])
    metrics.jobs({})
    metrics.reload("main", "refused")
    return {name for name, _ in samples(metrics)}


def test_alerts_and_dashboard_ask_for_metrics_that_there_are(exported: set[str]) -> None:
    groups = yaml.safe_load((CONFIGS / "alerts.yaml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    assert all(rule["annotations"]["summary"] for rule in rules)
    panels = json.loads((CONFIGS / "dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    drawn = [target["expr"] for panel in panels for target in panel["targets"]]
    for expression in [*(rule["expr"] for rule in rules), *drawn]:
        assert expression.count("(") == expression.count(")")
        asked = set(re.findall(r"genconvit_\w+", expression))
        assert asked
        assert asked <= exported, expression


def test_the_documentation_names_every_metric(exported: set[str]) -> None:
    text = (CONFIGS.parents[1] / "docs" / "monitoring.md").read_text()
    for name in exported:
        plain = re.sub(r"_(bucket|sum|count)$", "", name)
        if plain.startswith("genconvit_"):
            assert f"`{plain}" in text, plain
