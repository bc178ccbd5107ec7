"""One process of this machine, told apart from a later one that was given the same pid. Its end is seen at once, whoever its parent is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.1
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """A pid and the clock ticks from the machine's start to the process's own: together they name it until the next boot."""

    pid: int
    start_ticks: int

    @property
    def age_s(self) -> float:
        """Seconds since it started."""
        return float(Path("/proc/uptime").read_text().split()[0]) - self.start_ticks / _TICKS_PER_S

    @property
    def runs(self) -> bool:
        """False for a zombie too: it serves nothing any more, though supervisord has not seen its end yet."""
        return find(self.pid) == self

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


def find(pid: int) -> Process | None:
    """The process that runs under this pid now; None where there is none, or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The program's name stands in parentheses and may hold anything; behind the last one come proc(5)'s fields from the third on.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else Process(pid, int(fields[19]))


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
