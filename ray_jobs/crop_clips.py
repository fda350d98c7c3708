"""Clips to crops in Ray tasks, on their way to a scorer.

Torch is not imported here: it takes seconds and much memory, which these tasks do not need.

A clip that ends the process that reads it is left out after a few tries, as in extraction.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from genconvit.config import PreprocessSettings, SamplingSettings
from genconvit.data.audit.measure import Features, features_of_crops
from genconvit.data.crops import ClipCrops, extract_crops
from genconvit.errors import ClipError, UserError
from genconvit.storage import is_url
from ray_jobs.extract_plan import Request
from ray_jobs.extract_tasks import Task, Watch, begun, deadly, local_copy
from ray_jobs.mailbox import Event

CropsOf = Callable[[Path, str, PreprocessSettings, SamplingSettings], Any]
"""Gives the crops of a clip, by its file and its name."""


def crops_of_clip(
    path: Path, name: str, preprocess: PreprocessSettings, sampling: SamplingSettings
) -> ClipCrops:
    """The crops of a clip as it is."""
    return extract_crops(path, preprocess, sampling)


@dataclass(frozen=True)
class MeasuredCrops(ClipCrops):
    """The crops of a clip, with what was measured of them where there are any."""

    features: Features | None = None


def measured_crops(
    path: Path, name: str, preprocess: PreprocessSettings, sampling: SamplingSettings
) -> MeasuredCrops:
    """The crops of a clip as it is, measured: a few milliseconds beside the clip's decoding."""
    found = extract_crops(path, preprocess, sampling)
    return MeasuredCrops(**vars(found), features=features_of_crops(found.crops))


class Deaths(Watch):
    """Remembers in which clip a process died, and keeps no events."""

    def push(self, event: Event) -> None:
        """Ends a clip."""
        self._open.discard(event["clip"])


@dataclass(frozen=True)
class Cropped:
    """A clip on its way to a scorer; `found` is what `CropsOf` gave, or None with a failure."""

    task: Task
    found: Any
    failure_kind: str
    failure: str
    seconds: float


def crop_part(
    batch: dict[str, Any],
    preprocess: PreprocessSettings,
    sampling: SamplingSettings,
    deaths: Any,
    crops_of: CropsOf,
) -> pa.Table:
    """Decodes and crops a few clips.

    Args:
        batch: One row: `tasks` (pickled).
        preprocess: From a frame to a crop.
        sampling: Which frames.
        deaths: A `Deaths`, told of every clip.
        crops_of: Gives the crops of a clip.

    Returns:
        One row: `cropped`, a pickled list of `Cropped`.
    """
    tasks: list[Task] = pickle.loads(batch["tasks"][0])
    part = Request.digest([task.clip.name for task in tasks])
    cropped = []
    for task, died in begun(part, tasks, deaths):
        started = time.perf_counter()
        found, kind, failure = None, "", ""
        try:
            if died:
                raise deadly(task.clip)
            with local_copy(task.clip.path) as path:
                found = crops_of(path, task.clip.name, preprocess, sampling)
        except ClipError as error:
            kind, failure = error.kind, str(error)
        except UserError as error:
            if not is_url(task.clip.path):
                raise
            kind, failure = "unreachable", str(error)
        except Exception as error:  # one clip that breaks a library must not end the others
            kind, failure = type(error).__name__, f"{type(error).__name__}: {error}"
        cropped.append(Cropped(task, found, kind, failure, time.perf_counter() - started))
        deaths.push.remote({"clip": task.clip.name})
    return one_row("cropped", cropped)


def one_row(column: str, content: Any) -> pa.Table:
    """A block of one row. Ray's own columns of bytes hold 2 GiB at most."""
    return pa.table({column: pa.array([pickle.dumps(content)], pa.large_binary())})
