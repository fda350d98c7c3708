"""Ray Tune's two sides of a study: which settings come next, and which trials stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from genconvit.tune.study import Study
from ray_jobs.tune_trial import NUMBER, SEARCHED

METRIC = "best_clip_auc"
"""What Optuna hears of every epoch: the validation clip AUC of the best detector so far."""


@dataclass(frozen=True)
class Ending:
    """How a trial ended.

    Attributes:
        scores: One an objective; None where there are none.
        failure: Why it failed.
        interrupted: It was asked to save its state and stop, and goes on when the sweep does.
    """

    scores: tuple[float, ...] | None = None
    failure: str | None = None
    interrupted: bool = False


class StudySearch(Searcher):
    """First the trials of the study that were cut off, then new ones, up to a number in all.

    Args:
        study: The study.
        trials: Trials of the study, of every sweep that works on it.
        ending: Tells of a trial's end, by its number.
        told: Called with the number of a trial and what is known of its end.
        is_stop_asked: Whether no more trials are to begin.
    """

    def __init__(
        self,
        study: Study,
        trials: int,
        ending: Callable[[int], Ending],
        told: Callable[[int, Ending, bool], None],
        is_stop_asked: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._study, self._trials = study, trials
        self._ending, self._told, self._is_stop_asked = ending, told, is_stop_asked
        self._waiting = study.unfinished()
        self._numbers: dict[str, int] = {}
        self.stopped: set[int] = set()
        """Trials that ASHA has stopped."""

    def suggest(self, trial_id: str) -> Any:
        """Settings for a trial of Ray Tune."""
        if self._is_stop_asked():
            return Searcher.FINISHED
        if self._waiting:
            number, config = self._study.go_on(self._waiting.pop(0))
        elif len(self._study.trials) < self._trials:
            number, config = self._study.ask()
        else:
            return Searcher.FINISHED
        self._numbers[trial_id] = number
        return {NUMBER: number, SEARCHED: config}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells the study how a trial ended."""
        number = self._numbers[trial_id]
        ending, stopped = self._ending(number), number in self.stopped
        if ending.interrupted:
            self._study.leave(number)
        else:
            failure = ending.failure or ("its process was lost" if error else None)
            ending = Ending(ending.scores, failure)
            self._study.finish(number, ending.scores, stopped=stopped, failure=failure)
        self._told(number, ending, stopped)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune keeps a copy, and the study is what a sweep goes on from."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """The study has all of it; Ray wants a file."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class StudyStops(FIFOScheduler):
    """Stops a trial where the study says so.

    Args:
        study: The study.
        search: Remembers what was stopped.
    """

    def __init__(self, study: Study, search: StudySearch) -> None:
        super().__init__()
        self._study, self._search = study, search

    def __getstate__(self) -> dict[str, Any]:
        """As `StudySearch`."""
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether a trial goes on after an epoch."""
        number = trial.config[NUMBER]
        if not self._study.report(number, result["epoch"], result[METRIC]):
            return str(self.CONTINUE)
        self._search.stopped.add(number)
        return str(self.STOP)


class Silent(TrialProgressCallback):
    """In place of Ray Tune's own, which prints of trials without a result whatever it is told."""

    def _print(self, msg: str) -> None:
        pass
