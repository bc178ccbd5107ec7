"""How a `tarn` command ends: the exit codes that a script may rely on, and the error that carries one to the top.

One table: `tarn --help` prints it, and the tests hold every verb to it.
"""

from __future__ import annotations

from enum import IntEnum


class Outcome(IntEnum):
    """The exit status of a `tarn` command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    UNAUTHORISED = 4
    TIMED_OUT = 5
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        return _MEANINGS[self]


_MEANINGS = {
    Outcome.OK: "done",
    Outcome.FAILED: "the order could not be carried out; the line on stderr says why",
    Outcome.USAGE: "the command line is wrong, or one of its values",
    Outcome.UNREACHABLE: "no Application Master was found, or it does not answer",
    Outcome.UNAUTHORISED: "the Application Master wants a token, or another one",
    Outcome.TIMED_OUT: "the order was taken, but what was waited for did not come in time",
    Outcome.INTERRUPTED: "ended by Ctrl-C",
}


class CommandError(Exception):
    """Ends the command with `outcome`; the text is one sentence for stderr, `fix` a second one that says what to do."""

    def __init__(self, outcome: Outcome, text: str, fix: str = "") -> None:
        super().__init__(text)
        self.outcome = outcome
        self.fix = fix

    @property
    def line(self) -> str:
        """Both sentences on one line."""
        text = str(self).rstrip(".")
        return f"{text}: {self.fix}" if self.fix else text


def table() -> str:
    """The exit codes, one a line."""
    return "\n".join(f"{outcome.value:>3}  {outcome.meaning}" for outcome in Outcome)
