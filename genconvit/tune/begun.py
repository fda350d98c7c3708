"""What a sweep was begun with: kept in its folder, and the same whenever it goes on."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genconvit.config import Settings
from genconvit.config_tune import TuneSettings
from genconvit.errors import UserError
from genconvit.files import read_json, write_json
from genconvit.train.run_folder import flat_settings

BEGUN = "begun.json"
MAY_CHANGE = {
    "tune.trials",
    "tune.confirm_seeds",
    "tune.retrain_best",
    "tune.retrain_seeds",
    "tune.retrain_epochs",
    "tune.gpus_per_worker",
    "train.device",
    "train.max_failures",
    "stream.cache",
}
"""The settings of a sweep that may change while it goes on."""
_SECRET = {"tune.storage"}  # a URL with a password, perhaps


class Begun(BaseModel):
    """What stays the same in a sweep."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(description="Drawn at random: the folder may be moved, or be of one name.")
    study: str = Field(description="Name of the study in its storage.")
    space: dict[str, dict[str, Any]]
    data_digest: str

    @classmethod
    def new(
        cls, folder: Path, tune: TuneSettings, space: dict[str, Any], data_digest: str
    ) -> Begun:
        """Of a sweep that begins."""
        return cls(
            id=uuid.uuid4().hex,
            study=tune.study or folder.name,
            space=space,
            data_digest=data_digest,
        )

    def terms(self, settings: Settings) -> dict[str, Any]:
        """What all sweeps on one study must agree on."""
        return {
            "space": self.space,
            "epochs": settings.train.epochs,
            "data": self.data_digest,
        }


def write_begun(folder: Path, begun: Begun) -> None:
    """Keeps it in the sweep's folder."""
    write_json(folder / BEGUN, begun.model_dump(mode="json"))


def read_begun(folder: Path) -> Begun:
    """What the sweep in a folder was begun with.

    Raises:
        UserError: It cannot be read.
    """
    content = read_json(folder / BEGUN, "what the sweep was begun with")
    try:
        return Begun.model_validate(content)
    except ValidationError:
        raise UserError(f"{folder / BEGUN} is damaged; start a new sweep.") from None


def refuse_changes(
    folder: Path, begun: Begun, before: Settings, settings: Settings, data_digest: str
) -> None:
    """Whether a sweep can go on with these settings and data.

    Args:
        folder: Of the sweep.
        begun: What it was begun with.
        before: Its settings.
        settings: Those that it is to go on with.
        data_digest: Of the crops.

    Raises:
        UserError: It was begun with others.
    """
    old = flat_settings(before, "tune", "sampling")
    for name, value in flat_settings(settings, "tune", "sampling").items():
        if name not in MAY_CHANGE and value != old[name]:
            was = "another one" if name in _SECRET else old[name]
            raise UserError(
                f"{folder} was begun with {name}={was}; go on without changing that, or start a "
                "new sweep."
            )
    if data_digest != begun.data_digest:
        raise UserError(f"{folder} was begun with other data; go on with that.")
