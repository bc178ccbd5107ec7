"""Why a container ended, as one sentence for a person, from its exit status, the cluster's text and the agent's last word."""

from __future__ import annotations

from tarn_common.exits import by_status

_KNOWN = {
    0: "it ended with status 0, which no program of TARN does",
    126: "its command could not be executed (status 126)",
    127: "its command was not found (status 127)",
    130: "it was interrupted (SIGINT, status 130)",
    134: "it aborted (SIGABRT, status 134)",
    137: "it was killed (SIGKILL, status 137): by the kernel when memory ran out, or by hand",
    139: "it crashed (SIGSEGV, status 139)",
    143: "it was ended by a TERM signal from outside (status 143)",
}
_NOT_OUR_FAULT = frozenset({143})


def is_failure(exit_status: int | None) -> bool:
    """Whether an end that nobody ordered counts against the application."""
    if exit_status is None:
        return True
    known = by_status(exit_status)
    return known.is_failure if known is not None else exit_status not in _NOT_OUR_FAULT


def code(exit_status: int | None) -> str:
    known = by_status(exit_status) if exit_status is not None else None
    return known.code if known is not None else "" if exit_status is None else f"status_{exit_status}"


def sentence(exit_status: int | None, diagnostics: str, said: str) -> str:
    """`said` is the reason that the agent gave before it ended, and wins over numbers."""
    if said:
        return said
    ours = exit_status is not None and by_status(exit_status) is not None
    return "; ".join(part for part in (_meaning(exit_status), "" if ours else diagnostics.strip()) if part)


def _meaning(exit_status: int | None) -> str:
    if exit_status is None:
        return "it ended unseen, so its exit status is unknown"
    known = by_status(exit_status)
    if known is not None:
        return f"{known.meaning} (status {int(known)})"
    return _KNOWN.get(exit_status, f"it ended with status {exit_status}")
