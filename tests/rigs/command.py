"""The `tarn` command as its user runs it: a process of its own, with an environment of its own, on pipes or on a terminal."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TARN = Path(sys.executable).with_name("tarn")
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


def environment(home: Path, **more: str) -> dict[str, str]:
    """A user's environment without any setting of TARN but those given."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "COLUMNS": "120", "LC_ALL": "C.UTF-8", **more}


async def start(
    arguments: tuple[str, ...], environ: Mapping[str, str], stdout: int = asyncio.subprocess.PIPE
) -> asyncio.subprocess.Process:
    """Its pipes are read by the caller; nothing comes in on stdin."""
    return await asyncio.create_subprocess_exec(
        str(TARN), *arguments,
        env=dict(environ), stdin=asyncio.subprocess.DEVNULL, stdout=stdout, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def ended(process: asyncio.subprocess.Process) -> Ran:
    try:
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()
        raise AssertionError(f"the command did not end within {PATIENCE_S:g} s") from None
    assert process.returncode is not None
    return Ran(process.returncode, (out or b"").decode(), (err or b"").decode())


async def tarn(home: Path, *arguments: str, **environ: str) -> Ran:
    """Runs `tarn` to its end."""
    return await ended(await start(arguments, environment(home, **environ)))


async def on_terminal(home: Path, *arguments: str, **environ: str) -> Ran:
    """Runs `tarn` with stdout on a terminal of 120 columns; what it wrote there is `out`."""
    ours, theirs = os.openpty()
    try:
        process = await start(arguments, environment(home, TERM="xterm", **environ), theirs)
    finally:
        os.close(theirs)
    try:
        reading = asyncio.get_running_loop().run_in_executor(None, _drained, ours)
        done = await ended(process)
        return Ran(done.status, await reading, done.err)
    finally:
        os.close(ours)


def _drained(descriptor: int) -> str:
    """Everything that is written to a terminal, until the last one that had it open is gone."""
    pieces = []
    while True:
        try:
            piece = os.read(descriptor, 65536)
        except OSError:  # EIO: nobody has the other side open any more
            break
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces).decode()
