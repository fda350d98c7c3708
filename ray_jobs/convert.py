"""Published GenConViT files to a detector of this project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from genconvit.checkpoint import DESCRIPTION, save_detector
from genconvit.errors import UserError
from genconvit.legacy import (
    LICENCE,
    CheckpointError,
    Net,
    Published,
    model_for,
    published_info,
    read_published,
)
from genconvit.storage import is_url, read_remote
from ray_jobs.output import Output


def convert(ed: Path | None, vae: Path | None, out: str, output: Output) -> dict[str, Any]:
    """Makes a detector of one published network or of both.

    Args:
        ed: Published file of network A.
        vae: Published file of network B.
        out: The detector's folder or URL.
        output: Where to tell of it.

    Returns:
        What was made and what was dropped.

    Raises:
        UserError: No file is given, one is no published network, or `out` is taken.
    """
    files: dict[Net, Path] = {}
    if ed is not None:
        files["ed"] = ed
    if vae is not None:
        files["vae"] = vae
    if not files:
        raise UserError("give --ed FILE, --vae FILE or both: the published checkpoints.")
    _refuse_taken(out)
    model = model_for(list(files))
    networks = []
    for net, file in files.items():
        with output.bar(f"reading {file.name}"):
            networks.append(_read(file, net, output))
    weights = {name: tensor for network in networks for name, tensor in network.weights.items()}
    with output.bar("writing"):
        info = save_detector(out, weights, published_info(files, networks, model))
    kept = sum(tensor.numel() for tensor in weights.values())
    dropped = [
        {"net": n.net, "tensors": d.prefix, "parameters": d.parameters, "reason": d.reason}
        for n in networks
        for d in n.dropped
    ]
    _show(networks, kept, output)
    output.say(
        f"Detector {info.id} (net {model.net}): {out}\n"
        f"The published weights are licensed {LICENCE}: no commercial use, and credit to their "
        "authors. The model card keeps this."
    )
    result = {
        "event": "converted",
        "out": str(out),
        "id": info.id,
        "net": model.net,
        "parameters": kept,
        "dropped": dropped,
        "licence": LICENCE,
    }
    output.emit(result)
    return result


def _refuse_taken(out: str) -> None:
    if is_url(out):
        taken = read_remote(out, DESCRIPTION) is not None
    else:
        taken = Path(out).exists() and (Path(out).is_file() or any(Path(out).iterdir()))
    if taken:
        raise UserError(f"{out} is not empty; choose another --out for the detector.")


def _read(file: Path, net: Net, output: Output) -> Published:
    try:
        return read_published(file, net, model_for([net]))
    except CheckpointError as error:
        for problem in error.problems:
            output.warn(f"{file.name}: {problem}")
        raise


def _show(networks: list[Published], kept: int, output: Output) -> None:
    table = Table("network", "dropped: no forward pass uses it", "parameters", "size")
    for network in networks:
        for item in network.dropped:
            size = f"{4 * item.parameters / 2**20:.0f} MiB"
            what = f"{item.prefix} ({item.reason})"
            table.add_row(network.net, what, f"{item.parameters / 1e6:.2f} M", size)
    output.say(table)
    output.say(f"Kept {kept / 1e6:.1f} M parameters, {4 * kept / 2**30:.2f} GiB.")


if __name__ == "__main__":
    import sys

    from ray_jobs.cli import main

    main(["convert", *sys.argv[1:]])
