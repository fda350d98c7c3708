"""The datasets of a matrix: what is in them, and what the models say of it or why they do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import ray

from genconvit.config import CLASSES
from genconvit.data.catalog import attach_labels, find_clips
from genconvit.data.clip import Clip
from genconvit.data.clip_table import ClipRecord
from genconvit.data.shards import FrameDataset, is_dataset, open_dataset
from genconvit.errors import UserError
from genconvit.evaluate.clip_failure import ClipFailure
from genconvit.evaluate.evaluated_data import EvaluatedData
from genconvit.evaluate.matrix.results import JudgedDataset, MatrixClip, Problem
from genconvit.verdict import Verdict
from ray_jobs.evaluate import knows_split
from ray_jobs.evaluated_data import data_of_clips, data_of_shards
from ray_jobs.failures import reason_of
from ray_jobs.judging import Judging
from ray_jobs.many_models import Model, judge_all
from ray_jobs.output import Output

_Known = Clip | ClipRecord


@dataclass(frozen=True)
class Dataset:
    """A dataset that was looked at: shards, or clips."""

    name: str
    location: str
    split: str | None = None
    clips: Mapping[str, _Known] = field(default_factory=dict)
    """Labelled, by name; of shards those of the split."""
    shards: FrameDataset | None = None
    problems: Mapping[str, Problem] = field(default_factory=dict)
    """Why models cannot judge it, by their names."""


class _UnfitError(UserError):
    """A dataset that cannot be judged, with a word for it."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


def look_at(
    name: str,
    place: str,
    split: str | None,
    ground_truth: str | None,
    models: Sequence[Model],
) -> Dataset:
    """Reads what is in a dataset; what keeps models from judging it is among its problems.

    Args:
        name: Short, and no other dataset's.
        place: Shards, or a folder or list of clips.
        split: By default test, where there is none val.
        ground_truth: A CSV with labels of clips.
        models: That are to judge it.
    """
    problems: dict[str, Problem] = {}
    found = Dataset(name, place)
    with _noted(problems, models):
        found = _read(name, place, split, ground_truth)
        for model in models:
            with _noted(problems, [model]):
                _refuse_other_crops(found, model)
    return Dataset(name, place, found.split, found.clips, found.shards, problems)


def judge(
    dataset: Dataset, models: Sequence[Model], batch_size: int | None, output: Output
) -> JudgedDataset:
    """The verdicts on the clips that every model judged, and why others are missing.

    A model that judges none of them, or breaks, is left out with its problem.

    Args:
        dataset: That was looked at.
        models: All of them.
        batch_size: Crops a pass through a network.
        output: Where to show how far it is.
    """
    problems = dict(dataset.problems)
    failures: dict[str, str] = {}
    able = [model for model in models if model.name not in problems]
    found = {}
    # Clips are cropped once for all models, shards are read for each.
    for some in [[model] for model in able] if dataset.shards else [able] if able else []:
        with _noted(problems, some):
            verdicts, failed = _verdicts(dataset, some, batch_size, output)
            failures |= failed
            if not all(verdicts.values()):
                why = next(iter(failed.values()), "it has no clip")
                raise _UnfitError(f"no clip could be judged; the first: {why}", "no verdict")
            found.update(verdicts)
    names = [name for name in dataset.clips if all(name in each for each in found.values())]
    if found and not names:
        why = "the models judged different clips, and none of them in common."
        problems |= {model: Problem(kind="no clip in common", reason=why) for model in found}
        found = {}
    clips = [dataset.clips[name] for name in names] if found else []
    about = _about(dataset)
    return JudgedDataset(
        name=dataset.name,
        location=dataset.location,
        split=dataset.split,
        digest=about.digest if about else None,
        clips=[
            MatrixClip(
                str(clip.label),
                clip.method,
                clip.group,
                {model: verdicts[clip.name] for model, verdicts in found.items()},
            )
            for clip in clips
        ],
        flatters=_flattered(dataset, models),
        failures=[ClipFailure(clip=name, reason=why) for name, why in failures.items()],
        problems=problems,
        digest_of=about.digest_of if about else None,
    )


