"""What the server counts, as Prometheus reads it (docs/monitoring.md).

There is one process that takes requests, and it counts for the whole server: the others send their
numbers along with their answers. Labels come from the server's own code and settings, and there is
an end to them, so that no client can fill the memory with new ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import get_args

import numpy as np
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from scipy.special import expit, logit

from genconvit.answers import Detection, JobState, ModelId, Timings
from genconvit.checkpoint import DetectorInfo
from genconvit.reference import Statistics, face_sizes
from serve.watching.drift import Drift
from serve.watching.drift_collector import DriftCollector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
CROPS = tuple(2**power for power in range(13))
STAGES = ("wait", "decode", "queue", "network")
DECODER_LOST = ("broken", "memory", "time")
"""Reasons of problems after which a process that decodes is replaced, or was near to it."""
MOST_VALUES = 64
OTHER = "other"
CLIENT_LEFT = 499
"""Status of a request whose client did not wait for the answer, by nginx's custom."""
STATUSES = {*(status.value for status in HTTPStatus), CLIENT_LEFT}


class Labels:
    """Values of a label: those of a pattern, and no more than `MOST_VALUES` different ones.

    Args:
        pattern: Of the whole value.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern, self._known = re.compile(pattern), set[str]()

    def __call__(self, value: str) -> str:
        """The value, or `other`."""
        if value not in self._known:
            if len(self._known) >= MOST_VALUES or not self._pattern.fullmatch(value):
                return OTHER
            self._known.add(value)
        return value


class Metrics:
    """The counters of one server. Not for several threads at once."""

    def __init__(self) -> None:
        disable_created_metrics()  # a second series for each, which nobody reads
        self._registry = CollectorRegistry()
        self._infos: dict[str, DetectorInfo] = {}
        self._drifts: dict[str, Drift] = {}
        self._route = Labels(r"/[a-zA-Z0-9_./{}-]{0,63}")
        self._reason = Labels(r"[a-z][a-z0-9 _-]{0,39}")
        self._requests = self._counter("requests", "Requests answered.", "route", "status")
        self._seconds = self._histogram("request_seconds", "Duration.", SECONDS, "route")
        self._bytes = self._counter("uploaded_bytes", "Bytes of request bodies.")
        self._in_flight = self._gauge("requests_in_flight", "Requests being worked on.")
        self._problems = self._counter("problems", "Requests and files refused.", "reason")
        self._deaths = self._counter(
            "decoder_deaths", "Files that broke a decoding process or had it ended."
        )
        self._stages = self._histogram("stage_seconds", "Duration of a stage.", SECONDS, "stage")
        self._batch = self._histogram("batch_crops", "Crops in a pass of the network.", CROPS)
        self._queue = self._gauge("queue_crops", "Crops sent to the network and not scored yet.")
        self._verdicts = self._counter("verdicts", "Clips and images.", "model", "verdict")
        self._jobs = self._gauge("jobs", "Jobs in the store.", "state")
        self._reloads = self._counter("reloads", "Reloads of a detector.", "model", "outcome")
        self._model = self._gauge(
            "model_info", "1 for the detector in use.", "model", "id", "fingerprint"
        )
        ProcessCollector(registry=self._registry)
        self._registry.register(DriftCollector(self._drifts))

    def request(self, route: str, status: int, seconds: float, body_bytes: int) -> None:
        """Counts an answered request.

        Args:
            route: The path as the server has it, such as `/v1/jobs/{id}`.
            status: HTTP status; `CLIENT_LEFT` without an answer.
            seconds: How long it took.
            body_bytes: Of its body, as far as they were read.
        """
        label = self._route(route)
        known = status in STATUSES
        self._requests.labels(label, str(status) if known else OTHER).inc()
        self._seconds.labels(label).observe(seconds)
        self._bytes.inc(body_bytes)

    def in_flight(self, requests: int) -> None:
        """How many requests are being worked on."""
        self._in_flight.set(requests)

    def queue(self, crops: int) -> None:
        """How many crops were sent to the network and are not scored yet."""
        self._queue.set(crops)

    def jobs(self, counts: Mapping[JobState, int]) -> None:
        """How many jobs there are, by state."""
        for state in get_args(JobState):
            self._jobs.labels(state).set(counts.get(state, 0))

    def problem(self, reason: str) -> None:
        """Counts what was refused: a request, or a file of several."""
        self._problems.labels(self._reason(reason)).inc()
        if reason in DECODER_LOST:
            self._deaths.inc()

    def batch(self, sizes: Iterable[int]) -> None:
        """Counts passes through the network by their crops."""
        for crops in sizes:
            self._batch.observe(crops)

    def stages(self, timings: Timings) -> None:
        """Counts where the time of an answer went."""
        for stage in STAGES:
            self._stages.labels(stage).observe(getattr(timings, stage) / 1000)

    def model(self, name: str, info: DetectorInfo) -> None:
        """Takes note of a detector that is served, or that takes the place of another one.

        What came in before is no longer compared with anything.
        """
        before = self._infos.get(name)
        if before is not None:
            self._model.remove(name, before.id, before.weights_sha256)
        self._infos[name] = info
        fit = info.calibration.fit if info.calibration else None
        self._drifts[name] = Drift(info.reference, fit.prevalence if fit else None)
        self._model.labels(name, info.id, info.weights_sha256).set(1)

    def reload(self, name: str, outcome: str) -> None:
        """Counts a reload: `taken` or `refused`."""
        known = outcome if outcome in ("taken", "refused") else OTHER
        self._reloads.labels(name if name in self._infos else OTHER, known).inc()

    def detection(self, detection: Detection, looks: Iterable[Statistics] = ()) -> None:
        """Counts a verdict, and compares the clip with those of the validation.

        Args:
            detection: The answer, of a request or of a job.
            looks: Of the crops of the clip's parts, by `serve.watching.drift.look_at`.
        """
        name = detection.model.name
        known = name if name in self._infos else OTHER
        self._verdicts.labels(known, detection.verdict).inc()
        if (info := self._in_use(detection.model)) is None:
            return
        statistics = _joined(looks)
        statistics["face_size"] = face_sizes([point.box for point in detection.timeline])
        # The aggregation `original` has no scores that could be compared.
        points = [point for point in detection.timeline if point.sigmoids is None]
        scores = _own_scores([point.probability_fake for point in points], info)
        self._drifts[name].add(scores, statistics)

    def crops(self, model: ModelId, p_fake: Sequence[float], look: Statistics) -> None:
        """Compares ready crops with those of the validation.

        The crops of a request may be of one clip or of many, so that their mean is no clip's score;
        all together they weigh as much as those of a clip.

        Args:
            model: What scored them.
            p_fake: Its answer.
            look: By `serve.watching.drift.look_at`.
        """
        if (info := self._in_use(model)) is None:
            return
        comparable = info.decision.aggregation != "original"
        scores = _own_scores(p_fake if comparable else [], info)
        self._drifts[model.name].add(scores, look, of_a_clip=False)

    def _in_use(self, model: ModelId) -> DetectorInfo | None:
        """The detector that answered, unless it has been exchanged meanwhile."""
        info = self._infos.get(model.name)
        return info if info is not None and info.weights_sha256 == model.fingerprint else None

    def render(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"genconvit_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"genconvit_{name}", text, labels, registry=self._registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        full = f"genconvit_{name}"
        return Histogram(full, text, labels, buckets=buckets, registry=self._registry)


def _joined(looks: Iterable[Statistics]) -> Statistics:
    parts = [part for part in looks if part]
    names = parts[0] if parts else {}
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _own_scores(p_fake: Sequence[float], info: DetectorInfo) -> np.ndarray:
    """P(fake) of crops as the network has it: a reference is without temperature."""
    return np.asarray(expit(info.temperature * logit(np.asarray(p_fake, dtype=np.float64))))
