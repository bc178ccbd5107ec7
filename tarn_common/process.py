"""Processes of this machine, told apart for certain: by pid, start time and boot, so that a pid used again is never taken for
another. Ends are awaited through pidfds, whoever the parent is; a process that is dead and not yet reaped counts as ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_POLL_S = 0.1
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """One process for ever: `start_ticks` after `boot` is when it began."""

    pid: int
    start_ticks: int
    boot: str

    @property
    def runs(self) -> bool:
        """False for a zombie too: it does nothing any more, though its parent has not seen its end yet."""
        found = _stat(self.pid)
        return found is not None and found.start_ticks == self.start_ticks and found.state not in "ZX" and self.boot == boot()

    @property
    def age_s(self) -> float:
        """Seconds since it started."""
        return float((_PROC / "uptime").read_text().split()[0]) - self.start_ticks / _TICKS_PER_S

    def send(self, number: signal.Signals) -> bool:
        """Signals exactly this process; False when it is no more. Raises PermissionError."""
        descriptor = _pidfd(self.pid)
        try:
            # The descriptor holds whoever has the pid now; only if that is this one, the signal goes out.
            if not self.runs:
                return False
            if descriptor is None:
                os.kill(self.pid, number)
            else:
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            if descriptor is not None:
                os.close(descriptor)
        return True

    async def ended(self) -> None:
        """Returns within milliseconds of its end; where the kernel has no pidfd (before 5.3, or hidden by seccomp), within 0.1 s."""
        descriptor = _pidfd(self.pid)
        try:
            if descriptor is not None and self.runs:
                await _readable(descriptor)
            while self.runs:  # noqa: ASYNC110  (nothing else tells it there)
                await asyncio.sleep(_POLL_S)
        finally:
            if descriptor is not None:
                os.close(descriptor)


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


def find(pid: int) -> Process | None:
    """The process that runs under this pid now; None where there is none, or a dead one."""
    found = identify(pid)
    return found if found is not None and found.runs else None


def boot() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


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


async def all_ended(processes: Iterable[Process], deadline_s: float) -> bool:
    """Whether all were over within the deadline."""
    waits = [asyncio.ensure_future(process.ended()) for process in processes]
    if not waits:
        return True
    _, pending = await asyncio.wait(waits, timeout=deadline_s)
    for wait in pending:
        wait.cancel()
    return not pending


def _pidfd(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return os.pidfd_open(pid)
    return None


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _settle, readable)
    try:
        await readable
    finally:
        loop.remove_reader(descriptor)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


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
