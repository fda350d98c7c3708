"""When an epoch is the best so far, and when to stop."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class EarlyStopping:
    """Keeps the best epoch: higher validation AUC first, lower validation loss among equals.

    On a small validation split the AUC soon stands still, while the loss still tells a sure
    network from a
    hesitant one. Where the AUC is undefined (one class only) the loss alone counts.

    Attributes:
        patience: Epochs without progress before `should_stop`.
        min_delta: Smallest change that is progress.
    """

    patience: int
    min_delta: float
    best_epoch: int = 0
    best_auc: float | None = None
    best_loss: float = float("inf")
    waited: int = 0

    def update(self, epoch: int, auc: float | None, loss: float) -> bool:
        """Takes an epoch's validation; returns whether it is the best so far."""
        better = self._is_better(auc, loss)
        if better:
            self.best_epoch, self.best_auc, self.best_loss, self.waited = epoch, auc, loss, 0
        else:
            self.waited += 1
        return better

    @property
    def should_stop(self) -> bool:
        """Whether patience has run out."""
        return self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes; patience and min_delta stay those of the settings."""
        state = asdict(self)
        return {k: v for k, v in state.items() if k not in ("patience", "min_delta")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`."""
        for name, value in state.items():
            setattr(self, name, value)

    def _is_better(self, auc: float | None, loss: float) -> bool:
        if self.best_epoch == 0:
            return True
        if auc is not None and self.best_auc is not None:
            if auc > self.best_auc + self.min_delta:
                return True
            if auc < self.best_auc:
                return False
        return loss < self.best_loss - self.min_delta
