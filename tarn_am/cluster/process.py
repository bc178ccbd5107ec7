"""Processes of this machine, told apart for certain: by pid, start time and boot, so that a pid used again is never taken for
another. Ends are awaited through pidfds, whoever the parent is; a process that is dead and not yet reaped counts as ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One process for ever: `start_ticks` after `boot` is when it began."""

    pid: int
    start_ticks: int
    boot: str


@dataclass(frozen=True)
class _Stat:
    state: str
    parent: int
    session: int
    start_ticks: int


def identify(pid: int) -> Process | None:
    """The process that has this pid now, dead and unreaped ones included; None when there is none."""
    found = _stat(pid)
    return Process(pid, found.start_ticks, boot()) if found is not None else None


def boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def is_alive(process: Process) -> bool:
    found = _stat(process.pid)
    return found is not None and found.start_ticks == process.start_ticks and found.state not in "ZX" and process.boot == boot()


def family(process: Process) -> list[Process]:
    """The living descendants of `process` and the living members of its session, itself left out.

    Works after its death for those that stayed in its session, for a session's number is not given away while it has members.
    """
    stats = {pid: found for pid in _pids() if (found := _stat(pid)) is not None}
    kin = {process.pid}
    grown = True
    while grown:
        more = {pid for pid, found in stats.items() if found.parent in kin and pid not in kin}
        kin |= more
        grown = bool(more)
    kin |= {pid for pid, found in stats.items() if found.session == process.pid and found.start_ticks >= process.start_ticks}
    here = boot()
    return [
        Process(pid, stats[pid].start_ticks, here) for pid in sorted(kin - {process.pid}) if pid in stats and stats[pid].state not in "ZX"
    ]


def send(process: Process, number: signal.Signals) -> bool:
    """Sends a signal to exactly this process; False when it is no more."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        # The pidfd holds whoever has the pid now; only if that is ours still, the signal goes out.
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(descriptor, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)


async def ended(process: Process) -> None:
    """Returns as soon as `process` is over."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    try:
        if identify(process.pid) != process:
            return
        over: asyncio.Future[None] = loop.create_future()
        loop.add_reader(descriptor, _settle, over)
        try:
            await over
        finally:
            loop.remove_reader(descriptor)
    finally:
        os.close(descriptor)


def _settle(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


async def all_ended(processes: Iterable[Process], deadline_s: float) -> bool:
    """Whether all were over within the deadline."""
    waits = [asyncio.ensure_future(ended(process)) for process in processes]
    if not waits:
        return True
    _, pending = await asyncio.wait(waits, timeout=deadline_s)
    for wait in pending:
        wait.cancel()
    return not pending


def _pids() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The program's name stands in parentheses and may hold anything; what follows the last one is proc(5)'s fields from 3 on.
    fields = text.rpartition(")")[2].split()
    return _Stat(fields[0], int(fields[1]), int(fields[3]), int(fields[19]))
