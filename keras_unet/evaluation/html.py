"""HTML from Python values: everything is escaped unless it was made here."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib import resources
from typing import Any

_VOID = {"img", "input", "meta"}


class Html(str):
    """Markup: put into a page as it is."""

    __slots__ = ()


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element. Text and attributes are escaped; None and False leave an attribute out.

    `class_` stands for class, and other underscores for hyphens: `aria_label`.
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        written.append(f" {key}" if value is True else f' {key}="{escape(str(value))}"')
    start = f"<{name}{''.join(written)}>"
    return Html(start if name in _VOID else f"{start}{join(*children)}</{name}>")


def join(*children: Any) -> Html:
    """One after the other; lists and tuples are opened, None is nothing."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, (list, tuple)):
            parts.append(join(*child))
        elif child is not None:
            parts.append(escape(str(child)))
    return Html("".join(parts))


def data_uri(kind: str, content: bytes) -> str:
    """Bytes of a media type as an address that needs no network."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def page(title: str, *body: Any) -> str:
    """A whole page in one file: no script, style or address but its own can be used in it.

    The content security policy allows this style and this script by their hashes, and pictures
    only as data: even a name that escaped the escaping could neither run nor load anything.
    """
    style, script = (asset(name) for name in ("report.css", "report.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    head = (
        Html('<meta charset="utf-8">'),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(style)),
    )
    main = tag("main", *body)
    whole = tag(
        "html", tag("head", head), tag("body", main, tag("script", Html(script))), lang="en"
    )
    return f"<!doctype html>\n{whole}\n"


def asset(name: str) -> str:
    """The text of a file in `assets`."""
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
