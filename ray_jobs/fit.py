"""The TorchTrainer of a run, for processes that start one and wait for it.

Those are many, and what computes takes seconds to import: only the workers do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from genconvit.errors import RunStoppedError, UserError
from genconvit.train.run_folder import RunFolder
from genconvit.wording import plural
from ray_jobs.cache import Cache
from ray_jobs.cluster import Budget
from ray_jobs.failures import reason_of, user_error_in

MINUTES_WITHOUT_ROOM = 30
"""How long a run waits in all for nodes that it needs to come back; Ray looks once a minute."""


def fit_run(
    folder: RunFolder,
    data: Sequence[str],
    budget: Budget,
    mailbox: Any,
    cache: Cache | None = None,
    **run_config: Any,
) -> None:
    """Runs the trainer to its end; `run_config` reaches Ray's RunConfig.

    Raises:
        UserError: The run ended before its time.
        RunStoppedError: It was asked to.
    """
    run, retries = str(folder.path), folder.settings.train.max_failures
    failure: ray.train.TrainingFailedError | None = None
    try:
        trainer_for(folder, data, budget, mailbox, cache, **run_config).fit()
    except ray.train.TrainingFailedError as error:
        failure = error
    end = ray.get(mailbox.end_of.remote(run))
    if end is not None:
        raise (RunStoppedError if end["interrupted"] else UserError)(end["message"])
    if isinstance(failure, ray.train.ControllerError):
        raise UserError(
            f"the cluster had no room for the run's workers for {MINUTES_WITHOUT_ROOM} minutes in "
            f"all ({reason_of(failure)}); add nodes or ask for fewer with --num-workers, and "
            f"continue with --resume {run}."
        ) from failure
    if failure is not None and user_error_in(failure) is None:
        raise UserError(
            f"the run failed {plural(retries + 1, 'time')}, at last with: {reason_of(failure)}; "
            f"mend that (Ray's logs tell more) and continue with --resume {run}."
        ) from failure
    if failure is not None:
        raise failure


def trainer_for(
    folder: RunFolder,
    data: Sequence[str],
    budget: Budget,
    mailbox: Any,
    cache: Cache | None = None,
    **run: Any,
) -> TorchTrainer:
    """The TorchTrainer of a run.

    Args:
        folder: The run's folder.
        data: Locations of the crops.
        budget: What it gets of the cluster.
        mailbox: Told of every event.
        cache: Decoded crops, if they are kept.
        run: Reaches Ray's RunConfig.
    """
    config = {
        "settings": folder.settings.model_dump_json(),
        "data": list(data),
        "out": str(folder.path),
        "summary": folder.data,
        "mailbox": mailbox,
        "data_cpus": budget.data_cpus,
        "cache": cache,
        # Not in `runtime_env`, which Ray shows and logs: there may be passwords among them.
        "logger_variables": {
            name: value
            for name, value in os.environ.items()
            if name.split("_")[0].lower() in folder.settings.train.log_to
        },
    }
    scaling = ScalingConfig(
        num_workers=budget.workers
        if budget.elastic_to is None
        else (budget.workers, budget.elastic_to),
        use_gpu=budget.use_gpu,
        resources_per_worker={
            "CPU": budget.cpus_per_worker,
            **({"GPU": budget.gpus_per_worker} if budget.use_gpu else {}),
        },
    )
    return TorchTrainer(
        _work,
        train_loop_config=config,
        scaling_config=scaling,
        run_config=RunConfig(
            storage_path=str(folder.path / "ray"),
            failure_config=FailureConfig(
                max_failures=folder.settings.train.max_failures,
                controller_failure_limit=MINUTES_WITHOUT_ROOM,
            ),
            **{"name": f"train-{time.time_ns()}", **run},
        ),
    )


def _work(config: dict[str, Any]) -> None:
    """Runs in every worker."""
    from ray_jobs.train_worker import train_worker

    train_worker(config)
