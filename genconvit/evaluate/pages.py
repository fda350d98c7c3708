"""What the HTML pages and their writers share."""

from __future__ import annotations

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **context: Any) -> str:
    """Fills a template of `genconvit/evaluate/templates`. Values are escaped."""
    environment = Environment(
        loader=PackageLoader("genconvit.evaluate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"clock": clock, "score": score, "percent": percent}
    return environment.get_template(template).render(context)


def data_uri(content: bytes, media_type: str) -> str:
    """Bytes as an address that a page can embed."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def facts(info: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Rows of a table: nested names are joined by a dot."""
    rows: list[tuple[str, str]] = []
    for name, value in info.items():
        if isinstance(value, dict):
            rows += facts(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, "none" if value is None else str(value)))
    return rows


def clock(seconds: float) -> str:
    """A time in a clip: "9.5 s", or "2:05.0" from a minute on."""
    tenths = round(seconds * 10)
    if tenths < 600:
        return f"{tenths / 10:.1f} s"
    minutes, tenths = divmod(tenths, 600)
    return f"{minutes}:{tenths / 10:04.1f}"


def score(value: float | None) -> str:
    """A score with two decimals."""
    return "none" if value is None else f"{value:.2f}"


def percent(value: float | None) -> str:
    """A share in percent with one decimal; "undefined" where there is none."""
    return "undefined" if value is None else f"{value:.1%}"
