"""Prints SETTINGS.md from the settings' own fields: .venv/bin/python scripts/settings.py > SETTINGS.md"""

from __future__ import annotations

import dataclasses
import typing
from enum import Enum
from typing import Any

from tarn_agent.settings import AgentSettings
from tarn_am.cluster.yarn.settings import YarnSettings
from tarn_am.settings import AmSettings
from tarn_am.submission.settings import SubmitSettings
from tarn_common.settings import About, about

_HEAD = """\
# Settings

Printed from the code by `scripts/settings.py`. A flag beats its variable, a variable beats the default; a wrong value is told with its name and the fix.
"""


def default(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if value is dataclasses.MISSING:
        return "must be given"
    if isinstance(value, Enum):
        value = value.value
    if value == "" or value == ():
        return ""
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def limits(what: About) -> str:
    if what.low is not None and what.high is not None:
        return f"{what.low:g} to {what.high:g}"
    return f"≥ {what.low:g}" if what.low is not None else f"≤ {what.high:g}" if what.high is not None else ""


def table(cls: type, flags: bool, leave_out: tuple[str, ...] = ()) -> str:
    names = typing.get_type_hints(cls)
    rows = ["| " + ("flag | " if flags else "") + "variable | what | default | unit, range |", "|---" * (5 if flags else 4) + "|"]
    for field in dataclasses.fields(cls):
        assert field.name in names
        if field.name in leave_out:
            continue
        what = about(field)
        unit = ", ".join(part for part in (what.unit, limits(what)) if part)
        flag = f"`--{field.name.replace('_', '-')}` | " if flags else ""
        rows.append(f"| {flag}`{what.env}` | {what.doc.replace('|', ' ')} | {default(field)} | {unit} |")
    return "\n".join(rows)


def main() -> None:
    print(_HEAD)
    print("## The Application Master (`tarn local`, `tarn-am`)\n")
    print(table(AmSettings, flags=True))
    print("\n## `tarn submit`\n\nIt has the Application Master's settings too; `--config FILE` takes them all from a TOML file.\n")
    print(table(SubmitSettings, flags=True))
    print("\n### What an instance asks of YARN\n")
    print(table(YarnSettings, flags=True, leave_out=("archive", "archive_bytes", "archive_mtime_ms", "archive_visibility")))
    print("\n## An agent\n\nThe Application Master sets these in each container; the cluster sets those that are not called TARN_….\n")
    print(table(AgentSettings, flags=False))


if __name__ == "__main__":
    main()
