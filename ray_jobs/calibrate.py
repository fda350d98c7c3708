"""Calibration on Ray: scorers give the logits of validation crops, this process fits to them."""

from __future__ import annotations

import pickle
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
from rich.table import Table

from genconvit.checkpoint import (
    DESCRIPTION,
    Calibration,
    DetectorInfo,
    load_network,
    save_description,
    save_detector,
)
from genconvit.config import DecisionSettings
from genconvit.data.plan import CHUNK_ROWS, chunks, whole
from genconvit.data.shards import FrameDataset, open_dataset, refuse_other_crops
from genconvit.errors import UserError
from genconvit.evaluate.aggregate import unreachable
from genconvit.evaluate.calibration.calibrate import Calibrated, LabelledClip, Plan
from genconvit.evaluate.calibration.calibrate import calibrate as fit
from genconvit.predict import load_detector
from genconvit.storage import absolute, is_url, read_remote
from genconvit.wording import plural
from ray_jobs.cluster import connected
from ray_jobs.options import Given
from ray_jobs.output import Output
from ray_jobs.scorers import Scorers
from ray_jobs.stream import load_rows

COLUMNS = ("label", "video_id", "group", "frame_index")


def calibrate(
    model: str,
    data: str,
    given: Given,
    plan: Plan,
    output: Output,
    *,
    split: str = "val",
    out: str | None = None,
) -> DetectorInfo:
    """Fits a detector's probabilities, threshold and band to validation clips.

    Args:
        model: The detector's folder or URL.
        data: Shards; clips that the detector was not trained on.
        given: `decision.aggregation` and `decision.top_k` overrule those of the detector.
        plan: What is to be achieved.
        output: Where to tell of it.
        split: `val`, and no other.
        out: A new folder or URL for the calibrated detector; by default its description is written
            anew where it is.

    Returns:
        The description as written.

    Raises:
        UserError: The split is not for this, the shards were made for another detector or it was
            trained on them, there are too few clips, or `out` is taken.
    """
    _refuse_split(split)
    if out is not None:
        _refuse_taken(out)
    elif is_url(model):
        raise UserError(
            f"{model}: a detector behind a URL is not changed where others may be reading it; "
            "give a new folder or URL with --out."
        )
    network, info = load_network(model)  # a bad detector is told here, not by a worker
    decision = given.overruling(info, "decision").decision
    if decision.aggregation == "original":
        raise UserError(
            "the aggregation original judges as published, without calibration; give another one, "
            "such as --aggregation mean."
        )
    dataset = open_dataset(data)
    refuse_other_crops(dataset, info.preprocess)
    if info.training.get("train_on_val") and info.data_digest == dataset.digest:
        raise UserError(
            f"{model} was trained on the val split of {data}, too; give --data with a val split "
            "that it has never seen."
        )
    with connected(output) as ray_logs:
        output.say(f"Scoring the val split of {data}. Ray's logs: {ray_logs}")
        clips = score_clips(model, info, dataset, output)
    with output.bar("fitting"):
        found = fit(clips, decision, plan, dataset.digest)
    # What was measured before was measured with another decision.
    new = {"calibration": found.calibration, "decision": found.decision, "evaluation": None}
    info = info.model_copy(update=new)
    if out is None:
        save_description(Path(model), info)
    else:
        info = save_detector(out, network.state_dict(), info)
    _show(found, out or model, output)
    _warn(dataset, info, found, output)
    return info


def score_clips(
    model: str, info: DetectorInfo, dataset: FrameDataset, output: Output
) -> list[LabelledClip]:
    """The logits of all clips of the val split that have a face.

    Args:
        model: The detector's folder or URL.
        info: Its description.
        dataset: Crops made for it.
        output: Where to show how far it is.

    Raises:
        UserError: The split is empty.
    """
    planned = chunks(whole(dataset.row_groups("val")))
    scorers = Scorers.on_cluster()
    scored = (
        ray.data.from_items(
            [{"chunk": pickle.dumps(chunk)} for chunk in planned], override_num_blocks=len(planned)
        )
        .map_batches(
            load_rows,
            batch_size=1,
            fn_kwargs={"image_size": info.model.image_size, "columns": COLUMNS},
        )
        .map_batches(
            _Logits,
            fn_constructor_kwargs={
                "model": absolute(model),
                "device": scorers.device,
                "batch_size": scorers.crops_a_pass,
            },
            batch_size=CHUNK_ROWS,
            **scorers.resources,
        )
    )
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with output.bar("scoring", total=sum(len(chunk) for chunk in planned)) as bar:
        for row in scored.iter_rows():
            bar.advance()
            rows[row["video_id"]].append(row)
    return [
        LabelledClip(
            name=name,
            is_fake=crops[0]["label"] == 0,
            group=crops[0]["group"],
            logits=np.stack([crop["logits"] for crop in crops]),
            frames=np.array([crop["frame_index"] for crop in crops]),
        )
        for name, crops in rows.items()
    ]


