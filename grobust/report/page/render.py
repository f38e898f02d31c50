"""From content to one HTML file: escaped everywhere, and closed to anything but its own script and style."""

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from grobust import __version__
from grobust.report.page.content import PageContent

__all__ = ["data_json", "render_page"]

SCRIPTS = ("core.js", "charts.js", "scatter.js", "page.js")


def render_page(content: PageContent) -> str:
    """The page as one HTML document.

    Values are escaped by the template, or are JSON in which no markup can end the script element that holds it. A
    policy in the page's head allows this script and this style by their hashes, and no connection at all: markup that
    came through nevertheless could not run.
    """
    script = "".join(_asset(name) for name in SCRIPTS)
    style = _asset("page.css")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    environment.filters["percent"] = _percent
    template = environment.from_string(_asset("page.html"))
    return template.render(
        page=content,
        version=__version__,
        # Our own files, and JSON that holds no '<', are the only values that the template takes as markup.
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        data=Markup(data_json(content.data())),  # noqa: S704
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def data_json(value: Any) -> str:
    """JSON for a script element: what could end the element, or be read as markup in it, is written as an escape."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return files("grobust.report.page").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
