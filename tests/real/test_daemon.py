"""The Application Master as a whole, in a process of its own, with containers of this machine that speak the real stream."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tarn_am.cluster.local import LocalCluster
from tarn_am.core.model import Phase
from tarn_am.state import StateDir
from tests.rigs.local_containers import SHORT
from tests.rigs.wait import eventually

pytestmark = pytest.mark.real

_REPOSITORY = Path(__file__).parents[2]
_MASTER = """
import asyncio, json, sys
from pathlib import Path
from tarn_am import daemon
from tarn_am.cluster.local import LocalCluster
from tarn_am.settings import AmSettings
from tarn_am.state import StateDir, StateError
from tarn_common import logs
from tests.rigs.scripted_agent import COMMAND, RUNTIME
given = json.loads(sys.argv[2])
command = given.pop("command", None) or COMMAND
logs.configure("INFO", json=True)
try:
    state = StateDir(Path(sys.argv[1]))
    cluster = LocalCluster(state.path, state.application_id, RUNTIME, command=command)
    sys.exit(asyncio.run(daemon.run(AmSettings(**given), cluster, state, lambda record: print(record.http, flush=True))))
except (daemon.StartError, StateError) as error:
    print(f"cannot start: {error}", flush=True)
    sys.exit(9)
"""


class Master:
    """One application in a directory; `begin` starts an Application Master of it, again and again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.http = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.log = root / "am.log"

    def spawn(self, **given: Any) -> subprocess.Popen[bytes]:
        values = {"model_repository": "/models", "am_port": 0, "drain_grace_s": 0.0, "drain_s": 20.0, **given}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _MASTER, str(self.state), json.dumps(values)], stdout=subprocess.PIPE, stderr=log, cwd=_REPOSITORY
            )
        return self.process

    async def begin(self, **given: Any) -> None:
        process = self.spawn(**given)
        self.http = await self.said(process)
        assert self.http.startswith("http://"), self.http + self.log.read_text()[-3_000:]

    async def said(self, process: subprocess.Popen[bytes]) -> str:
        """The one line that it prints: where it is, or why not."""
        assert process.stdout is not None
        return (await asyncio.to_thread(process.stdout.readline)).decode().strip()

    async def ended(self) -> int:
        assert self.process is not None
        status = await asyncio.to_thread(self.process.wait, 120)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.ended()

    async def get(self, path: str) -> Any:
        async with aiohttp.ClientSession() as session, session.get(self.http + path, headers={"Accept": "application/json"}) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def post(self, path: str, **body: Any) -> Any:
        async with aiohttp.ClientSession() as session, session.post(self.http + path, json=body) as answer:
            assert answer.status in (200, 202), await answer.text()
            return await answer.json()

    async def listed(self, number: int) -> list[str]:
        """The container ids in /instances, once there are so many."""
        found: list[str] = []

        async def so_many() -> bool:
            found[:] = [one["container_id"] for one in (await self.get("/instances"))["instances"]]
            return len(found) == number

        await eventually(so_many, f"{number} instances are listed")
        return found

    def containers(self) -> dict[str, int]:
        """The pid of each container that lives, by its id."""
        found = {}
        for record in self.state.glob("containers/*/launch.json"):
            pid = json.loads(record.read_text())["pid"]
            with contextlib.suppress(psutil.NoSuchProcess):
                if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                    found[record.parent.name] = pid
        return found

    async def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            await self.kill()
        for pid in self.containers().values():
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not self.containers(), "all are dead")
        if (self.state / "containers").exists():
            # A cluster tidies what it finds ended.
            cluster = LocalCluster(self.state, StateDir(self.state).application_id, {})
            await cluster.start(lambda event: None)
            await cluster.finish(True, "the test is over")


@pytest.fixture
async def master(tmp_path: Path) -> AsyncIterator[Master]:
    found = Master(tmp_path)
    yield found
    await found.close()


class TestFromStartToEnd:
    async def test_one_two_one_and_an_orderly_end(self, master: Master) -> None:
        await master.begin()
        (first,) = await master.listed(1)
        await master.post("/scale", instances=2)
        both = await master.listed(2)
        assert first in both
        await master.post("/scale", instances=1)
        assert await master.listed(1) == [first], "the younger one went"
        await eventually(lambda: list(master.containers()) == [first], "the drained one has ended")
        status = await master.get("/status")
        assert status["counts"]["failed_total"] == 0
        await master.post("/stop")
        assert await master.ended() == 0
        assert master.containers() == {}
        assert not (master.state / "am.json").exists()
        assert "Traceback" not in master.log.read_text()

    async def test_term_is_an_orderly_end_too(self, master: Master) -> None:
        await master.begin()
        await master.listed(1)
        assert master.process is not None
        master.process.send_signal(signal.SIGTERM)
        assert await master.ended() == 0
        assert master.containers() == {}

    async def test_no_secret_is_told(self, master: Master) -> None:
        await master.begin()
        (container,) = await master.listed(1)
        secret = (master.state / "secret").read_text()
        pid = master.containers()[container]
        told = master.log.read_bytes() + Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
        assert secret.encode() not in told
        assert {stat.S_IMODE((master.state / name).stat().st_mode) for name in ("secret", "key.pem")} == {0o600}


