"""Prometheus's text format, as far as one page of gauges and counters needs it. Pure, fast, and never raises.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/. A line that is not a sample is left out, and so is a
value that is not a finite number: a torn page gives fewer samples, not an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

_SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)[ \t]*(?:\{((?:[^"{}]|"(?:[^"\\]|\\.)*")*)\})?[ \t]*([^\s{}"]+)(?:[ \t]+-?\d+)?[ \t\r]*')
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "\\": "\\", '"': '"'}


@dataclass(frozen=True)
class Sample:
    name: str
    labels: Mapping[str, str]
    value: float


def samples(text: str, wanted: Callable[[str], bool]) -> Iterator[Sample]:
    """The samples of the lines for which `wanted(line)` holds; it is asked first, because a page has many lines and few that matter."""
    for line in text.split("\n"):
        if not wanted(line):
            continue
        match = _SAMPLE.fullmatch(line)
        if match is None:
            continue
        value = _number(match.group(3))
        if value is not None:
            yield Sample(match.group(1), _labels(match.group(2) or ""), value)


def _labels(text: str) -> dict[str, str]:
    return {name: _ESCAPE.sub(_unescaped, value) if "\\" in value else value for name, value in _LABEL.findall(text)}


def _unescaped(match: re.Match[str]) -> str:
    return _ESCAPES.get(match.group(1), match.group(0))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