class _Logits:
    """Runs in a Ray actor: decoded crops to logits, the mean where two networks judge."""

    def __init__(self, model: str, device: str, batch_size: int) -> None:
        self.batch_size = batch_size
        # In the number format in which clips are judged there.
        self.detector = load_detector(model, device, fast=True)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A row for each crop."""
        logits_B2 = self.detector.logits(batch.pop("image"), self.batch_size).mean(axis=1)
        return {**batch, "logits": logits_B2}


def _refuse_split(split: str) -> None:
    why = {
        "train": "the network knows these clips, and is surer of them than of any others",
        "test": "what a detector was fitted to cannot test it any more",
    }
    if split != "val":
        reason = why.get(split, "there is no such split")
        raise UserError(f"--split {split}: {reason}; calibrate on the val split.")


def _refuse_taken(out: str) -> None:
    if is_url(out):
        taken = read_remote(out, DESCRIPTION) is not None
    else:
        path = Path(out)
        taken = path.exists() and not (path.is_dir() and not any(path.iterdir()))
    if taken:
        raise UserError(
            f"{out} exists; give a new folder, or no --out to calibrate the detector where it is."
        )


def _show(found: Calibrated, where: str, output: Output) -> None:
    output.say(_scores_table(found.calibration))
    output.say(_verdict_table(found.calibration, found.decision))
    output.say(f"Calibrated: {where}")
    output.emit(
        {
            "event": "calibrated",
            "out": where,
            "calibration": found.calibration.model_dump(mode="json"),
            "decision": found.decision.model_dump(mode="json"),
            "notes": found.notes,
        }
    )


def _warn(dataset: FrameDataset, info: DetectorInfo, found: Calibrated, output: Output) -> None:
    for note in [*found.notes, *unreachable(found.decision)]:
        output.warn(note)
    if info.data_digest == dataset.digest:
        output.say(
            "note: these clips chose the detector's epoch, so that it may do a little worse on new "
            "ones; genconvit evaluate --split test checks the stated rate."
        )
    faceless = sum(1 for clip in dataset.clips() if clip.split == "val" and clip.failure_kind)
    if faceless:
        output.say(f"note: {plural(faceless, 'clip')} without a crop had no part in it.")


def _scores_table(calibration: Calibration) -> Table:
    fit = calibration.fit
    assert fit is not None
    clips, groups = fit.clips, fit.groups
    table = Table(
        "",
        "before",
        "calibrated",
        title=f"{clips.fake} fake and {clips.real} real clips, of {groups.fake} and "
        f"{groups.real} groups",
        caption="calibrated: cross-validated over groups" if fit.after else None,
    )
    names = (("log_loss", "log loss"), ("brier", "Brier score"), ("ece", "calibration error"))
    for name, label in names:
        after = f"{getattr(fit.after, name):.4f}" if fit.after else "too few clips"
        table.add_row(label, f"{getattr(fit.before, name):.4f}", after)
    return table


def _verdict_table(calibration: Calibration, decision: DecisionSettings) -> Table:
    fit = calibration.fit
    assert fit is not None
    table = Table("", "", show_header=False)
    if fit.method == "temperature":
        table.add_row("temperature", f"{calibration.temperature:g}")
    if decision.isotonic is not None:
        table.add_row("isotonic map", plural(len(decision.isotonic), "pair"))
    table.add_row("P(fake) is for", f"{fit.prevalence:.1%} fake clips")
    table.add_row("threshold", f"{decision.threshold:.4f} ({fit.threshold_rule})")
    low, high = decision.band
    table.add_row("UNDECIDED", f"from {low:.4f} to {high:.4f}")
    table.add_row("stated error rate", f"{fit.error_rate:.1%} a class")
    if fit.judged:
        table.add_row(
            "cross-validated",
            f"{fit.judged.fake_judged_real:.1%} of fake clips REAL, "
            f"{fit.judged.real_judged_fake:.1%} of real clips FAKE, "
            f"{fit.judged.undecided:.1%} UNDECIDED",
        )
    return table


if __name__ == "__main__":
    from ray_jobs.cli import main

    main(["calibrate", *sys.argv[1:]])
