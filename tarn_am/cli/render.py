"""How the `tarn` command shows things: tables, ages, sizes, and one line of progress.

Pure but for `Progress` and `colourful`. Colours only on a terminal, never with NO_COLOR or TERM=dumb; every colour stands
beside a word that says the same.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

import click

from tarn_am.cli.client import clean

_PAUSE_S = 2.0
_COLOURS = {
    "READY": "green",
    "STAGING": "yellow",
    "STARTING": "yellow",
    "LAUNCHED": "yellow",
    "REQUESTED": "yellow",
    "ALLOCATED": "yellow",
    "DRAINING": "yellow",
    "UNREADY": "red",
    "FAILED": "red",
}


def colourful(stream: TextIO, environ: Mapping[str, str] | None = None) -> bool:
    """Whether a person with a colour terminal reads `stream`."""
    environ = os.environ if environ is None else environ
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], colours: bool = False) -> str:
    """Columns as wide as their widest cell, two blanks between; the last one is not padded. Cells are cleaned of control characters."""
    cells = [[clean(cell).replace("\n", " ").replace("\t", " ") for cell in row] for row in rows]
    widths = [max(len(heading), *(len(row[n]) for row in cells)) if cells else len(heading) for n, heading in enumerate(headings)]
    lines = [_line(headings, widths, bold=colours)]
    lines += [_line(row, widths, paint=colours) for row in cells]
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int], bold: bool = False, paint: bool = False) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells[:-1], widths[:-1], strict=True)] + [cells[-1]]
    line = "  ".join(_painted(cell) if paint else cell for cell in padded).rstrip()
    return click.style(line, bold=True) if bold else line


def _painted(cell: str) -> str:
    colour = _COLOURS.get(cell.strip())
    return click.style(cell, fg=colour) if colour else cell


def age(seconds: float) -> str:
    """A duration in its largest fitting unit: `0.4 s`, `12 s`, `3 min`, `5 h`, `2 d`."""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def size(count: float) -> str:
    """Bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def print_json(value: Any) -> None:
    """For programs: one document, keys in order."""
    click.echo(json.dumps(value, indent=2, sort_keys=True))


def staging(staged: Mapping[str, Any]) -> str:
    """`62 % of 1.2 GiB, 3/5 files, 85.0 MiB/s, about 6 s left`."""
    done, total, rate = staged["bytes_done"], staged["bytes_total"], staged["bytes_per_second"]
    share = f"{100 * done / total:.0f} % of {size(total)}" if total else f"{size(done)}"
    left = f", about {age((total - done) / rate)} left" if rate > 0 and total > done else ""
    speed = f", {size(rate)}/s" if rate > 0 else ""
    return f"{share}, {staged['files_done']}/{staged['files_total']} files{speed}{left}"


class Progress:
    """One line that says how far a wait is: rewritten in place on a terminal, elsewhere a line a change, at most one in two seconds."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._shown = ""
        self._written_at = -math.inf

    def show(self, sentence: str) -> None:
        sentence = clean(sentence).replace("\n", " ")
        now = time.monotonic()
        if sentence == self._shown or (not self._live and now - self._written_at < _PAUSE_S):
            return
        self._shown, self._written_at = sentence, now
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r\x1b[K{sentence[:width]}" if self._live else sentence + "\n")
        self._stream.flush()

    def say(self, sentence: str) -> None:
        """A line that stays, above the one that is rewritten."""
        self.clear()
        self._stream.write(clean(sentence) + "\n")
        self._stream.flush()

    def clear(self) -> None:
        if self._live and self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
        self._shown = ""
