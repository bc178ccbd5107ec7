"""A command's options out of a TOML file: keys are the flags' names, and a key that is no flag is refused."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tarn_am.cli.outcome import CommandError, Outcome

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_LIMIT_BYTES = 1 << 20


def read(path: Path, known: Collection[str]) -> dict[str, Any]:
    """Field name to text, or to a tuple of texts for a list. Raises CommandError with exit code 2."""
    try:
        with path.open("rb") as file:
            found = tomllib.loads(file.read(_LIMIT_BYTES).decode())
    except OSError as error:
        raise CommandError(Outcome.USAGE, f"--config={path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise CommandError(Outcome.USAGE, f"--config={path} is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise CommandError(Outcome.USAGE, f"--config={path} is not TOML: {error}") from error
    return {_field(path, key, known): _text(path, key, value) for key, value in found.items()}


def _field(path: Path, key: str, known: Collection[str]) -> str:
    name = key.removeprefix("--").replace("-", "_")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        fix = f"did you mean {near[0].replace('_', '-')!r}?" if near else "its keys are the flags' names, such as min-instances"
        raise CommandError(Outcome.USAGE, f"--config={path}: {key!r} is no option of this verb", fix)
    return name


def _text(path: Path, key: str, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(str(_text(path, key, each)) for each in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise CommandError(Outcome.USAGE, f"--config={path}: {key!r} is neither a text nor a number nor a list of them")