class TestTheMasterIsKilled:
    async def test_the_next_one_takes_all_over_and_never_lists_less(self, master: Master) -> None:
        await master.begin(min_instances=2)
        before = await master.listed(2)
        pids = master.containers()
        port = json.loads((master.state / "am.json").read_text())["agents"]
        await master.kill()
        await master.begin(min_instances=2)
        first_answer = [one["container_id"] for one in (await master.get("/instances"))["instances"]]
        assert first_answer == before, "an empty list would have emptied every balancer"
        assert master.containers() == pids
        assert json.loads((master.state / "am.json").read_text())["agents"] == port

    async def test_the_ordered_number_is_kept(self, master: Master) -> None:
        await master.begin()
        await master.listed(1)
        await master.post("/scale", instances=3)
        await master.listed(3)
        pids = master.containers()
        await master.kill()
        await master.begin()
        assert len(await master.listed(3)) == 3
        assert master.containers() == pids

    async def test_an_instance_that_died_meanwhile_is_replaced(self, master: Master) -> None:
        await master.begin(min_instances=2)
        first, second = await master.listed(2)
        await master.kill()
        os.kill(master.containers()[first], signal.SIGKILL)
        await master.begin(min_instances=2)
        await eventually(lambda: len(master.containers()) == 2, "a new one runs")
        now = await master.listed(2)
        assert second in now
        assert first not in now

    async def test_its_agents_port_is_taken_meanwhile(self, master: Master) -> None:
        """They find the new one by the rendezvous file."""
        await master.begin()
        before = await master.listed(1)
        port = int(json.loads((master.state / "am.json").read_text())["agents"].rpartition(":")[2])
        await master.kill()
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            thief.bind(("127.0.0.1", port))
            thief.listen()
            await master.begin()
            assert await master.listed(1) == before

    async def test_stopped_in_order_it_begins_anew_with_new_ids(self, master: Master) -> None:
        await master.begin()
        await master.post("/scale", instances=2)
        before = await master.listed(2)
        await master.post("/stop")
        assert await master.ended() == 0
        await master.begin()
        after = await master.listed(1)
        assert not set(after) & set(before)


class TestInstancesThatFail:
    async def test_a_crash_loop_ends_with_the_reason(self, master: Master) -> None:
        await master.begin(command=[sys.executable, "-c", SHORT], crash_limit=3)

        async def halted() -> bool:
            return bool((await master.get("/status"))["halted"])

        await eventually(halted, "the asking ends")
        status = await master.get("/status")
        assert "3 instances failed in a row" in status["halted"]
        assert "the model repository could not be staged" in status["halted"]
        assert [one["phase"] for one in status["ended"]] == [Phase.FAILED.value] * 3
        assert status["instances"] == []

    async def test_a_killed_one_is_replaced(self, master: Master) -> None:
        await master.begin()
        (first,) = await master.listed(1)
        os.kill(master.containers()[first], signal.SIGKILL)
        await eventually(lambda: bool(master.containers()) and first not in master.containers(), "another one runs")
        assert await master.listed(1) != [first]


