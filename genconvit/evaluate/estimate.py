"""A figure with its 95 % interval."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Estimate(BaseModel):
    """A figure and its 95 % interval; None where they are undefined."""

    model_config = ConfigDict(frozen=True)

    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is shown: its interval lies on one side of 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def text(self) -> str:
        """A figure, such as "0.843 [0.79, 0.89]", or "0.843" where there is no interval."""
        if self.value is None:
            return "undefined"
        if self.low is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.2f}, {self.high:.2f}]"

    def value_text(self) -> str:
        """The figure alone, such as "0.843"."""
        return "undefined" if self.value is None else f"{self.value:.3f}"

    def difference(self) -> str:
        """A difference, such as "+0.031 [-0.004, +0.067]"."""
        if self.value is None or self.low is None:
            return "undefined"
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"
