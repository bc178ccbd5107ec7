"""Containers with a real tritonserver: the wheel's runtime, model repositories, and the container's first process as a test starts it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tarn_agent.core.model import Ports, TritonLaunch
from tarn_agent.settings import AgentSettings
from tarn_agent.triton import SupervisedTriton, restricted_value
from tarn_am.cluster import triton_wheel
from tarn_common import credentials
from tarn_common.clock import SystemClock
from tarn_common.settings import load
from tests.rigs.secrets import planted
from tests.rigs.wait import PATIENCE_S, eventually

MODELS = Path(__file__).parents[1] / "models"
"""Models that misbehave on purpose."""
EXAMPLES = Path(__file__).parents[2] / "examples" / "models"
STAND_IN = (sys.executable, "-IS", "-c", "import signal; signal.pause()")
"""An agent that does nothing, and ends at the first TERM."""
_INIT = "import sys; from tarn_agent import init; init.main(sys.argv[1:] or None)"


@pytest.fixture(scope="session")
def triton_runtime(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment with which a container finds the wheel's tritonserver."""
    return triton_wheel.prepare(tmp_path_factory.mktemp("triton")).environ


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A short path, since a UNIX socket's must be."""
    directory = Path(tempfile.mkdtemp(prefix="tarn-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
async def containers(tmp_path: Path, triton_runtime: Mapping[str, str]) -> AsyncIterator[Containers]:
    """Starts containers; those that still run at the end of the test are killed, with all that they started."""
    all_of_them = Containers(tmp_path, triton_runtime)
    try:
        yield all_of_them
    finally:
        await all_of_them.close()


def repository(root: Path, *models: str) -> Path:
    """A model repository with copies of the named models, of the examples or of the tests' own."""
    for model in models:
        source = EXAMPLES / model if (EXAMPLES / model).is_dir() else MODELS / model
        shutil.copytree(source, root / model, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def container_environ(root: Path, run_dir: Path, runtime: Mapping[str, str], models: Path, **more: str) -> dict[str, str]:
    """All that a container gets, below `root`: AgentSettings' variables and a credentials file. `more` overrides by name."""
    for name in ("logs", "data"):
        (root / name).mkdir(parents=True, exist_ok=True)
    tokens = root / "container_tokens"
    credentials.write(tokens, credentials.Credentials(secrets={credentials.AGENT_SECRET: planted("agent").encode()}))
    return {
        **runtime,
        "CONTAINER_ID": "container_1700000000000_0001_01_000002",
        "TARN_APPLICATION_ID": "application_1700000000000_0001",
        "HADOOP_TOKEN_FILE_LOCATION": str(tokens),
        "NM_HOST": "127.0.0.1",
        "TARN_BIND": "127.0.0.1",
        "TARN_LOG_DIR": str(root / "logs"),
        "TARN_RUN_DIR": str(run_dir),
        "TARN_DATA_DIR": str(root / "data"),
        "TARN_MODEL_REPOSITORY": str(models),
        **more,
    }


class Container:
    """One running container: the process of `tarn_agent.init`, and what it wrote."""

    def __init__(self, process: asyncio.subprocess.Process, environ: Mapping[str, str], stderr: Path) -> None:
        self.process, self.environ, self._stderr = process, environ, stderr
        self.settings = load(AgentSettings, environ)
        self.run_dir, self.logs = Path(self.settings.run_dir), Path(self.settings.log_dir)

    async def up(self) -> None:
        """supervisord takes calls, and the agent was started."""
        await eventually(lambda: (self.run_dir / "supervisor.sock").exists() and self.children(), f"supervisord is up: {self.last_words}")

    def children(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children()
        return []

    def agent_pid(self) -> int | None:
        triton = [child.pid for child in self.children() if _is_triton(child)]
        return next((child.pid for child in self.children() if child.pid not in triton), None)

    def term(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def status(self) -> int:
        """Waits for its end."""
        return await asyncio.wait_for(self.process.wait(), PATIENCE_S)

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    @property
    def last_words(self) -> str:
        lines = self.stderr.splitlines()
        return lines[-1] if lines else ""

    def log(self, name: str) -> str:
        path = self.logs / f"{name}.log"
        return path.read_text() if path.exists() else ""


class Containers:
    """Starts them, each in a directory of its own below `root`, and ends them."""

    def __init__(self, root: Path, runtime: Mapping[str, str]) -> None:
        self._root, self._runtime = root, runtime
        self._run_dirs: list[Path] = []
        self._all: list[Container] = []

    def environ(self, models: Path, **more: str) -> dict[str, str]:
        run_dir = Path(tempfile.mkdtemp(prefix="tarn-", dir="/tmp"))
        self._run_dirs.append(run_dir)
        return container_environ(self._root / f"container-{len(self._run_dirs)}", run_dir, self._runtime, models, **more)

    async def start(self, models: Path, agent: Sequence[str] = STAND_IN, **more: str) -> Container:
        """With a stand-in for the agent, unless `agent` says otherwise (empty: the real one)."""
        return await self.start_with(self.environ(models, **more), agent)

    async def start_with(self, environ: Mapping[str, str], agent: Sequence[str] = STAND_IN) -> Container:
        stderr = self._root / f"stderr-{len(self._all)}"
        with stderr.open("wb") as err:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _INIT, *agent, env=dict(environ), stdin=asyncio.subprocess.DEVNULL, stdout=err, stderr=err,
                cwd=self._root, start_new_session=True,
            )  # fmt: skip
        container = Container(process, environ, stderr)
        self._all.append(container)
        return container

    async def close(self) -> None:
        for container in self._all:
            await _end(container)
        for run_dir in self._run_dirs:
            shutil.rmtree(run_dir, ignore_errors=True)


async def _end(container: Container) -> None:
    """KILL to all of it, by pid: whatever a test left half-done must not hang the run."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        if container.process.returncode is None:
            init = psutil.Process(container.process.pid)
            family = [init, *init.children(recursive=True)]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    await container.process.wait()
    await asyncio.to_thread(psutil.wait_procs, family, PATIENCE_S)


def _is_triton(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any("tritonserver" in word or "exec_triton" in word for word in process.cmdline()[:3])
    return False


# --- talking to Triton as a client and as an agent


def launch(container: Container, triton: SupervisedTriton, *models: str, **more: Any) -> TritonLaunch:
    """A launch of the named models on free ports."""
    values = {
        "repository": container.settings.model_repository,
        "models": models,
        "ports": triton.choose_ports(Ports(0, 0, 0)),
        "bind": container.settings.bind,
        "exit_timeout_s": 10,
        "restricted_value": restricted_value(),
        **more,
    }
    return TritonLaunch(**values)


def supervised(container: Container) -> SupervisedTriton:
    """As an agent of that container has it; `close` it."""
    return SupervisedTriton(container.settings, SystemClock())


def infer(port: int, model: str, **inputs: Sequence[float]) -> tuple[int, Any]:
    """One request of FP32 vectors over HTTP; blocking, from a worker thread. Returns the status and the answer."""
    rows = [1] if model == "identity" else []
    tensors = [{"name": name, "datatype": "FP32", "shape": [*rows, len(values)], "data": list(values)} for name, values in inputs.items()]
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v2/models/{model}/infer", json.dumps({"inputs": tensors}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def exists(pid: int) -> bool:
    """Runs, and is no zombie."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


__all__ = [
    "EXAMPLES",
    "MODELS",
    "STAND_IN",
    "Container",
    "Containers",
    "container_environ",
    "containers",
    "exists",
    "infer",
    "launch",
    "repository",
    "run_dir",
    "supervised",
    "triton_runtime",
]