@contextmanager
def _noted(problems: dict[str, Problem], models: Sequence[Model]) -> Iterator[None]:
    """What goes wrong inside is these models' problem, and nobody else's."""
    try:
        yield
    except (UserError, ray.exceptions.RayError) as error:
        usual = "failed" if isinstance(error, ray.exceptions.RayError) else "not readable"
        problem = Problem(kind=getattr(error, "kind", usual), reason=reason_of(error))
        problems.update({model.name: problem for model in models})


def _read(name: str, place: str, split: str | None, ground_truth: str | None) -> Dataset:
    shards = open_dataset(place) if is_dataset(place) else None
    clips: Sequence[_Known]
    if shards is not None:
        clips = shards.clips()
    else:
        clips = find_clips(place)
        clips = attach_labels(clips, ground_truth) if ground_truth else clips
    clips = [clip for clip in clips if clip.label]
    if not clips:
        raise _UnfitError(
            f"{place}: no clip has a label; put clips below real/ and fake/.", "no labels"
        )
    chosen = None
    if any(clip.split for clip in clips):
        chosen = split or _usual_split(clips)
    if chosen is not None:
        clips = [clip for clip in clips if clip.split == chosen]
        if not clips:
            raise _UnfitError(
                f"{place} has no clip in its {chosen} split; choose another --split.",
                f"no {chosen} split",
            )
    return Dataset(name, place, chosen, {clip.name: clip for clip in clips}, shards)


def _usual_split(clips: Sequence[_Known]) -> str:
    labels = {clip.label for clip in clips if clip.split == "test"}
    return "test" if labels == set(CLASSES) else "val"


def _refuse_other_crops(dataset: Dataset, model: Model) -> None:
    needed = model.info.preprocess.fingerprint()
    made = needed if dataset.shards is None else dataset.shards.preprocess.fingerprint()
    if made != needed:
        raise _UnfitError(
            f"{dataset.location} was extracted with preprocessing {made}, and the model "
            f"{model.name} needs {needed}; extract it with that model's settings, or give the "
            "clips themselves.",
            "other crops",
        )


def _verdicts(
    dataset: Dataset, models: Sequence[Model], batch_size: int | None, output: Output
) -> tuple[dict[str, dict[str, Verdict]], dict[str, str]]:
    """Of each model by the clip's name, and why clips have none."""
    if dataset.shards is None:
        asked = [clip for clip in dataset.clips.values() if isinstance(clip, Clip)]
        judged = judge_all(models, asked, [], batch_size, output)
        by_model = {
            name: {clip.name: clip.clean for clip in clips}
            for name, clips in judged.by_model.items()
        }
        return by_model, judged.failures
    assert dataset.split is not None
    (model,) = models
    how = (model.path, model.info, model.sampling, model.decision, batch_size, output)
    rows = Judging(*how).shards(dataset.shards, dataset.split)
    verdicts = {row.name: row.verdict for row in rows if row.verdict}
    return {model.name: verdicts}, {row.name: row.failure for row in rows if row.failure}


def _about(dataset: Dataset) -> EvaluatedData | None:
    if dataset.shards is not None and dataset.split is not None:
        return data_of_shards(dataset.shards, dataset.split)
    clips = [clip for clip in dataset.clips.values() if isinstance(clip, Clip)]
    return data_of_clips(dataset.location, clips) if clips else None


def _flattered(dataset: Dataset, models: Sequence[Model]) -> dict[str, str]:
    if dataset.shards is None or dataset.split is None:
        return {}
    what = "trained on" if dataset.split == "train" else "chosen by"
    return {
        model.name: f"{what} the {dataset.split} split of"
        for model in models
        if knows_split(model.info, dataset.shards, dataset.split)
    }
