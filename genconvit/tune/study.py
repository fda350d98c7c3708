"""The Optuna study of a sweep: what was tried, and how it went.

It is kept in a database from the first trial on, so that a sweep that was cut off goes on, and
several clusters can work on one study. A trial's own files lie in its run's folder.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from genconvit.config import Settings
from genconvit.config_tune import OBJECTIVES, TuneSettings
from genconvit.errors import UserError
from genconvit.tune.space import Space

DATABASE = "study.db"
OWNER, CONFIG, FAILURE = "sweep", "config", "failure"
"""Attributes of a trial: the folder of the sweep that runs it, its settings, why it failed."""

_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Study:
    """Asks Optuna for settings, and tells it how they went.

    Args:
        folder: Of the sweep; trials that were begun for it are its own.
        space: What is searched.
        settings: All settings of the sweep.

    Raises:
        UserError: The storage cannot be opened, or holds a study of another kind.
    """

    def __init__(self, folder: Path, space: Space, settings: Settings) -> None:
        tune = settings.tune
        self._owner, self._space, self._base = str(folder), space, settings
        folder.mkdir(parents=True, exist_ok=True)
        self._url = tune.storage or f"sqlite:///{folder / DATABASE}"
        self._stops, self._epochs = tune.stops, settings.train.epochs
        directions = [OBJECTIVES[name] for name in tune.objectives]
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        pruner = optuna.pruners.SuccessiveHalvingPruner(  # ASHA
            min_resource=tune.grace(self._epochs), reduction_factor=tune.reduction_factor
        )
        with _explained(self._url):
            self._study = optuna.create_study(
                storage=self._url,
                study_name=tune.study or folder.name,
                directions=directions,
                pruner=pruner if self._stops else optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
            begun = len(self._study.get_trials(deepcopy=False))
        if [each.name.lower() for each in self._study.directions] != directions:
            raise UserError(
                f"tune.study: the study {self._study.study_name} has other objectives; name "
                "another one."
            )
        # Another seed each time, or a sweep that goes on would draw the same settings again.
        self._study.sampler = _sampler(tune, settings.seed + begun)
        self._running: dict[int, Trial] = {}

    @property
    def place(self) -> str:
        """The storage's URL and the study's name, for optuna-dashboard."""
        return f"{_public(self._url)}, study {self._study.study_name}"

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials that were begun, of every sweep."""
        states = (*_ENDED, TrialState.RUNNING)
        trials = self._study.get_trials(deepcopy=False, states=states)
        return [trial for trial in trials if OWNER in trial.user_attrs]

    def begin(self, points: Sequence[Mapping[str, Any]], earlier: Sequence[FrozenTrial]) -> None:
        """Of a new study: learns from earlier trials, and takes some settings first.

        Args:
            points: Searched settings, perhaps not all of them.
            earlier: Trials of another study; those with settings outside this space are left out.
        """
        if self._study.get_trials(deepcopy=False):
            return
        dimensions = {dimension.name: dimension for dimension in self._space.dimensions}
        for trial in earlier:
            inside = all(
                name in dimensions and dimensions[name].holds(value)
                for name, value in trial.params.items()
            )
            if trial.state in _ENDED and trial.values is not None and inside:
                self._study.add_trial(
                    optuna.trial.create_trial(
                        state=trial.state,
                        values=trial.values,
                        params=trial.params,
                        distributions={
                            name: dimensions[name].distribution for name in trial.params
                        },
                        intermediate_values=trial.intermediate_values,
                    )
                )
        for point in points:
            self._study.enqueue_trial(dict(point))

    def ended(self) -> int:
        """How many trials have come to an end, in all sweeps of the study."""
        return sum(trial.state in _ENDED for trial in self.trials)

    def unfinished(self) -> list[int]:
        """Trials of this sweep that were begun and are not at work in this process."""
        return [
            trial.number
            for trial in self.trials
            if trial.state == TrialState.RUNNING
            and trial.user_attrs[OWNER] == self._owner
            and trial.number not in self._running
        ]

    def ask(self) -> tuple[int, dict[str, Any]]:
        """A new trial: its number and its settings."""
        trial = self._study.ask()
        config = self._space.suggest(trial, self._base)
        trial.set_user_attr(CONFIG, config)
        trial.set_user_attr(OWNER, self._owner)
        self._running[trial.number] = trial
        return trial.number, config

    def go_on(self, number: int) -> tuple[int, dict[str, Any]]:
        """One of the `unfinished`: its number and its settings."""
        [frozen] = [trial for trial in self.trials if trial.number == number]
        self._running[number] = Trial(self._study, frozen._trial_id)
        return number, dict(frozen.user_attrs[CONFIG])

    def report(self, number: int, epoch: int, score: float | None) -> bool:
        """Notes the best score so far after an epoch; whether the trial is to stop.

        One that has come to its last epoch is not stopped.
        """
        trial = self._running[number]
        if len(self._study.directions) > 1 or score is None:
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an epoch may come twice, after a worker was lost
            trial.report(score, epoch)
        return self._stops and epoch < self._epochs and trial.should_prune()

    def finish(
        self, number: int, scores: Sequence[float] | None, *, stopped: bool, failure: str | None
    ) -> None:
        """Notes how a trial ended.

        Args:
            number: Of the trial.
            scores: One an objective; None where there are none.
            stopped: ASHA has stopped it.
            failure: Why it failed.
        """
        trial = self._running.pop(number)
        if failure is None and scores is None:
            failure = "no epoch came to its end with a score"
        if failure is not None:
            trial.set_user_attr(FAILURE, failure)
            self._study.tell(trial, state=TrialState.FAIL)
        elif stopped:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, scores)

    def leave(self, number: int) -> None:
        """Lets a trial go that is to go on later."""
        del self._running[number]

    def importance(self) -> dict[str, float] | None:
        """Share of each setting in the variance of the first objective; None with too few trials.

        Settings that not every trial has are left out.
        """
        done = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        if len(done) < 4 or len({trial.values[0] for trial in done}) < 2:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = optuna.importance.get_param_importances(
                    self._study,
                    evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
                    target=lambda trial: trial.values[0],
                )
            except (RuntimeError, ValueError):  # no setting is in all of the trials
                return None
        return {name: float(share) for name, share in found.items()}


def earlier_trials(folder: Path) -> list[FrozenTrial]:
    """The trials of another sweep, from its own database.

    Raises:
        UserError: There is none.
    """
    file = folder / DATABASE
    if not file.is_file():
        raise UserError(
            f"tune.warm_start={folder}: there is no {DATABASE}; give the folder of an earlier "
            "sweep that kept its study there."
        )
    url = f"sqlite:///{file.resolve()}"
    with _explained(url):
        [name, *_] = optuna.get_all_study_names(url)
        return optuna.load_study(study_name=name, storage=url).trials


def _sampler(tune: TuneSettings, seed: int) -> BaseSampler:
    several = len(tune.objectives) > 1
    kind = tune.sampler or ("nsga2" if several else "tpe")
    seed %= 2**32
    if kind == "random":
        return RandomSampler(seed)
    if kind == "nsga2":
        return NSGAIISampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these options may change some day
        # Settings are drawn together, in groups, as conditions leave some of them out.
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turns what a storage says into a sentence."""
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the study cannot be opened at {_public(url)} ({reason}); check tune.storage and "
            "tune.study."
        ) from error


def _public(url: str) -> str:
    """A storage's URL without its password."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", url)
