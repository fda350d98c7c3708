"""Descriptions of detectors that an earlier version wrote, brought to today's format.

A change of the format adds a step here, and a detector of the format before to tests/checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

from genconvit.errors import UserError

FORMAT: Final[Literal[2]] = 2
"""The format of `detector.json` that this version writes."""

Content = dict[str, Any]


def upgraded(content: Any, where: str) -> Content:
    """The description in today's format.

    Args:
        content: What detector.json holds.
        where: The file, for messages.

    Raises:
        UserError: It is no description, or of a later format.
    """
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise UserError(f"{where} is no description of a detector; restore the file.")
    if not isinstance(content.get("training", {}), dict):
        raise UserError(f"{where}: training is no mapping; it is damaged, restore the file.")
    if content["format"] > FORMAT:
        raise UserError(
            f"{where} has format {content['format']}, and this is another version of genconvit, "
            f"which reads formats up to {FORMAT}; install a newer one."
        )
    while content["format"] < FORMAT:
        step = STEPS.get(content["format"])
        if step is None:
            raise UserError(f"{where} has the unknown format {content['format']}.")
        content = step(content)
    return content


def _from_1(content: Content) -> Content:
    """Format 1 kept metrics, digest and versions among the facts of training."""
    training = dict(content.get("training", {}))
    libraries = {name: training.pop(name) for name in ("python", "torch") if name in training}
    return {
        **content,
        "format": 2,
        "metrics": training.pop("validation", {}),
        "data_digest": training.pop("data_digest", None),
        "libraries": libraries,
        "training": training,
    }


STEPS: dict[int, Callable[[Content], Content]] = {1: _from_1}
