"""The types of arguments and options that are no settings, each with a sentence of its own for a value that it cannot take."""

from __future__ import annotations

import difflib
import math
from typing import Any

import click


class Word(click.Choice[str]):
    """One of a few words; a near miss is told which one was meant."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        near = difflib.get_close_matches(str(value), list(self.choices), n=1)
        known = ", ".join(repr(choice) for choice in self.choices)
        return f"{value!r} is not one of {known}" + (f"; did you mean {near[0]!r}?" if near else "")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.choices:
            self.fail(self.get_invalid_choice_message(value, ctx), param, ctx)
        return str(value)


class Count(click.ParamType[int]):
    """A whole number from 0 to `high` of something that `noun` names."""

    name = "number"

    def __init__(self, noun: str, high: int) -> None:
        self._noun, self._high = noun, high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        # Its length first: Python refuses to read thousands of digits.
        if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= self._high):
            shown = text if len(text) <= 40 else text[:37] + "..."
            self.fail(f"{shown!r} is no number of {self._noun}; give a whole number from 0 to {self._high}, such as 3", param, ctx)
        return int(text)


class Seconds(click.ParamType[float]):
    """A duration."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            self.fail(f"{str(value)!r} is no number of seconds; give one such as 60", param, ctx)
        return seconds
