"""The JSON body of an order: exactly the keys it has, each of its type. What is misspelt is named, never ignored. Pure."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

from tarn_am.api.answers import ApiError

Shape = Mapping[str, type]
_WORDS = {int: "a whole number", str: "a text"}
_EXAMPLES: Mapping[type, int | str] = {int: 3, str: "text"}
MAX_TEXT = 512


def read_order(body: bytes, shape: Shape) -> dict[str, Any]:
    """The order in `body`; raises ApiError (400) that names what is wrong and the form wanted."""
    form = json.dumps({key: _EXAMPLES[kind] for key, kind in shape.items()})
    order = _parse(body, form)
    known = ", ".join(shape) or "none"
    for key in order:
        if key not in shape:
            raise ApiError(400, f"the body has the unknown key {_shown(key)}", _meant(key, list(shape)) or f"known keys: {known}")
    for key, kind in shape.items():
        if key not in order:
            raise ApiError(400, f"the body lacks the key {key!r}", f"send {form}")
        if type(order[key]) is not kind:  # a bool is an int to isinstance, and never a count to us
            raise ApiError(400, f"{key} is {_shown(order[key])}, not {_WORDS[kind]}", f"send {form}")
        if kind is str:
            _check_text(key, order[key])
    return order


def check_query(query: list[tuple[str, str]], known: tuple[str, ...]) -> dict[str, str]:
    """The parameters of a URL, each known and given once. Values are not shown: one of them may be a token in the wrong place."""
    found: dict[str, str] = {}
    for name, value in query:
        if name not in known:
            fix = "send the token as the header X-TARN-Token" if name == "token" else _meant(name, list(known))
            raise ApiError(400, f"unknown query parameter {_shown(name)}", fix or f"known here: {', '.join(known) or 'none'}")
        if name in found:
            raise ApiError(400, f"the query parameter {name} was given twice", "give it once")
        found[name] = value
    return found


def _parse(body: bytes, form: str) -> dict[str, Any]:
    try:
        order = json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise ApiError(400, "the body is not UTF-8", f"send JSON such as {form}") from error
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON that can be read: {error}"[:300], f"send {form}") from error
    if not isinstance(order, dict):
        raise ApiError(400, f"the body is {_shown(order)}, not a JSON object", f"send {form}")
    return order


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {_shown(key)} stands there twice")
        found[key] = value
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _check_text(key: str, value: str) -> None:
    if not value or len(value) > MAX_TEXT or not value.isprintable():
        raise ApiError(400, f"{key} is {_shown(value)}", f"give 1 to {MAX_TEXT} printable characters")


def _meant(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]}?" if close else ""


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
