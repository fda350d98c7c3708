"""Options that are settings: `--lr` is `train.lr`, with its help, range and default."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genconvit.config import Settings
from genconvit.errors import UserError
from genconvit.overrides import Assignment, describe, find_field, parse_assignment, resolve_settings
from genconvit.wording import listed

if TYPE_CHECKING:
    from genconvit.checkpoint import DetectorInfo

Flags = dict[str, str]
"""Option, or options separated by `/`, to the dotted name of a setting, or to `name=value`."""

COMMON: Flags = {"--preset": "model.preset", "--seed": "seed"}
NETWORK: Flags = {
    "--arch": "model.arch",
    "--net": "model.net",
    "--no-attention": "model.attention=false",
    "--no-residual": "model.residual=false",
}
STREAM: Flags = {
    "--cache": "stream.cache=true",
    "--balance": "stream.balance",
    "--frames-per-clip": "stream.frames_per_clip",
    "--mix": "stream.mix",
}
SAMPLING: Flags = {
    "--frames": "sampling.frames",
    "--frame-interval": "sampling.frame_interval",
    "--max-frames": "sampling.max_frames",
}
TRAINING: Flags = {
    "--epochs": "train.epochs",
    "--batch-size": "train.batch_size",
    "--num-workers/--world-size": "train.num_workers",
    "--lr": "train.lr",
    "--weight-decay": "train.weight_decay",
    "--clip-grad": "train.clip_grad",
    "--grad-accum-steps": "train.grad_accum_steps",
    "--grad-checkpointing": "train.grad_checkpointing=true",
    "--precision": "train.precision",
    "--compile": "train.compile",
    "--deterministic": "train.deterministic=true",
    "--init": "train.init",
    "--sched": "train.sched",
    "--warmup-epochs": "train.warmup_epochs",
    "--layer-decay": "train.layer_decay",
    "--freeze-epochs": "train.freeze_epochs",
    "--model-ema": "train.model_ema=true",
    "--model-ema-decay": "train.model_ema_decay",
    "--sync-bn": "train.sync_bn=true",
    "--mixup": "augment.mixup",
    "--cutmix": "augment.cutmix",
    "--smoothing": "loss.label_smoothing",
    "--focal-gamma": "loss.focal_gamma",
    "--checkpoint-minutes": "train.checkpoint_minutes",
    "--log-to": "train.log_to",
    "--dropout-rate": "model.dropout_rate",
    "--ae-latent": "model.ae_latent",
    "--vae-latent": "model.vae_latent",
    "--lr-gamma": "train.lr_gamma",
    "--lr-patience": "train.lr_patience",
    "--min-lr": "train.min_lr",
    "--early-stopping-patience": "train.early_stopping_patience",
    "--early-stopping-min-delta": "train.early_stopping_min_delta",
    "--classification-weight": "loss.classification_weight",
    "--ae-weight": "loss.ae_weight",
    "--vae-weight": "loss.vae_weight",
    "--vae-beta": "loss.vae_beta",
}
TUNING: Flags = {
    "--trials": "tune.trials",
    "--workers-per-trial": "tune.workers_per_trial",
    "--gpus-per-worker": "tune.gpus_per_worker",
    "--objectives": "tune.objectives",
    "--sampler": "tune.sampler",
    "--stopping": "tune.stopping",
    "--grace-period": "tune.grace_period",
    "--storage": "tune.storage",
    "--study": "tune.study",
    "--warm-start": "tune.warm_start",
    "--confirm-seeds": "tune.confirm_seeds",
    "--retrain-best": "tune.retrain_best=true",
    "--retrain-seeds": "tune.retrain_seeds",
    "--retrain-epochs": "tune.retrain_epochs",
    "--epochs": "train.epochs",
    "--batch-size": "train.batch_size",
}
DECISION: Flags = {
    "--aggregation": "decision.aggregation",
    "--threshold": "decision.threshold",
    "--undecided-margin": "decision.undecided_margin",
}


Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")]
Model = Annotated[
    str, typer.Option("--model", help="The detector's folder, such as RUN/best, or its URL.")
]
DataPaths = Annotated[
    list[str],
    typer.Option("--data", help="Shards, or a folder or list of clips; several are mixed."),
]
AllowLeakage = Annotated[
    bool,
    typer.Option(
        "--allow-leakage", help="Train though clips of one group or file are in several splits."
    ),
]
OutFolder = Annotated[
    Path | None, typer.Option("--out", help="Folder to write to.", file_okay=False)
]


class Given:
    """What the command line said of settings.

    Attributes:
        config: The YAML file, if any.
        assignments: Options and `section.name=value` arguments, in order.
    """

    def __init__(self, config: Path | None, assignments: list[Assignment]) -> None:
        self.config = config
        self.assignments = assignments

    def settings(self, base: Settings | None = None) -> Settings:
        """Merges defaults (or `base`), YAML file and command line.

        Raises:
            UserError: A setting does not exist or is out of range.
        """
        return resolve_settings(self.config, self.assignments, base)

    def names(self, section: str) -> list[str]:
        """The settings of a section that the command line names."""
        return [one.name for one in self.assignments if one.name.startswith(f"{section}.")]

    def overruling(self, info: DetectorInfo, *used: str) -> Settings:
        """A detector's own settings, overruled by those that the command uses.

        A YAML file may be one of several commands, so only the command line is refused for what
        has no effect here, and the file where it contradicts how the detector's crops are made.

        Args:
            info: The detector's description.
            used: What the command uses: sections, and settings outside of them such as `seed`.

        Raises:
            UserError: A setting has no effect here, does not exist or is out of range.
        """
        idle = [item for item in self.assignments if item.name.split(".")[0] not in used]
        for item in idle:
            find_field(item.name, item.origin)  # one that does not exist is told first
        if idle:
            has, them = ("it has", "it") if len(idle) == 1 else ("they have", "them")
            raise UserError(
                f"{', '.join(item.origin for item in idle)}: {has} no effect here, where a trained "
                f"detector judges by settings of {listed(used)}; leave {them} out."
            )
        settings = self.settings(base=info.settings())
        own, asked = dict(info.preprocess), dict(settings.preprocess)
        other = [f"preprocess.{name}={asked[name]}" for name in own if asked[name] != own[name]]
        if other:
            raise UserError(
                f"{', '.join(other)} in {self.config}: this detector was trained on other crops, "
                "and can judge no others; leave preprocess out."
            )
        return settings


def with_settings(*groups: Flags, positional: bool = True) -> Callable[[Any], Any]:
    """Gives a command an option for each setting in `groups`, and `--config`.

    The command takes the result as its keyword argument `given`.

    Args:
        groups: The options.
        positional: The command has no arguments of its own: all of them are `section.name=value`.
    """
    flags = {flag: name for group in groups for flag, name in group.items()}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**values: Any) -> None:
            chosen = [(flag, values.pop(_identifier(flag))) for flag in flags]
            assignments = [
                _assignment(flag, flags[flag], value) for flag, value in chosen if value is not None
            ]
            assignments += [parse_assignment(text) for text in values.pop("overrides", None) or []]
            config = values.pop("config")
            command(**values, given=Given(config, assignments))

        own = [
            p
            for p in inspect.signature(command, eval_str=True).parameters.values()
            if p.name != "given"
        ]
        parameters = [
            *own,
            _config_option(),
            *(_option(flag, name) for flag, name in flags.items()),
        ]
        if positional:
            parameters.append(_overrides_argument())
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def split_overrides(arguments: list[str]) -> tuple[list[str], list[Assignment]]:
    """Tells files from `section.name=value` among arguments; a file of that name wins."""
    files, assignments = [], []
    for text in arguments:
        name, equals, _ = text.partition("=")
        looks_like_one = bool(equals) and all(part.isidentifier() for part in name.split("."))
        if looks_like_one and not Path(text).exists():
            assignments.append(parse_assignment(text))
        else:
            files.append(text)
    return files, assignments


def parse_seeds(text: str) -> list[int]:
    """Reads `0,1,2`.

    Raises:
        UserError: It is no list of whole numbers from 0.
    """
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = [-1]
    if min(seeds) < 0:
        raise UserError(f"--seeds {text}: write whole numbers from 0, such as 0,1,2.")
    return seeds


def _identifier(flag: str) -> str:
    return flag.split("/")[0].removeprefix("--").replace("-", "_")


def _assignment(flag: str, target: str, value: str | bool) -> Assignment:
    name, _, fixed = target.partition("=")
    return Assignment(name, fixed or str(value), flag if fixed else f"{flag.split('/')[0]} {value}")


def _option(flag: str, target: str) -> inspect.Parameter:
    name, _, fixed = target.partition("=")
    field = find_field(name, flag)
    if fixed:
        what = f"{field.description} ({target})"
        what = f"Without: {what[:-1]}; arch v2)" if fixed == "false" else what
        switch = typer.Option(flag, help=what, show_default=False)
        return _keyword(_identifier(flag), Annotated[bool | None, switch])
    info = typer.Option(
        *flag.split("/"),
        help=f"{field.description} ({describe(field)})",
        metavar="VALUE",
        show_default=False,
    )
    return _keyword(_identifier(flag), Annotated[str | None, info])


def _config_option() -> inspect.Parameter:
    info = typer.Option("--config", help="YAML file with settings; the command line overrules it.")
    return _keyword("config", Annotated[Path | None, info])


def _overrides_argument() -> inspect.Parameter:
    info = typer.Argument(
        metavar="[SECTION.NAME=VALUE]...",
        help="Any other setting, such as augment.jpeg=0.5.",
        show_default=False,
    )
    return _keyword("overrides", Annotated[list[str] | None, info])


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )
