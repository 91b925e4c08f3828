"""What all pages have in common: the look, tokens coloured by surprisal, and that nothing in a page
can run but its own script.

Owns the environment of the templates, `page.css`, the policy, and how a token becomes a span. Text
of files is escaped; a page needs no network. Does not know what a page shows.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from llmzip.inspect.report import printable

# Upper ends of the classes of surprisal, bits; the last class is open.
BUCKETS = (0.5, 1.0, 2.0, 4.0, 8.0, 12.0)
NONE = "–"


def render_page(package: str, template: str, script: str, content: Mapping[str, Any]) -> str:
    """A page from a template of a package, with a script of it. Raises KeyError, TypeError or
    ValueError for content that does not fit the template."""

    def load(name: str) -> str:
        return _part(_SHARED if name == "page.html.j2" else package, name)

    environment = Environment(
        loader=FunctionLoader(load), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, finalize=_shown,
    )  # fmt: skip
    style, code = _part(_SHARED, "page.css"), _part(package, script)
    return environment.get_template(template).render(
        **content,
        policy=_policy(style, code),
        style=Markup(style),
        script=Markup(code),
        buckets=BUCKETS,
    )


def bucket(bits: float | None) -> int:
    """The class of a surprisal."""
    return sum((bits or 0.0) >= limit for limit in BUCKETS)


def token_text(text: str) -> str:
    """A token's text as it is shown: line ends and tabs marked, what cannot be seen escaped."""
    return printable(text.replace("\n", "↵")).replace("↵", "↵\n").replace("\\t", "⇥\t") or "∅"


_SHARED = "llmzip.inspect"


def _part(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing is fetched, and of all scripts and styles only these two apply."""
    return (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _shown(value: Any) -> Any:
    """Text with invisible characters escaped. Line ends and spaces stay, and so does markup."""
    if type(value) is not str or value.isprintable():
        return value
    return "".join(char if char == "\n" else printable(char) for char in value)
