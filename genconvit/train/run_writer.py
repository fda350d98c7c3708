"""What the first worker of a run writes into its folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from genconvit.checkpoint import DetectorInfo, save_detector
from genconvit.errors import UserError
from genconvit.files import replaced_file, write_json
from genconvit.train.run_folder import RESULTS, RunFolder, epoch_line
from genconvit.train.state import RunState, newest_state, save_state


class RunWriter(RunFolder):
    """A run's folder, for the workers that train."""

    def newest_state(self) -> tuple[Path | None, list[str]]:
        """The file of the newest whole state, if there is one, and the names of damaged newer ones.

        For the first worker alone (`genconvit.train.state.newest_state`).

        Raises:
            UserError: None is whole, though epochs are done.
        """
        path, damaged = newest_state(self.path)
        if path is None and (self.path / RESULTS).is_file():
            raise UserError(f"{self.path} has lost its states; start a new run.")
        return path, damaged

    def save_state(self, content: dict[str, Any]) -> None:
        """Writes what it takes to continue.

        Raises:
            UserError: It cannot be written.
        """
        save_state(self.path, content)

    def save_epoch(self, state: RunState) -> None:
        """Tells of the last epoch that is done: detectors, results and the log.

        Raises:
            UserError: They cannot be written; the ones before stay.
        """
        entry = state.history[-1]
        info = DetectorInfo(
            model=self.settings.model.model_copy(update={"weights": None}),
            preprocess=self.settings.preprocess,
            sampling=self.settings.sampling,
            decision=self.settings.decision,
            training={
                "seed": self.settings.seed,
                "epoch": entry["epoch"],
                "train_crops": entry["crops"]["train"],
                "val_crops": entry["crops"]["val"],
                "train_on_val": self.settings.train.train_on_val,
                "loss": self.settings.loss.model_dump(),
            },
            metrics=entry["val"] or {},
            reference=state.reference,
            data_digest=self.data["digest"],
        )
        weights = state.judge.state_dict()
        with self._explained():
            if entry["best"] or entry["val"] is None:
                save_detector(self.best, weights, info)
            save_detector(self.last, weights, info)
        self.save_history(state)

    def save_history(self, state: RunState) -> None:
        """Tells of the epochs that are done, in the results and the log.

        Raises:
            UserError: It cannot be written; what was there stays.
        """
        with self._explained():
            self._write_results(state, finished=False)
            with replaced_file(self.path / "training.log") as aside:
                lines = [epoch_line(each) + "\n" for each in state.history]
                aside.write_text("".join(lines), encoding="utf-8")

    def finish(self, state: RunState, *, stopped_early: bool) -> None:
        """Marks the run as finished.

        Raises:
            UserError: It cannot be written.
        """
        with self._explained():
            self._write_results(state, finished=True, stopped_early=stopped_early)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{self.path} cannot be written to ({getattr(error, 'strerror', None) or error}); "
                "make room or mend the disk, then continue with --resume."
            ) from error

    def _write_results(
        self, state: RunState, *, finished: bool, stopped_early: bool = False
    ) -> None:
        best = state.stopping.best_epoch
        write_json(
            self.path / RESULTS,
            {
                "finished": finished,
                "stopped_early": stopped_early,
                "epochs": state.epoch,
                "best_epoch": best or None,
                "best": state.history[best - 1]["val"] if best else None,
                "seconds": round(sum(entry["seconds"] for entry in state.history), 1),
                "data": self.data,
                "settings": self.settings.model_dump(mode="json"),
                "history": state.history,
            },
        )