class TestAStartThatFails:
    async def test_the_http_port_is_taken(self, master: Master) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            said = await master.said(master.spawn(am_port=port))
        assert f"port {port} on 127.0.0.1 cannot be had for the HTTP API" in said
        assert await master.ended() == 9
        assert master.containers() == {}

    async def test_another_master_has_the_directory(self, master: Master, tmp_path: Path) -> None:
        await master.begin()
        await master.listed(1)
        second = Master(tmp_path)
        said = await second.said(second.spawn())
        assert master.process is not None
        assert f"an Application Master (pid {master.process.pid} at {master.http}) has the state directory" in said
        assert await second.ended() == 9
        assert len(await master.listed(1)) == 1, "and the first is not disturbed"

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ({"model_repository": "/models/$(id)"}, "--model-repository="),
            ({"token_file": "/nowhere/token"}, "--token-file=/nowhere/token cannot be read"),
            ({"agent_port": 1, "bind": "192.0.2.1"}, "192.0.2.1"),
            ({"env": ["NVIDIA_VISIBLE_DEVICES=all"]}, "the cluster sets it"),
        ],
    )
    async def test_settings_that_cannot_be(self, master: Master, given: dict[str, Any], told: str) -> None:
        said = await master.said(master.spawn(**given))
        assert told in said
        assert await master.ended() == 9
        assert master.containers() == {}

    async def test_an_empty_token_file(self, master: Master, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("\n")
        assert "is empty" in await master.said(master.spawn(token_file=str(tmp_path / "token")))
        assert await master.ended() == 9

    async def test_a_torn_state(self, master: Master) -> None:
        master.state.mkdir()
        (master.state / "application.json").write_text("{")
        assert "application.json is torn" in await master.said(master.spawn())
        assert await master.ended() == 9


class TestByItsEnvironmentAlone:
    """`tarn-am`, whose API is never open by default."""

    async def test_it_makes_a_token_where_none_is_given(self, tmp_path: Path) -> None:
        state = tmp_path / "state"
        environ = {
            "PATH": os.environ["PATH"], "HOME": str(tmp_path), "TARN_STATE_DIR": str(state), "TARN_CACHE_DIR": str(tmp_path / "cache"),
            "TARN_MODEL_REPOSITORY": "/models", "TARN_AM_PORT": "0", "TARN_MIN_INSTANCES": "0",
        }  # fmt: skip
        process = subprocess.Popen([sys.executable, "-m", "tarn_am"], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            await eventually((state / "am.json").exists, "the beacon is lit")
            url = json.loads((state / "am.json").read_text())["http"] + "/instances"
            token = (state / "token").read_text().strip()
            async with aiohttp.ClientSession() as session:
                answers = [(await session.get(url, headers=headers)).status for headers in ({}, {"X-TARN-Token": token})]
            assert answers == [401, 200]
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 60)


class TestWithRealTritons:
    """`tarn-am` by its environment alone, real agents, real Tritons."""

    def tritons(self, master: Master) -> dict[str, int]:
        found = {}
        for container, pid in master.containers().items():
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(pid).children(recursive=True):
                    if child.name() == "tritonserver":
                        found[container] = child.pid
        return found

    async def begin(self, master: Master) -> None:
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", str(master.root)),
            "TARN_STATE_DIR": str(master.state),
            "TARN_MODEL_REPOSITORY": str(_REPOSITORY / "examples" / "models"),
            "TARN_MODELS": "identity",
            "TARN_AM_PORT": "0",
            "TARN_DRAIN_GRACE_S": "0",
            "TARN_NO_TOKEN": "true",
        }
        (master.state / "am.json").unlink(missing_ok=True)
        with master.log.open("ab") as log:
            master.process = subprocess.Popen([sys.executable, "-m", "tarn_am"], env=environ, stdout=subprocess.PIPE, stderr=log)
        await eventually((master.state / "am.json").exists, "the beacon is lit")
        master.http = json.loads((master.state / "am.json").read_text())["http"]

    async def test_one_two_killed_adopted_one_and_an_orderly_end(self, master: Master) -> None:
        await self.begin(master)
        await master.listed(1)
        await master.post("/scale", instances=2)
        both = await master.listed(2)
        tritons = self.tritons(master)
        assert sorted(tritons) == both
        await master.kill()
        await self.begin(master)
        assert [one["container_id"] for one in (await master.get("/instances"))["instances"]] == both
        assert self.tritons(master) == tritons, "the same processes serve on"
        await master.post("/scale", instances=1)
        await master.listed(1)
        await eventually(lambda: len(self.tritons(master)) == 1, "the other one has ended")
        await master.post("/stop")
        assert await master.ended() == 0
        assert master.containers() == {}
        assert "Traceback" not in master.log.read_text()


class TestTarnAmByItsEnvironment:
    @pytest.mark.parametrize(
        ("environ", "status", "told"),
        [
            ({}, 2, "TARN_MODEL_REPOSITORY is not set"),
            ({"TARN_MODEL_REPOSITORY": "/m"}, 2, "TARN_STATE_DIR is not set"),
            ({"TARN_MODEL_REPOSITORY": "/m", "TARN_STATE_DIR": "/proc/nowhere"}, 1, "the state directory /proc/nowhere cannot be made"),
            ({"TARN_MODEL_REPOSITORY": "/m", "TARN_STATE_DIR": "/x", "TARN_LOG_LEVEL": "LOUD"}, 2, "give DEBUG, INFO, WARNING or ERROR"),
        ],
    )
    async def test_one_sentence_for_what_is_wrong(self, environ: dict[str, str], status: int, told: str) -> None:
        ended = await asyncio.to_thread(subprocess.run, [sys.executable, "-m", "tarn_am"], env=environ, capture_output=True, timeout=120)
        assert told in ended.stderr.decode()
        assert ended.stderr.count(b"\n") == 1
        assert ended.returncode == status


class TestAHurry:
    async def test_a_second_order_ends_an_instance_that_will_not_drain(self, master: Master) -> None:
        mute = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit(143)); time.sleep(600)"
        await master.begin(command=[sys.executable, "-c", mute])
        await eventually(lambda: len(master.containers()) == 1, "it runs")
        assert master.process is not None
        master.process.send_signal(signal.SIGTERM)
        master.process.send_signal(signal.SIGTERM)
        assert await master.ended() == 0
        assert master.containers() == {}
