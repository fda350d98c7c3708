"""The commands around the HTTP endpoint: the server, its keys, and asking it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from genconvit.config import ServeSettings
from genconvit.config_serve import MODEL_NAME
from genconvit.errors import UserError
from genconvit.storage import absolute
from ray_jobs.options import Given, Json, with_settings
from ray_jobs.output import Output

DEFAULT = "default"
"""Name of a detector that is given none."""

app = typer.Typer()
keys_app = typer.Typer(help="API keys of the server: a file of hashes.")
app.add_typer(keys_app, name="keys", no_args_is_help=True)

KeysFile = Annotated[Path, typer.Option("--file", help="The keys file.", dir_okay=False)]
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")]


@app.command()
@with_settings(
    {
        "--host": "serve.host",
        "--port": "serve.port",
        "--keys": "serve.keys",
        "--tls-certificate": "serve.tls_certificate",
        "--tls-key": "serve.tls_key",
    }
)
def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="A detector's folder or URL, or NAME=it; give several by name, the default first.",
        ),
    ] = None,
    *,
    given: Given,
) -> None:
    """Answer over HTTP."""
    settings = served(model or [], given.settings().serve)
    from serve.http.keys import is_local

    if settings.keys is None and not is_local(settings.host):
        Output().warn(
            f"everybody who can reach {settings.host} may ask; give --keys to ask for an API key."
        )
    from serve.app import serve_forever

    serve_forever(settings)


def served(models: list[str], settings: ServeSettings) -> ServeSettings:
    """The settings with the detectors of the command line, and with what holds in any folder.

    Args:
        models: `NAME=LOCATION` or `LOCATION`; they take the place of those in the settings.
        settings: Those of the file and the command line.

    Raises:
        UserError: There is no detector, two have one name, or the keys file is wrong.
    """
    from serve.http.key_file import read_keys

    named = _by_name(models) if models else settings.models
    if not named:
        raise UserError("give a detector to serve: --model RUN/best, or serve.models in --config.")
    if settings.keys is not None:
        read_keys(Path(settings.keys))
    changes: dict[str, object] = {
        "models": {name: absolute(location) for name, location in named.items()}
    }
    for name in ("keys", "tls_certificate", "tls_key"):
        path = getattr(settings, name)
        changes[name] = path if path is None else str(Path(path).resolve())
    return settings.model_copy(update=changes)


def _by_name(models: list[str]) -> dict[str, str]:
    named: dict[str, str] = {}
    for text in models:
        name, equals, location = text.partition("=")
        # A folder may be called `lr=0.1`, and `=` stand in the middle of a URL.
        if not equals or not re.fullmatch(MODEL_NAME, name) or Path(text).exists():
            name, location = DEFAULT, text
        if name in named:
            raise UserError(
                f"--model {text}: the name {name} is that of {named[name]} too; "
                f"write NAME={location}."
            )
        named[name] = location
    return named


@app.command()
def detect(
    clips: Annotated[list[str], typer.Argument(help="Clips, images, folders or lists of them.")],
    url: Annotated[
        str, typer.Option("--url", help="Address of the server.")
    ] = "http://127.0.0.1:8000",
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file", help="File with the API key; else the variable GENCONVIT_API_KEY."
        ),
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option("--ca-file", help="PEM file to check the server's certificate with."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Name of a detector, if not the server's first.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="Frames of a clip to look at.")
    ] = None,
    aggregation: Annotated[
        str | None,
        typer.Option("--aggregation", help="mean, median, top_k, max, confident or original."),
    ] = None,
    job: Annotated[
        bool, typer.Option("--job", help="For long clips: the server judges in its own time.")
    ] = False,
    json: Json = False,
) -> None:
    """Have clips judged by a server."""
    from genconvit.client import Client
    from ray_jobs.detect import Ask, api_key
    from ray_jobs.detect import detect as run

    ask = Ask(frames, aggregation, model, job)
    with Client(url, api_key(key_file), ca_file=ca_file) as client:
        run(client, clips, ask, Output(json))


@keys_app.command()
def new(
    name: KeyName,
    file: KeysFile,
    requests_per_minute: Annotated[
        float | None,
        typer.Option("--requests-per-minute", help="Else serve.requests_per_minute."),
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="It may reload detectors.")] = False,
) -> None:
    """Make a key, print it once, and add its hash to the file."""
    from serve.http.key_file import add_key

    key = add_key(file, name, requests_per_minute, admin)
    sys.stderr.write(f"The key of {name}, shown only now; {file} has its hash:\n")
    sys.stderr.flush()
    sys.stdout.write(f"{key}\n")


@keys_app.command("list")
def list_keys(file: KeysFile, json: Json = False) -> None:
    """Show the names of the keys, and what they may."""
    from rich.table import Table

    from serve.http.key_file import read_keys

    output = Output(json)
    table = Table("key", "requests a minute", "admin")
    for entry in read_keys(file):
        rate = entry.requests_per_minute
        table.add_row(
            entry.name, "as set for all" if rate is None else f"{rate:g}", "yes" * entry.admin
        )
        output.emit({"name": entry.name, "requests_per_minute": rate, "admin": entry.admin})
    output.say(table)


@keys_app.command()
def remove(name: KeyName, file: KeysFile) -> None:
    """Take a key away; a server that runs refuses it at once."""
    from serve.http.key_file import remove_key

    remove_key(file, name)
