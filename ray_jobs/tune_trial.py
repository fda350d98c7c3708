"""One trial of a sweep, in a process of its own that waits for the trial's workers.

It imports no more than that takes (see `ray_jobs.fit`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.tune.integration.ray_train import TuneReportCallback

from genconvit.config import Settings
from genconvit.config_tune import TuneSettings
from genconvit.errors import RunStoppedError
from genconvit.files import write_json
from genconvit.train.run_folder import RunFolder, finished
from genconvit.trainable import without_idle_heads
from genconvit.tune.space import trial_settings
from ray_jobs.cache import Cache
from ray_jobs.cluster import Budget
from ray_jobs.failures import reason_of
from ray_jobs.fit import fit_run

TRIALS = "trials"
"""Folder of the trials' runs."""
SPEED = "speed.json"
NUMBER, SEARCHED = "number", "settings"
"""What a trial's `config` holds: its number in the study, and its settings."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trials:
    """What all trials of a sweep have in common.

    Attributes:
        out: The sweep's folder.
        settings: But for what is searched.
        data: Locations of the crops.
        summary: What results.json says of them.
        budget: What each trial gets.
        mailbox: Told of every event.
        cache: Decoded crops, if they are kept.
    """

    out: Path
    settings: Settings
    data: Sequence[str]
    summary: dict[str, Any]
    budget: Budget
    mailbox: Any
    cache: Cache | None

    def driver(self) -> Callable[[dict[str, Any]], None]:
        """What Ray Tune calls with the `config` of a trial."""

        def driver(config: dict[str, Any]) -> None:
            self.run(config[NUMBER], config[SEARCHED])

        return driver

    def run(self, number: int, searched: Mapping[str, Any]) -> None:
        """One trial: a TorchTrainer of its own, whose folder says where it was."""
        run = str(trial_folder(self.out, number))
        event = {"event": "trial", "run": run, "trial": number, "settings": searched}
        ray.get(self.mailbox.push.remote(event))
        try:
            folder = RunFolder(Path(run), run_settings(self.settings, searched), self.summary)
            folder.check()
            folder.start()
            if not finished(folder.path, folder.settings):
                fit_run(
                    folder,
                    self.data,
                    self.budget,
                    self.mailbox,
                    self.cache,
                    callbacks=[TuneReportCallback()],
                )
            if "ms_per_clip" in self.settings.tune.objectives:
                write_json(folder.path / SPEED, {"ms_per_clip": self._ms_per_clip(folder.best)})
        except RunStoppedError:
            return  # the mailbox knows
        except Exception as error:
            # Not raised: Ray Tune would try again what fails again.
            end = {"message": reason_of(error), "interrupted": False}
            ray.get(self.mailbox.end.remote(run, end))
            logger.exception("trial %s has failed", number)

    def _ms_per_clip(self, detector: Path) -> float:
        # Elsewhere than the trial's own share, in which there is no more room.
        timed = ray.remote(
            num_cpus=self.budget.cpus_per_worker,
            num_gpus=self.budget.gpus_per_worker if self.budget.use_gpu else 0,
            scheduling_strategy="DEFAULT",
        )(_timed)
        found: float = ray.get(timed.remote(detector))
        return found


def trial_folder(sweep: Path, number: int) -> Path:
    """The folder of a trial's run."""
    return sweep / TRIALS / f"{number:04d}"


def run_settings(settings: Settings, config: Mapping[str, Any]) -> Settings:
    """The settings of a trial's run: without those of the sweep, which are none of its business."""
    found = trial_settings(settings, config)
    model = without_idle_heads(found.model, found.loss)
    return found.model_copy(update={"model": model, "tune": TuneSettings()})


def _timed(detector: Path) -> float:
    """Runs where a worker of the trial ran."""
    from genconvit.predict import load_detector
    from genconvit.speed import ms_per_clip

    return ms_per_clip(load_detector(detector))
