"""How often one may ask."""

from __future__ import annotations

BURST_S = 5.0
"""Who was quiet may ask at once what is allowed in so many seconds."""
_ROUNDING = 1e-6
"""Of a request: who waited as long as was asked is not sent away for a rounding error."""


class TokenBucket:
    """Lets through at most `rate_per_s * t + burst` requests in any t seconds.

    https://en.wikipedia.org/wiki/Token_bucket

    Args:
        rate_per_s: Requests a second in the long run.
        now_s: The time, by any clock that never goes back, seconds.
    """

    def __init__(self, rate_per_s: float, now_s: float) -> None:
        self.rate_per_s = rate_per_s
        self.burst = max(1.0, rate_per_s * BURST_S)
        self._tokens = self.burst
        self._filled_at_s = now_s

    def take(self, now_s: float) -> float:
        """Lets a request through, or says when to ask again.

        Returns:
            0 where it may go through; else in how many seconds the next one may.
        """
        grown = (now_s - self._filled_at_s) * self.rate_per_s
        self._tokens = min(self.burst, self._tokens + grown)
        self._filled_at_s = now_s
        if self._tokens < 1 - _ROUNDING:
            return (1 - self._tokens) / self.rate_per_s
        self._tokens = max(0.0, self._tokens - 1)
        return 0.0
