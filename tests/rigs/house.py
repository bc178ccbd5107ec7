"""A whole TARN on this machine, started as its user starts it: the `tarn local` process, its agents and their Tritons."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import psutil

from tests.rigs.fleet_client import FleetClient
from tests.rigs.wait import eventually

EXAMPLES = Path(__file__).parents[2] / "examples" / "models"
TARN = Path(sys.executable).with_name("tarn")


class LocalFleet(FleetClient):
    """One application in a state directory of its own. `kill` ends the AM alone; `stop` ends everything by TARN's own order."""

    def __init__(self, root: Path, **environ: str) -> None:
        self.root = root
        self.state_dir = root / "state"
        self._environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(root),
            "TARN_CACHE_DIR": str(Path("~/.cache/tarn").expanduser()),
            "TARN_MODEL_REPOSITORY": str(EXAMPLES),
            "TARN_MODELS": "identity",
            "TARN_AM_PORT": "0",
            "TARN_DRAIN_GRACE_S": "1",
            **environ,
        }
        self._process: asyncio.subprocess.Process | None = None
        self.output = root / "tarn-local.out"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        (self.state_dir / "am.json").unlink(missing_ok=True)
        with self.output.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                str(TARN), "local", "--state-dir", str(self.state_dir),
                env=self._environ, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.root,
            )  # fmt: skip
        await eventually(self._is_up, f"`tarn local` is up; its output is {self.output}")

    def _is_up(self) -> bool:
        if self._process is not None and self._process.returncode is not None:
            raise AssertionError(f"tarn local ended with {self._process.returncode}: {self.output.read_text()[-3000:]}")
        return (self.state_dir / "am.json").exists()

    async def kill(self) -> None:
        """KILL to the Application Master; its containers run on."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> int:
        """TERM to the Application Master: it drains and ends all. Returns its exit status."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self._process.wait(), 120)

    @property
    def url(self) -> str:
        return str(json.loads((self.state_dir / "am.json").read_text())["http"]).rstrip("/")

    @property
    def headers(self) -> dict[str, str]:
        return {"X-TARN-Token": (self.state_dir / "token").read_text().strip()}

    def pids(self, container_id: str) -> dict[str, int]:
        """`init`, `agent` and `triton` of one container, by their command lines."""
        launch = json.loads((self.state_dir / "containers" / container_id / "launch.json").read_text())
        init = psutil.Process(launch["pid"])
        found = {"init": init.pid}
        for child in init.children():
            line = child.cmdline()
            if line and line[0].endswith("tritonserver"):
                found["triton"] = child.pid
            elif "tarn_agent" in line:
                found["agent"] = child.pid
        return found

    def leftovers(self) -> list[str]:
        """Processes that still carry this fleet's state directory in their environment."""
        mark = str(self.state_dir)
        found = []
        for process in psutil.process_iter():
            try:
                if any(mark in value for value in process.environ().values()) and process.pid != os.getpid():
                    found.append(f"{process.pid} {' '.join(process.cmdline())[:120]}")
            except (psutil.Error, OSError):
                continue
        return found

    async def end(self) -> None:
        """For a test's `finally`: the AM and every container, gently if it can be had, else by id."""
        if self._process is not None and self._process.returncode is None:
            try:
                await self.stop()
            except asyncio.TimeoutError:
                await self.kill()
        for launch in self.state_dir.glob("containers/*/launch.json"):
            _kill_tree(int(json.loads(launch.read_text())["pid"]), str(self.state_dir))


def _kill_tree(pid: int, mark: str) -> None:
    """Ends what a container left, if that pid is still one of this fleet's."""
    try:
        root = psutil.Process(pid)
        if not any(mark in value for value in root.environ().values()):
            return
        family = [root, *root.children(recursive=True)]
    except psutil.Error:
        return
    for process in family:
        try:
            process.kill()
        except psutil.Error:
            continue
