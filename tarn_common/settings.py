"""Settings: frozen dataclasses, parsed once from flags, then the environment, then defaults.

Each field is made by `setting`, which carries its sentence, its unit and its environment variable. From the same fields come
the parser, the error messages, the command line's options and the README's table.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from enum import Enum
from typing import Any, TypeVar

T = TypeVar("T")


class SettingsError(ValueError):
    """A setting with a value that cannot be used: names the setting, the value and the fix."""


@dataclass(frozen=True)
class About:
    """What a field is: `env` the variable, `unit` of its number ('s', 'ms', 'bytes' or ''), `low`/`high` its range (inclusive)."""

    doc: str
    env: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    secret: bool = False
    check: Callable[[Any], None] | None = None


def setting(default: Any = MISSING, *, doc: str, env: str, **about: Any) -> Any:
    """A field of a settings class; without a default it must be given."""
    return dataclasses.field(default=default, metadata={"about": About(doc, env, **about)})


def about(field: dataclasses.Field[Any]) -> About:
    found = field.metadata["about"]
    assert isinstance(found, About)
    return found


def load(cls: type[T], environ: Mapping[str, str], given: Mapping[str, Any] | None = None) -> T:
    """Builds `cls` from `given` (flags; None counts as not given), then `environ`, then defaults.

    Texts are parsed by the field's type; an empty variable counts as not set. Raises SettingsError.
    """
    given = given or {}
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        what = about(field)
        value = given.get(field.name)
        source = "--" + field.name.replace("_", "-")
        if value is None and environ.get(what.env):
            value, source = environ[what.env], what.env
        if value is None:
            if field.default is MISSING:
                raise SettingsError(f"{what.env} is not set: {what.doc}")
            continue
        values[field.name] = _checked(parse(value, hints[field.name], source), what, source)
    return cls(**values)


def parse(value: Any, kind: Any, source: str) -> Any:
    """A text (or an already typed value) as `kind`: str, int, float, bool, an Enum by value, tuple[str, ...], or any of these | None.

    A list's text has commas between its items, and blanks around them do not count; or it is a JSON list, for items with either.
    A list that is given as one is taken word for word.
    """
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        kind = next(arm for arm in typing.get_args(kind) if arm is not type(None))
    if typing.get_origin(kind) is tuple:
        return _listed(value, source) if isinstance(value, str) else tuple(value)
    if not isinstance(value, str):
        return value
    text = value.strip()
    try:
        if kind is bool:
            return _BOOLEANS[text.lower()]
        if isinstance(kind, type) and issubclass(kind, Enum):
            return kind(text)
        return kind(text)
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{source}={value!r} is not {_wanted(kind)}") from error


def _listed(text: str, source: str) -> tuple[str, ...]:
    if not text.lstrip().startswith("["):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        # Not shown: among variables for a program there may be secrets.
        raise SettingsError(f'{source} begins with \'[\' and is not a JSON list of texts: give ["…", "…"], or items with commas between')
    return tuple(found)


_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def _wanted(kind: Any) -> str:
    if kind is bool:
        return "true or false"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "one of " + ", ".join(str(member.value) for member in kind)
    return {int: "a whole number", float: "a number"}.get(kind, f"a {getattr(kind, '__name__', kind)}")


def _checked(value: Any, what: About, source: str) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = what.low, what.high
        if value != value or (low is not None and value < low) or (high is not None and value > high):
            unit = f" {what.unit}" if what.unit else ""
            bounds = f"at least {low:g}" if high is None else f"at most {high:g}" if low is None else f"between {low:g} and {high:g}"
            raise SettingsError(f"{source}={value} is out of range: give a value {bounds}{unit}")
    if what.check is not None:
        try:
            what.check(value)
        except ValueError as error:
            raise SettingsError(f"{source}={value!r}: {error}") from error
    return value


def redacted(settings: Any) -> dict[str, Any]:
    """Name to value for `/config`, with secret fields blanked."""
    out: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            out[field.name] = redacted(value)
        elif "about" in field.metadata and about(field).secret and value:
            out[field.name] = "(set)"
        else:
            out[field.name] = value.value if isinstance(value, Enum) else value
    return out
