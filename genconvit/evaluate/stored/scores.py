"""Stored scores: an evaluation without a detector, or once more with another threshold.

    scores.parquet, scores.csv    one row a clip: `video_name`, `score`, and what else is known
    crop_scores.parquet           one row a crop: `CROP_SCHEMA`; its clips are in the file beside it

`genconvit evaluate` and `genconvit predict --table` write both. Scores of anything else will do.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from genconvit.config import DecisionSettings
from genconvit.data.catalog import attach_labels
from genconvit.data.clip import LABELS, Clip
from genconvit.data.tree import join, read_bytes
from genconvit.errors import UserError
from genconvit.evaluate.aggregate import judge
from genconvit.evaluate.evaluated import CropScore, EvaluatedClip, decide_crops
from genconvit.evaluate.stored.score_rows import Row, read_rows
from genconvit.evaluate.stored.score_table import (
    CROP_SCHEMA,
    CROP_SCORES,
    SCORES,
    SCORES_CSV,
    crop_values,
)
from genconvit.verdict import Verdict

OF_CLIP = ("label", "group", "method", "source")
RESULTS = frozenset(
    {"verdict", "score", "probability_fake", "correct", "reason", "tracks", "seconds"}
    | {"frames_sampled", "frames_with_face", "failure", "failure_kind", "detector", "preprocess"}
    | {"path", "video_name"}
)
"""Columns that tell of the judging, not of the clip; clips are not divided by them."""
CLIPS_A_ROW_GROUP = 1024
"""In the table of crops: a row group a clip would make mostly footers."""
NO_BOX = (0, 0, 0, 0)
"""Where a face was is not stored with its score."""


@dataclass(frozen=True)
class StoredScores:
    """Clips that were judged by stored scores."""

    rows: list[EvaluatedClip]
    of_crops: bool
    notes: list[str]


@dataclass
class _Stored:
    """What the files say of a clip."""

    clip: Clip
    score: float | None = None
    failure: str = ""
    frames_sampled: int = 0
    frames_with_face: int = 0


def read_scores(
    location: str | Path, decision: DecisionSettings, ground_truth: str | Path | None = None
) -> StoredScores:
    """Judges clips by the scores in a file.

    Args:
        location: A CSV or Parquet file, or its URL, with `video_name` and `score`, and perhaps
            `label`, `group`, `method`, `source` and others; an empty score or NaN is none. Or one
            with the columns of `CROP_SCHEMA`, of which the sigmoids may be missing; labels and
            clips without a face are then in `scores.parquet` or `scores.csv` beside it.
        decision: Of the scores of clips, its threshold and band judge; of those of crops, all.
        ground_truth: A CSV with labels, as for clips.

    Raises:
        UserError: The file cannot be read, or says something that cannot be right.
    """
    content = read_bytes(location)
    if content is None:
        raise UserError(f"{location} does not exist; check the path.")
    columns, rows = read_rows(content, location)
    of_crops = {"frame_index", "probability_fake"} <= set(columns)
    crops: dict[str, list[CropScore]] = {}
    notes: list[str] = []
    if of_crops:
        crops = _crops(rows)
        clips = _clips_beside(location)
        if clips is None:
            notes.append(
                f"{SCORES} is not beside {location}: clips without a face are in no figure."
            )
            clips = {}
        for name in crops:
            clips.setdefault(name, _Stored(Clip(join(_folder(location), name), name)))
    elif decision.aggregation == "original":
        raise UserError(
            f"{location} has no sigmoids of crops, which the aggregation original judges by; "
            f"give {CROP_SCORES}."
        )
    elif "score" not in columns:
        raise UserError(
            f"{location} lacks the column score; give one for each clip, or the scores of crops."
        )
    else:
        clips = _clips(rows, location)
    listed = [stored.clip for stored in clips.values()]
    if ground_truth is not None:
        listed = attach_labels(listed, ground_truth)
    judged = []
    for clip in listed:
        stored = clips.get(clip.name, _Stored(clip, failure=f"it has no score in {location}"))
        judged.append(_judged(clip, stored, crops.get(clip.name, []), of_crops, decision))
    return StoredScores(judged, of_crops, notes)


def write_scores(folder: Path, rows: Sequence[EvaluatedClip]) -> list[str]:
    """Writes the scores of clips and, where they are known, of crops into a folder.

    Returns:
        The names of the files.
    """
    others = dict.fromkeys(name for row in rows for name in row.columns if name not in RESULTS)
    lines = [
        {
            "video_name": row.name,
            **{name: row.columns.get(name) for name in others},
            **{name: getattr(row, name) for name in OF_CLIP},
            "verdict": row.verdict.verdict if row.verdict else None,
            "score": row.verdict.probability_fake if row.verdict else None,
            "frames_sampled": row.verdict.frames_sampled if row.verdict else None,
            "frames_with_face": row.verdict.frames_with_face if row.verdict else None,
            "failure": row.failure,
        }
        for row in rows
    ]
    text, number = pa.string(), pa.int64()
    kinds = {"score": pa.float64(), "frames_sampled": number, "frames_with_face": number}
    names = ["video_name", *OF_CLIP, *others, "verdict", *kinds, "failure"]
    table = pa.Table.from_pylist(lines, pa.schema([(n, kinds.get(n, text)) for n in names]))
    pq.write_table(table, folder / SCORES, compression="zstd")
    pa.csv.write_csv(table, folder / SCORES_CSV)
    written = [SCORES, SCORES_CSV]
    if any(row.crops for row in rows):
        _write_crops(folder / CROP_SCORES, rows)
        written.append(CROP_SCORES)
    return written


def _write_crops(path: Path, rows: Sequence[EvaluatedClip]) -> None:
    with pq.ParquetWriter(path, CROP_SCHEMA, compression="zstd") as writer:
        for start in range(0, len(rows), CLIPS_A_ROW_GROUP):
            lines = [
                (row.name, *crop_values(crop))
                for row in rows[start : start + CLIPS_A_ROW_GROUP]
                for crop in row.crops
            ]
            named = [dict(zip(CROP_SCHEMA.names, line, strict=True)) for line in lines]
            writer.write_table(pa.Table.from_pylist(named, CROP_SCHEMA))


def _clips(rows: Sequence[Row], location: str | Path) -> dict[str, _Stored]:
    clips: dict[str, _Stored] = {}
    for row in rows:
        name = row.name()
        if name in clips:
            raise UserError(f"{row.where} has the video_name {name} again; remove a row.")
        label = row.text("label")
        if label and label.lower() not in LABELS:
            raise UserError(f"{row.where} has the label {label!r}; write real or fake.")
        clip = Clip(
            path=join(_folder(location), name),
            name=name,
            label=LABELS.get(label.lower()),
            group=row.text("group"),
            method=row.text("method"),
            source=row.text("source"),
            columns=row.others(RESULTS.union(OF_CLIP)),
        )
        clips[name] = _Stored(
            clip,
            score=row.share("score"),
            failure=row.text("failure"),
            frames_sampled=row.whole("frames_sampled") or 0,
            frames_with_face=row.whole("frames_with_face") or 0,
        )
    return clips


def _clips_beside(location: str | Path) -> dict[str, _Stored] | None:
    """The clips of the file that was written along with the scores of crops."""
    folder = _folder(location)
    for name in (SCORES, SCORES_CSV):
        beside = join(folder, name)
        content = read_bytes(beside)
        if content is not None:
            return _clips(read_rows(content, beside)[1], beside)
    return None


def _crops(rows: Sequence[Row]) -> dict[str, list[CropScore]]:
    crops: dict[str, list[CropScore]] = defaultdict(list)
    seen: Counter[tuple[str, int, int]] = Counter()
    for row in rows:
        name = row.name()
        frame, track = row.needed(row.whole, "frame_index"), row.needed(row.whole, "track")
        seen[name, frame, track] += 1
        if seen[name, frame, track] > 1:
            raise UserError(
                f"{row.where} has track {track} in frame_index {frame} of {name} again; "
                "remove a row."
            )
        for_fake, for_real = row.share("sigmoid_fake"), row.share("sigmoid_real")
        crops[name].append(
            CropScore(
                frame_index=frame,
                time_s=row.needed(row.seconds, "time_s"),
                track=track,
                box=NO_BOX,
                p_fake=row.needed(row.share, "probability_fake"),
                sigmoids=None if for_fake is None or for_real is None else (for_fake, for_real),
            )
        )
    return crops


def _judged(
    clip: Clip,
    stored: _Stored,
    crops: list[CropScore],
    of_crops: bool,
    decision: DecisionSettings,
) -> EvaluatedClip:
    verdict, failure = None, stored.failure
    if of_crops and not crops and stored.frames_with_face and not failure:
        failure = f"{clip.name}: its crops are not in the file"
    if not failure and of_crops:
        frames = stored.frames_sampled or len({crop.frame_index for crop in crops})
        verdict = decide_crops(clip.name, crops, frames, decision)
    elif not failure:
        verdict = Verdict(
            clip=clip.name,
            verdict="UNDECIDED" if stored.score is None else judge(stored.score, decision),
            probability_fake=stored.score,
            reason="no score is stored" if stored.score is None else "a stored score",
            frames_sampled=stored.frames_sampled,
            frames_with_face=stored.frames_with_face,
            tracks=[],
            timeline=[],
        )
    return EvaluatedClip(
        clip.name,
        clip.label,
        verdict,
        failure or None,
        group=clip.group,
        method=clip.method,
        source=clip.source,
        columns=clip.columns,
        crops=crops,
    )


def _folder(location: str | Path) -> str | Path:
    if "://" in str(location):
        return str(location).rpartition("/")[0]
    return Path(location).parent
