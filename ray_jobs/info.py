"""What a detector is, and what its network costs. Neither weights nor Ray are needed for it."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from genconvit.checkpoint import read_info
from genconvit.config import ModelSettings
from genconvit.errors import UserError
from genconvit.evaluate.pages import facts, percent
from genconvit.footprint import Footprint, footprint
from genconvit.trainable import check_trainable, without_idle_heads
from ray_jobs.options import Given
from ray_jobs.output import Output


def info(model: str | None, given: Given, batch_size: int, output: Output) -> dict[str, Any]:
    """Tells what a detector holds and what its network costs, or what settings would cost.

    Args:
        model: The detector's folder or URL.
        given: `model` and `loss`, instead of a detector.
        batch_size: Images that the memory is for.
        output: Where to tell of it.

    Returns:
        What is emitted: the fields of `DetectorInfo` (of settings, `model` and `loss`), `changed`
        and `footprint`.

    Raises:
        UserError: Both or neither are given, there is no such detector, or the settings do not fit.
    """
    settings_given = given.config is not None or bool(given.assignments)
    if (model is not None) == settings_given:
        raise UserError("give either the folder of a detector or --arch with other settings.")
    if model is not None:
        detector = read_info(model)
        settings = detector.settings()
        about = {"id": detector.id, "detector": model, **detector.model_dump(mode="json")}
    else:
        settings = given.settings()
        model_trained = without_idle_heads(settings.model, settings.loss)
        settings = settings.model_copy(update={"model": model_trained})
        check_trainable(settings.model, settings.loss)
        about = settings.model_dump(mode="json", include={"model", "loss"})
    cost = footprint(settings.model, settings.loss, batch_size)
    switches = changed(settings.model)
    output.say(parts_table(cost, settings.model))
    output.say(memory_table(cost))
    names = {"arch": settings.model.arch, "preset": settings.model.preset}
    output.say(facts_table({**about, "model": {**names, **switches}}))
    result = {"event": "info", **about, "changed": switches, "footprint": cost.model_dump()}
    output.emit(result)
    return result


def changed(model: ModelSettings) -> dict[str, Any]:
    """The settings that differ from those of the architecture's preset."""
    usual = ModelSettings(arch=model.arch, preset=model.preset).model_dump(mode="json")
    own = model.model_dump(mode="json")
    return {name: value for name, value in own.items() if value != usual[name]}


def parts_table(cost: Footprint, model: ModelSettings) -> Table:
    """Parameters and operations by part of the network."""
    table = Table(
        title=f"{model.arch}, net {model.net}, {model.image_size} px: parameters, and the FLOPs of "
        "one image's verdict",
        caption=f"A training step takes {quantity(cost.training_flops)}FLOPs an image.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("part")
    for name in ("parameters", "share", "trained", "for verdict", "FLOPs"):
        table.add_column(name, justify="right")
    for part in cost.parts:
        table.add_row(
            part.name,
            quantity(part.parameters),
            percent(part.parameters / cost.parameters),
            _of(part.trained, part.parameters),
            _of(part.needed, part.parameters),
            quantity(part.verdict_flops),
        )
    table.add_section()
    table.add_row(
        "all",
        quantity(cost.parameters),
        percent(1),
        _of(cost.trained, cost.parameters),
        _of(cost.needed, cost.parameters),
        quantity(cost.verdict_flops),
    )
    return table


def memory_table(cost: Footprint) -> Table:
    """Memory for a batch, in training and for verdicts."""
    training, inference = cost.training_memory, cost.inference_memory
    table = Table(
        title=f"Memory for {cost.batch_size} images, float32, estimated", box=box.SIMPLE_HEAD
    )
    table.add_column("")
    table.add_column("training", justify="right")
    table.add_column("verdict", justify="right")
    for name in ("weights", "gradients", "optimizer", "activations", "total"):
        if name == "total":
            table.add_section()
        table.add_row(name, *(size(getattr(memory, name)) for memory in (training, inference)))
    return table


def facts_table(about: dict[str, Any]) -> Table:
    """Everything else; nested names are joined by a dot."""
    table = Table(show_header=False, box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("", overflow="fold")
    for name, value in about.items():
        for row in facts({name: value}):
            table.add_row(*row)
        if isinstance(value, dict):
            table.add_section()
    return table


def quantity(number: int) -> str:
    """A number in thousands, millions or more: "82.3 M"."""
    return _scaled(number, 1000, ("", " k", " M", " G", " T"))


def size(number: int) -> str:
    """Bytes: "1.3 GiB"."""
    return _scaled(number, 1024, (" B", " KiB", " MiB", " GiB", " TiB"))


def _scaled(number: int, step: int, units: tuple[str, ...]) -> str:
    scaled, power = float(number), 0
    while scaled >= step and power < len(units) - 1:
        scaled, power = scaled / step, power + 1
    return f"{scaled:.1f}{units[power]}" if power else f"{number}{units[0]}"


def _of(some: int, all_: int) -> str:
    return "all" if some == all_ else quantity(some) if some else "none"


if __name__ == "__main__":
    import sys

    from ray_jobs.cli import main

    main(["info", *sys.argv[1:]])
