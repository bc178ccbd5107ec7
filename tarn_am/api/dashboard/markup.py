"""HTML from text, with no way to forget an escape: whatever is not already `Html` is escaped where it is put. Pure."""

from __future__ import annotations

import html
import re

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_VOID = {"meta", "link", "input"}


class Html(str):
    """Text that is markup already, made by `tag` or `join` alone."""

    __slots__ = ()


Child = str | int | None
Attribute = str | int | float | bool | None


def text(value: Child) -> Html:
    """Escaped; control characters and those that turn the direction of a line become visible."""
    if value is None or isinstance(value, Html):
        return value or Html("")
    return Html(html.escape(_CONTROL.sub("\ufffd", str(value))))


def join(*children: Child) -> Html:
    return Html("".join(text(child) for child in children))


def tag(name: str, /, *children: Child, **attributes: Attribute) -> Html:
    """`class_`, `for_` and `data_x` stand for class, for and data-x; None and False leave an attribute out, True gives it no value."""
    shown = "".join(_attribute(key, value) for key, value in attributes.items())
    return Html(f"<{name}{shown}>") if name in _VOID else Html(f"<{name}{shown}>{join(*children)}</{name}>")


def _attribute(key: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{text(str(value))}"'
