"""scripts/quickstart as a newcomer runs it, with real Tritons: it serves, it says so, and it leaves nothing behind however it ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from scripts.firstrun import wait_for
from tests.rigs.command import Ran
from tests.rigs.wait import eventually

pytestmark = pytest.mark.real
QUICKSTART = Path(__file__).parents[2] / "scripts" / "quickstart"
PATIENCE_S = 180.0


@dataclass
class Quickstart:
    """Runs it with a directory for temporary files of its own, by which everything that it starts is recognised."""

    scratch: Path
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        environ = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "TMPDIR": str(self.scratch), "PYTHONUNBUFFERED": "1"}
        process = await asyncio.create_subprocess_exec(
            str(QUICKSTART), "--no-install", *arguments,
            env=environ, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        self.processes.append(process)
        return process

    async def serving(self) -> asyncio.subprocess.Process:
        """Started without `--once`; an instance is READY."""
        process = await self.start()
        assert process.stdout is not None
        line = b""
        while b"is READY at" not in line:
            line = await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)
            if not line:
                raise AssertionError(f"it ended: {await ended(process)}")
        return process

    def running(self) -> list[str]:
        """What runs of it: command lines of all processes that carry the directory in their environment or arguments."""
        found = []
        for process in psutil.process_iter():
            try:
                words = [*process.cmdline(), *process.environ().values()]
                if process.pid != os.getpid() and any(str(self.scratch) in word for word in words):
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        return found


async def ended(process: asyncio.subprocess.Process) -> Ran:
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def quickstart() -> AsyncIterator[Quickstart]:
    with tempfile.TemporaryDirectory(prefix="tq-") as scratch:
        found = Quickstart(Path(scratch))
        yield found
        for process in found.processes:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGTERM)
                await asyncio.wait_for(process.communicate(), PATIENCE_S)


class TestOnce:
    async def test_serves_one_inference_says_when_what_happened_and_leaves_nothing(self, quickstart: Quickstart) -> None:
        ran = await ended(await quickstart.start("--once"))
        assert (ran.status, ran.err) == (0, "")
        assert re.search(r"identity at 127\.0\.0\.1:\d+ answered \[1", ran.out)
        steps = re.findall(r"^(.+?) +\d+\.\d\d s +\d+\.\d\d s$", ran.out, re.MULTILINE)
        assert sorted(steps[1:3]) == ["Application Master up", "container launched"]
        assert [steps[0], *steps[3:]] == [
            "virtual environment ready",
            "agent accepted",
            "models staged",
            "Triton live",
            "model loaded, instance READY",
            "first answer",
            "everything stopped, nothing left running",
        ]
        assert quickstart.running() == []
        assert list(quickstart.scratch.iterdir()) == []


class TestUntilItIsEnded:
    async def test_ctrl_c_ends_everything(self, quickstart: Quickstart) -> None:
        process = await quickstart.serving()
        assert any("tritonserver" in line for line in quickstart.running())
        os.killpg(process.pid, signal.SIGINT)
        ran = await ended(process)
        assert ran.status == 0
        assert "everything has ended" in ran.out
        assert quickstart.running() == []
        assert list(quickstart.scratch.iterdir()) == []

    @pytest.mark.parametrize(("ending", "status"), [("exit 0", 0), ("exit 130", 130), ("kill -INT $$", 130), ("exit 3", 1)])
    def test_ctrl_c_before_tarn_local_is_up_is_no_failure(self, ending: str, status: int) -> None:
        assert wait_for(subprocess.Popen(["sh", "-c", ending])) == status

    async def test_a_kill_leaves_nothing_running(self, quickstart: Quickstart) -> None:
        process = await quickstart.serving()
        process.kill()
        await eventually(lambda: not quickstart.running(), "everything that it started ends by itself")
