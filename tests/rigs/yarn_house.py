"""A whole TARN on a real Hadoop: an application that `tarn submit` brought there, and the processes of its containers by their ids."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import psutil

from tests.rigs.command import TARN
from tests.rigs.fleet_client import FleetClient
from tests.rigs.submitted import SMALL, Client, masters, processes

_CONTAINER = re.compile(r"/(container_[^/]+)")
_PATIENCE_S = 180


class YarnFleet(FleetClient):
    """One application, submitted by `start`. Its Application Master is met by the record that it writes for its agents."""

    def __init__(self, client: Client, token_file: Path) -> None:
        self.client, self._token_file = client, token_file
        self.application = ""

    def start(self, *arguments: str) -> None:
        """Returns when its smallest number of instances is READY."""
        command = [str(TARN), "submit", "--json", "--token-file", str(self._token_file), *SMALL, *arguments]
        ran = subprocess.run(
            command, env=self.client.full_environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE_S
        )
        assert ran.returncode == 0, ran.stderr
        self.application = str(json.loads(ran.stdout)["application_id"])

    @property
    def url(self) -> str:
        record = json.loads((Path(self.master().cwd()) / "am-state" / "am.json").read_text())
        return str(record["http"]).rstrip("/")

    @property
    def headers(self) -> dict[str, str]:
        return {"X-TARN-Token": self._token_file.read_text().strip()}

    def master(self) -> psutil.Process:
        """The Application Master's process; raises ConnectionError while there is none."""
        with contextlib.suppress(psutil.Error):
            for process in masters(self.application):
                return process
        raise ConnectionError(f"{self.application} has no Application Master just now")

    def master_pid(self) -> int | None:
        with contextlib.suppress(ConnectionError):
            return self.master().pid
        return None

    def master_container(self) -> str:
        return _container(self.master())

    def family(self, container_id: str) -> list[psutil.Process]:
        """All that runs in one container."""
        return [process for process in processes(self.application) if _container(process) == container_id]

    def lose(self, container_id: str) -> None:
        """Ends all that runs in one container at once, and takes what it left outside the node's own directories."""
        left = self.run_dir(container_id)
        for process in self.family(container_id):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(left, ignore_errors=True)

    def run_dir(self, container_id: str) -> Path:
        """Of an instance; a master's container has none, and is given one that is nowhere."""
        for process in self.family(container_id):
            with contextlib.suppress(psutil.Error):
                if directory := process.environ().get("TARN_RUN_DIR"):
                    return Path(directory)
        return self.client.home / "no-run-dir"

    def pids(self, container_id: str) -> dict[str, int]:
        """`init`, `agent` and `triton` of one container, by their command lines."""
        found = {}
        for process in self.family(container_id):
            words = process.cmdline()
            if process.name() == "tritonserver":
                found["triton"] = process.pid
            elif "tarn_agent.init" in words:
                found["init"] = process.pid
            elif "tarn_agent" in words:
                found["agent"] = process.pid
        return found


def _container(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error, OSError):
        if found := _CONTAINER.search(process.cwd()):
            return found[1]
    return ""
