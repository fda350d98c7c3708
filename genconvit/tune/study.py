"""The Optuna study of a sweep: what was tried, and how it went.

It is kept in a database from the first trial on, so that a sweep that was cut off goes on, and
several clusters can work on one study. A trial's own files lie in its run's folder.
"""

from __future__ import annotations

import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import DBAPIError

from genconvit.config import Settings
from genconvit.config_tune import OBJECTIVES, TuneSettings
from genconvit.errors import UserError
from genconvit.tune.begun import Begun
from genconvit.tune.space import Space

T = TypeVar("T")

DATABASE = "study.db"
OWNER, CONFIG, FAILURE = "sweep", "config", "failure"
"""Attributes of a trial: the id of the sweep that runs it, its settings, why it failed."""
_TERMS, _READY = "terms", "ready"
_WAITS_S = (1.0, 5.0, 20.0)
"""Between tries to reach a storage."""

_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Study:
    """Asks Optuna for settings, and tells it how they went.

    Args:
        folder: Of the sweep.
        begun: What the sweep was begun with.
        space: What it searches.
        settings: All settings of the sweep.

    Raises:
        UserError: The storage cannot be opened, or holds a study of another kind.
    """

    def __init__(self, folder: Path, begun: Begun, space: Space, settings: Settings) -> None:
        tune = settings.tune
        self.owner, self._base, self._space = begun.id, settings, space
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
                study_name=begun.study,
                directions=directions,
                pruner=pruner if self._stops else optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
            so_far = len(self._study.get_trials(deepcopy=False))
            terms, agreed = begun.terms(settings), self._study.user_attrs.get(_TERMS)
            if agreed is None:
                self._study.set_user_attr(_TERMS, terms)
        if [each.name.lower() for each in self._study.directions] != directions:
            raise UserError(
                f"tune.study: the study {self._study.study_name} has other objectives; name "
                "another one."
            )
        for name, value in (agreed or terms).items():
            if value != terms[name]:
                raise UserError(
                    f"tune.study: the study {self._study.study_name} was begun with another "
                    f"{name}; give the same, or name another study."
                )
        # Another seed each time, or a sweep that goes on would draw the same settings again.
        self._study.sampler = _sampler(tune, settings.seed + so_far)
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
        if _READY in self._study.user_attrs:
            return
        for point in points:
            self._study.enqueue_trial(dict(point), skip_if_exists=True)
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
        self._study.set_user_attr(_READY, True)

    def ended(self) -> int:
        """How many trials have come to an end, in all sweeps of the study."""
        return sum(trial.state in _ENDED for trial in self.trials)

    def unfinished(self) -> list[int]:
        """Trials of this sweep that were begun and are not at work in this process."""
        return [
            trial.number
            for trial in self.trials
            if trial.state == TrialState.RUNNING
            and trial.user_attrs[OWNER] == self.owner
            and trial.number not in self._running
        ]

    def ask(self) -> tuple[int, dict[str, Any]]:
        """A new trial: its number and its settings."""
        trial = _patiently(self._study.ask)
        config = self._space.suggest(trial, self._base)
        trial.set_user_attr(CONFIG, config)
        trial.set_user_attr(OWNER, self.owner)
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
            _patiently(lambda: trial.report(score, epoch))
        return self._stops and epoch < self._epochs and _patiently(trial.should_prune)

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
        trial = self._running[number]
        if failure is None and scores is None:
            failure = "no epoch came to its end with a score"
        if failure is not None:
            _patiently(lambda: trial.set_user_attr(FAILURE, failure))
            told: dict[str, Any] = {"state": TrialState.FAIL}
        elif stopped:
            told = {"state": TrialState.PRUNED}
        else:
            told = {"values": scores}
        _patiently(lambda: self._study.tell(trial, **told, skip_if_finished=True))
        del self._running[number]

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


def earlier_trials(folder: Path, objectives: Sequence[str]) -> list[FrozenTrial]:
    """The trials of another sweep, from its own database.

    Args:
        folder: Of the sweep.
        objectives: Of the new one.

    Raises:
        UserError: There is none, or it had other objectives.
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
        study = optuna.load_study(study_name=name, storage=url)
        if [each.name.lower() for each in study.directions] != [OBJECTIVES[n] for n in objectives]:
            raise UserError(f"tune.warm_start={folder} had other objectives; give the same.")
        return study.trials


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
    except ImportError as error:
        name = getattr(error.__cause__ or error.__context__ or error, "name", None)
        raise UserError(
            f"tune.storage={_public(url)} needs the Python package {name or 'of its database'}; "
            "install it."
        ) from error
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the study cannot be opened at {_public(url)} ({reason}); check tune.storage and "
            "tune.study."
        ) from error


def _patiently(call: Callable[[], T]) -> T:
    """What a storage answers, which may be out of reach for a while.

    Raises:
        UserError: It stays so.
    """
    for wait in (*_WAITS_S, None):
        try:
            return call()
        except (StorageInternalError, DBAPIError) as error:
            if wait is None:
                raise UserError(
                    f"the study's database does not answer ({type(error).__name__}); see to it, "
                    "then go on with --resume."
                ) from error
            time.sleep(wait)
    raise AssertionError


def _public(url: str) -> str:
    """A storage's URL without its password."""
    url = re.sub(r"(://[^:/@]*):[^/]*@", r"\1:***@", url)
    return re.sub(r"(?i)(passw\w*|pwd)=[^&]*", r"\1=***", url)
