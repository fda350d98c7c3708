"""What happens beside the steps: progress, saved states, and the end of a run that cannot go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from genconvit.config import Settings
from genconvit.errors import RunEndedError, RunStoppedError
from genconvit.train.distributed import largest_of_workers, rank_and_world
from genconvit.train.feed import Feed
from genconvit.train.state import RunState

Event = dict[str, Any]
Ask = Callable[[], Literal["", "save", "stop"]]
"""Whether someone wants the run saved, or saved and stopped. All workers call it together."""

SECONDS_BETWEEN_EVENTS = 0.5
SECONDS_BETWEEN_QUESTIONS = 2.0
UPDATES_BETWEEN_LOOKS = 10
"""On a GPU, where looking waits for the device."""
SAVING_SHARE = 0.05
"""Of a run's time: what saving may take after epochs that are neither the best so far nor the last.

A large network's state is a gigabyte, and an epoch on few crops is over in a second.
"""
CHEAP_S = 1.0
"""Saving that takes no longer is never left out."""


class Watch:
    """Looks at a run now and then: every step on a CPU, every tenth on a GPU.

    Args:
        settings: Of the run.
        state: What is looked at.
        device: Where it computes.
        save: Writes the state; all workers call it together.
        on_event: Told how far the run is, by the first worker.
        ask: See `Ask`.
    """

    def __init__(
        self,
        settings: Settings,
        state: RunState,
        device: torch.device,
        save: Callable[[], None],
        on_event: Callable[[Event], None],
        ask: Ask,
    ) -> None:
        self._settings, self._state, self._device = settings, state, device
        self._save, self._on_event, self._ask = save, on_event, ask
        self._every = UPDATES_BETWEEN_LOOKS if device.type == "cuda" else 1
        self._saved = self._asked = time.monotonic()
        self._saving_s = self._told = 0.0
        self._seconds_an_epoch: float | None = None

    def begin(self, feed: Feed, batches: int, batch_size: int) -> None:
        """An epoch starts, or goes on.

        Args:
            feed: Its batches.
            batches: Of the whole epoch.
            batch_size: Crops of a batch.
        """
        self._feed, self._batches, self._batch_size = feed, batches, batch_size
        self._first, self._started = self._state.batches, time.monotonic()

    def may_save(self) -> bool:
        """Whether there is time to save after an epoch; all workers call it together."""
        waited = time.monotonic() - self._saved
        timely = self._saving_s <= CHEAP_S or self._saving_s <= SAVING_SHARE * waited
        [answer] = largest_of_workers([float(timely)], self._device)
        return bool(answer)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Goes around what is written after an epoch."""
        began = time.monotonic()
        yield
        self._saved = time.monotonic()
        self._saving_s = self._saved - began

    def epoch_done(self) -> None:
        """An epoch is over, with all that is written after it."""
        self._seconds_an_epoch = time.monotonic() - self._started

    def look(self) -> None:
        """Called after every update, by all workers.

        Raises:
            RunEndedError: Too many steps in a row were skipped, the state cannot be saved, or
                someone asked for it.
        """
        if self._state.updates % self._every:
            return
        now = time.monotonic()
        self._refuse_too_many_skipped()
        due = now - self._saved >= 60 * self._settings.train.checkpoint_minutes
        curious = now - self._asked >= SECONDS_BETWEEN_QUESTIONS
        save, question = largest_of_workers([float(due), float(curious)], self._device)
        stop = 0.0
        if question:
            self._asked = now
            own = ("", "save", "stop").index(self._ask())
            [answer] = largest_of_workers([float(own)], self._device)
            save, stop = max(save, float(answer >= 1)), float(answer >= 2)
        if save:
            self._save()
            self._saved = time.monotonic()
        if stop:
            raise RunStoppedError(
                f"the run was stopped in epoch {self._state.epoch + 1} and its state is saved; "
                "continue with --resume."
            )
        if rank_and_world()[0] == 0 and now - self._told >= SECONDS_BETWEEN_EVENTS:
            self._told = now
            self._on_event(self._progress(now))

    def _refuse_too_many_skipped(self) -> None:
        limit = self._settings.train.max_skipped_steps
        if int(self._state.skipped_in_a_row.item()) >= limit:
            raise RunEndedError(
                f"{limit} steps in a row had a gradient that is not finite, in epoch "
                f"{self._state.epoch + 1}: the loss is no longer finite; lower train.lr or "
                "train.clip_grad and start again."
            )

    def _progress(self, now: float) -> Event:
        state, train = self._state, self._settings.train
        done, seconds = state.batches - self._first, now - self._started
        parts = state.sums.own()
        world = rank_and_world()[1]
        a_batch = seconds / max(done, 1)
        epochs_left = train.epochs - state.epoch - 1
        an_epoch = self._seconds_an_epoch or a_batch * self._batches
        event = {
            "event": "step",
            "epoch": state.epoch + 1,
            "epochs": train.epochs,
            "step": state.batches,
            "steps": self._batches,
            "update": state.updates,
            "loss": parts.pop("loss", None),
            "parts": parts,
            "lr": state.schedule.lr,
            "crops_per_s": round(done * self._batch_size * world / max(seconds, 1e-9), 1),
            "data_wait": round(self._feed.wait_s / max(seconds, 1e-9), 4),
            "skipped": int(state.skipped.item()),
            "seconds_left": round(
                a_batch * (self._batches - state.batches) + epochs_left * an_epoch, 1
            ),
            "workers": world,
        }
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            event |= {"gpu_bytes": total - free, "gpu_total_bytes": total}
        return event
