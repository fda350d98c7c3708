"""The interface in words, made from the OpenAPI document: it needs nothing from elsewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Operation:
    """A method of a path, as the page shows it."""

    method: str
    path: str
    text: str
    curl: str
    parameters: list[dict[str, Any]]
    answers: dict[str, str]
    """Descriptions by status."""
    example: str


@router.get("/docs")
async def interface(request: Request) -> HTMLResponse:
    """The page."""
    return HTMLResponse(_page(request.app))


@cache
def _page(api: FastAPI) -> str:
    environment = Environment(
        loader=PackageLoader("serve"), autoescape=True, undefined=StrictUndefined
    )
    document = api.openapi()
    return environment.get_template("interface.html").render(
        title=document["info"]["title"],
        text=document["info"]["description"],
        operations=[
            _operation(document, path, method, found)
            for path, methods in document["paths"].items()
            for method, found in methods.items()
        ],
        fields=_fields(document["components"]["schemas"]["Detection"]),
    )


def _operation(
    document: dict[str, Any], path: str, method: str, found: dict[str, Any]
) -> Operation:
    body = found.get("requestBody", {}).get("content", {}).get("multipart/form-data")
    field = body and body["schema"]["properties"]["file"]
    files = "" if not field else " -F file=@A -F file=@B" if "items" in field else " -F file=@CLIP"
    verb = "" if method == "get" or field else f" -X {method.upper()}"
    return Operation(
        method=method.upper(),
        path=path,
        text=found.get("description", ""),
        curl=f'curl{verb} -H "Authorization: Bearer $KEY"{files} "$URL{path}"',
        parameters=found.get("parameters", []),
        answers={status: each["description"] for status, each in found["responses"].items()},
        example=_example(document, found),
    )


def _example(document: dict[str, Any], found: dict[str, Any]) -> str:
    for status, answer in found["responses"].items():
        schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
        name = schema.get("$ref", "").rpartition("/")[2]
        examples = document["components"]["schemas"].get(name, {}).get("examples", [])
        if status.startswith("2") and examples:
            return json.dumps(examples[0], indent=2)
    return ""


def _fields(schema: dict[str, Any]) -> dict[str, str]:
    """What the fields of an answer mean, by name, where they have words of their own."""
    return {
        name: field["description"]
        for name, field in schema["properties"].items()
        if "description" in field
    }
