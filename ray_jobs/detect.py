"""Clips judged by a server: as `genconvit predict` shows it, without a detector here."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from genconvit.answers import Detection, Job
from genconvit.client import ApiError, Client
from genconvit.config import DecisionSettings
from genconvit.config_decision import Aggregation
from genconvit.data.catalog import find_clips
from genconvit.errors import ClipError, UserError
from genconvit.evaluate.pages import clock, score
from genconvit.evaluate.terminal import verdict_panel
from genconvit.storage import is_url
from ray_jobs.output import Bar, Output

KEY_VARIABLE = "GENCONVIT_API_KEY"
OF_ALL_CLIPS = (401, 403, 404)
"""Statuses that say nothing of a clip: the next one would fare no better."""


@dataclass(frozen=True)
class Ask:
    """What the server is asked for. What is None is as the detector has it.

    Attributes:
        frames: Frames of a clip that are looked at.
        aggregation: From the P(fake) of crops to that of a clip.
        model: Name of a detector.
        job: Send clips as jobs.
    """

    frames: int | None = None
    aggregation: str | None = None
    model: str | None = None
    job: bool = False


def api_key(file: Path | None) -> str | None:
    """The key to send: that of a file, else of the environment, else none.

    Raises:
        UserError: The file cannot be read, or is empty.
    """
    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(f"--key-file {file} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--key-file {file} holds no key (not text).") from error
    if not key:
        raise UserError(f"--key-file {file} is empty; write the API key into it.")
    return key


def detect(client: Client, inputs: list[str], ask: Ask, output: Output) -> None:
    """Has clips and images judged, one after the other; prints each verdict as it comes.

    Args:
        client: Of the server.
        inputs: Files and folders.
        ask: What to ask for.
        output: Where to tell of it.

    Raises:
        UserError: The server does not let us ask, or not one of the inputs can be judged.
    """
    choices = get_args(Aggregation)
    if ask.aggregation is not None and ask.aggregation not in choices:
        raise UserError(f"--aggregation {ask.aggregation}: give one of {', '.join(choices)}.")
    failures: list[str] = []

    def failed(clip: str, error: UserError) -> None:
        named = Path(clip).name in str(error)  # a busy server's sentence does not say of what
        failures.append(str(error) if named else f"{clip}: {error}")
        output.emit({"clip": clip, "error": failures[-1]})

    clips: list[str] = []
    for name in inputs:
        if is_url(name):
            raise UserError(f"{name}: the server takes files, not addresses; give a local path.")
        try:
            clips += [str(clip.path) for clip in find_clips(Path(name))]
        except UserError as error:
            failed(name, error)
    judged = 0
    with output.bar("judging", total=len(clips)) as bar:
        for number, clip in enumerate(clips, 1):
            place = f"{number}/{len(clips)} " if len(clips) > 1 else ""
            try:
                found = _detection(client, clip, ask, bar, place)
            except ApiError as error:
                if error.problem is None or error.problem.status in OF_ALL_CLIPS:
                    _warn(output, failures)
                    raise
                failed(clip, error)
            except ClipError as error:
                failed(clip, error)
            else:
                judged += 1
                output.say(verdict_panel(found, _decision(found)))
                output.emit(found.model_dump(mode="json"))
    if not judged:
        more = f" (and {len(failures) - 1} more failed)" if len(failures) > 1 else ""
        raise UserError(failures[0] + more)
    _warn(output, failures)


def _warn(output: Output, failures: list[str]) -> None:
    for failure in failures:
        output.warn(failure)


def _detection(client: Client, clip: str, ask: Ask, bar: Bar, place: str) -> Detection:
    """What the server says of a clip, which is named as here.

    Raises:
        ApiError: It says nothing, or that there is a problem.
        ClipError: The file cannot be read.
    """
    aggregation = cast(Aggregation | None, ask.aggregation)
    name = Path(clip).name

    def sending(sent: int, total: int) -> None:
        title = f"{place}sending {name}" if sent < total else f"{place}judging {name}"
        bar.set(sent * 100 // total, 100, title, f"% of {total / 1e6:.1f} MB sent")

    if not ask.job:
        found = client.detect(
            clip,
            frames=ask.frames,
            aggregation=aggregation,
            model=ask.model,
            on_upload=sending,
        )
        return found.model_copy(update={"clip": clip})

    def judging(job: Job) -> None:
        note = f"{job.state}, {len(job.timeline)} faces"
        if job.timeline:
            last = job.timeline[-1]
            note += f", P(fake) {score(last.probability_fake)} at {clock(last.time_s)}"
        bar.set(round(100 * job.progress), 100, f"{place}judging {name}", f"% {note}")

    job = client.submit(
        clip, frames=ask.frames, aggregation=aggregation, model=ask.model, on_upload=sending
    )
    try:
        job = client.wait(job, judging)
    finally:
        with suppress(ApiError):  # the server forgets it anyhow, though later
            client.delete(job.id)
    if job.detection is not None:
        return job.detection.model_copy(update={"clip": clip})
    why = job.problem.detail if job.problem else f"the server ended it ({job.state})"
    raise ClipError(f"{clip}: {why}")


def _decision(found: Detection) -> DecisionSettings:
    """What the timeline is coloured by: the server's threshold and band."""
    if any(point.sigmoids is not None for point in found.timeline):
        return DecisionSettings(aggregation="original")
    return DecisionSettings(threshold=found.threshold, undecided_band=found.band)
