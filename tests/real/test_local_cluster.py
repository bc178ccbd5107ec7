"""Real processes as containers of this machine: what they get, how they end, and how they are found again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tarn_am.cluster.local import ENDED_KEPT, LocalCluster
from tarn_am.ports import Allocated, AskRefused, ClusterError, Completed, LaunchSpec
from tarn_common import process
from tarn_common.ids import ContainerId
from tarn_common.process import Process
from tests.rigs.local_containers import APPLICATION, POLITE, SHORT, STUBBORN, Heard, local_cluster
from tests.rigs.wait import eventually

pytestmark = pytest.mark.real

SPEC = LaunchSpec({"TARN_MODEL_REPOSITORY": "/models"}, b"HDTS-the-secret")


class Box:
    """One cluster with one container."""

    def __init__(self, cluster: LocalCluster, root: Path) -> None:
        self.cluster, self.root, self.heard = cluster, root, Heard()
        self.container = ContainerId("")

    async def run(self, wait: str = "up") -> None:
        await self.cluster.start(self.heard.sink)
        await self.cluster.request("a")
        await eventually(lambda: bool(self.heard.events))
        (event,) = self.heard.events
        assert isinstance(event, Allocated)
        self.container = event.container_id
        await self.cluster.launch(self.container, SPEC)
        if wait:
            await eventually(lambda: (self.run_dir / wait).exists())

    @property
    def directory(self) -> Path:
        return self.root / "containers" / self.container

    @property
    def record(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.directory / "launch.json").read_text())
        return found

    @property
    def run_dir(self) -> Path:
        return self.cluster._place(self.container).run

    @property
    def pid(self) -> int:
        return int(str(self.record["pid"]))

    async def completed(self) -> Completed:
        await eventually(lambda: any(isinstance(event, Completed) for event in self.heard.events))
        (found,) = [event for event in self.heard.events if isinstance(event, Completed)]
        return found


def alive(pid: int) -> bool:
    found = process.identify(pid)
    return found is not None and found.runs


class TestWhatAContainerGets:
    async def test_its_environment_is_the_specs_and_the_nodes_and_nothing_of_ours(self, tmp_path: Path) -> None:
        os.environ["A_SECRET_OF_THE_MASTER"] = "leak"
        box = Box(local_cluster(tmp_path, runtime={"PATH": "/opt/triton/bin:/usr/bin", "LD_LIBRARY_PATH": "/opt/lib"}), tmp_path)
        try:
            await box.run()
            environ = json.loads((box.run_dir / "environ").read_text())
            given = {"PATH", "LD_LIBRARY_PATH", "TARN_MODEL_REPOSITORY", "TARN_BIND"}
            node = {"USER", "LOGNAME", "HOME", "PWD", "CONTAINER_ID", "NM_HOST", "LOCAL_DIRS", "LOG_DIRS", "HADOOP_TOKEN_FILE_LOCATION"}
            assert set(environ) - {"LC_CTYPE"} == given | node | {"TARN_LOG_DIR", "TARN_RUN_DIR", "TARN_DATA_DIR"}
            assert environ["CONTAINER_ID"] == box.container
            assert environ["PATH"] == "/opt/triton/bin:/usr/bin"
            assert Path(environ["HADOOP_TOKEN_FILE_LOCATION"]).read_bytes() == b"HDTS-the-secret"
            assert stat.S_IMODE(Path(environ["HADOOP_TOKEN_FILE_LOCATION"]).stat().st_mode) == 0o600
            assert stat.S_IMODE(box.run_dir.stat().st_mode) == 0o700
            assert len(str(box.run_dir)) < 60, "sockets need short paths"
            assert os.getsid(box.pid) == box.pid != os.getsid(0)
        finally:
            del os.environ["A_SECRET_OF_THE_MASTER"]
            await box.cluster.stop(box.container)
            await box.completed()
            await box.cluster.finish(True, "")

    async def test_no_file_descriptor_of_ours(self, tmp_path: Path) -> None:
        box = Box(local_cluster(tmp_path), tmp_path)
        try:
            await box.run()
            open_files = [os.readlink(f"/proc/{box.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{box.pid}/fd")]
            assert sorted(Path(name).name for name in open_files) == ["null", "stderr", "stdout"]
        finally:
            await box.cluster.stop(box.container)
            await box.completed()
            await box.cluster.finish(True, "")


class TestHowItEnds:
    async def test_by_itself_with_its_status_and_last_words(self, tmp_path: Path) -> None:
        box = Box(local_cluster(tmp_path, SHORT), tmp_path)
        await box.run(wait="")
        ended = await box.completed()
        assert (ended.exit_status, ended.diagnostics) == (104, "models: permission denied")
        await box.cluster.finish(True, "")
        assert not box.run_dir.exists()
        assert not (box.directory / "container_tokens").exists()
        assert not (box.directory / "data").exists()
        assert (box.directory / "logs" / "stderr").read_text() == "models: permission denied\n"

    async def test_killed_is_told_as_a_shell_tells_it(self, tmp_path: Path) -> None:
        box = Box(local_cluster(tmp_path), tmp_path)
        await box.run()
        os.kill(box.pid, signal.SIGKILL)
        assert (await box.completed()).exit_status == 137
        await box.cluster.finish(True, "")

    async def test_one_that_ignores_term_is_killed_with_all_its_children(self, tmp_path: Path) -> None:
        box = Box(local_cluster(tmp_path, STUBBORN, stop_s=0.5), tmp_path)
        await box.run()
        child = int((box.run_dir / "child").read_text())
        await box.cluster.stop(box.container)
        assert (await box.completed()).exit_status == 137
        await eventually(lambda: not alive(child))
        await box.cluster.finish(True, "")
        assert not box.run_dir.exists()

    async def test_a_stopped_one_is_killed_too(self, tmp_path: Path) -> None:
        box = Box(local_cluster(tmp_path, stop_s=0.5), tmp_path)
        await box.run()
        os.kill(box.pid, signal.SIGSTOP)
        await box.cluster.stop(box.container)
        assert (await box.completed()).exit_status == 137
        await box.cluster.finish(True, "")

    async def test_children_that_outlive_init_are_swept(self, tmp_path: Path) -> None:
        box = Box(local_cluster(tmp_path, STUBBORN), tmp_path)
        await box.run()
        child = int((box.run_dir / "child").read_text())
        os.kill(box.pid, signal.SIGKILL)
        await box.completed()
        await eventually(lambda: not alive(child))
        await box.cluster.finish(True, "")

    async def test_old_directories_go_and_the_last_ones_stay_for_their_logs(self, tmp_path: Path) -> None:
        cluster, heard = local_cluster(tmp_path, SHORT), Heard()
        await cluster.start(heard.sink)
        for number in range(ENDED_KEPT + 3):
            await cluster.request(f"ask-{number}")
        await eventually(lambda: len(heard.events) == ENDED_KEPT + 3)
        for event in list(heard.events):
            await cluster.launch(event.container_id, SPEC) if isinstance(event, Allocated) else None
        await eventually(lambda: sum(isinstance(event, Completed) for event in heard.events) == ENDED_KEPT + 3)
        await cluster.finish(True, "")
        assert len(list((tmp_path / "containers").iterdir())) == ENDED_KEPT


_MASTER = """
import asyncio, sys
from pathlib import Path
from tests.rigs.local_containers import POLITE, Heard, local_cluster
from tests.rigs.wait import eventually
from tests.real.test_local_cluster import SPEC
from tarn_common import logs
logs.configure("WARNING")
async def main():
    cluster, heard = local_cluster(Path(sys.argv[1]), POLITE), Heard()
    await cluster.start(heard.sink)
    await cluster.request("a")
    await eventually(lambda: bool(heard.events))
    await cluster.launch(heard.events[0].container_id, SPEC)
    print(heard.events[0].container_id, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


class TestTheMasterIsKilled:
    async def test_its_container_runs_on_is_found_and_its_end_is_seen(self, tmp_path: Path) -> None:
        master = subprocess.Popen([sys.executable, "-c", _MASTER, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert master.stdout is not None
        container = ContainerId(master.stdout.readline().decode().strip())
        cluster, heard = local_cluster(tmp_path), Heard()
        run_dir = cluster._place(container).run
        await eventually((run_dir / "up").exists)
        master.kill()
        master.communicate()
        (running,) = await cluster.start(heard.sink)
        assert running.container_id == container
        pid = int((run_dir / "up").read_text())
        assert alive(pid)
        await cluster.stop(container)
        await eventually(lambda: bool(heard.events))
        assert heard.events == [Completed(container, 143, "")]
        assert not alive(pid)
        await cluster.finish(True, "")

    async def test_the_end_of_one_that_is_no_child_of_ours_and_left_no_status_is_unknown(self, tmp_path: Path) -> None:
        first = Box(local_cluster(tmp_path), tmp_path)
        await first.run()
        second, heard = local_cluster(tmp_path), Heard()
        assert len(await second.start(heard.sink)) == 1
        os.kill(first.pid, signal.SIGKILL)
        await eventually(lambda: bool(heard.events))
        assert heard.events == [Completed(first.container, None, "")]
        await first.completed()
        await first.cluster.finish(True, "")
        await second.finish(True, "")

    async def test_one_that_ended_meanwhile_is_tidied_not_adopted(self, tmp_path: Path) -> None:
        first = Box(local_cluster(tmp_path), tmp_path)
        await first.run()
        await first.cluster.finish(True, "")
        os.kill(first.pid, signal.SIGKILL)
        os.waitpid(first.pid, 0)
        second, heard = local_cluster(tmp_path), Heard()
        assert await second.start(heard.sink) == []
        await second.finish(True, "")
        assert not first.run_dir.exists()
        assert heard.events == []


class TestAPidThatIsUsedAgain:
    async def test_is_not_taken_for_the_container(self, tmp_path: Path) -> None:
        first = Box(local_cluster(tmp_path), tmp_path)
        await first.run()
        await first.cluster.finish(True, "")
        os.kill(first.pid, signal.SIGKILL)
        os.waitpid(first.pid, 0)
        stranger = subprocess.Popen(["/bin/sleep", "600"])
        try:
            record = {**first.record, "pid": stranger.pid}
            (first.directory / "launch.json").write_text(json.dumps(record))
            second, heard = local_cluster(tmp_path), Heard()
            assert await second.start(heard.sink) == []
            await second.finish(True, "")
            assert stranger.poll() is None, "and it was not touched"
        finally:
            stranger.kill()
            stranger.wait()

    async def test_no_signal_goes_to_a_stranger(self) -> None:
        stranger = subprocess.Popen(["/bin/sleep", "600"])
        try:
            real = process.identify(stranger.pid)
            assert real is not None
            assert not Process(real.pid, real.start_ticks - 1, real.boot).send(signal.SIGKILL)
            await asyncio.wait_for(Process(real.pid, real.start_ticks - 1, real.boot).ended(), 60)
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()


class TestWhatCannotBe:
    async def test_a_program_that_is_not_there(self, tmp_path: Path) -> None:
        cluster, heard = LocalCluster(tmp_path, APPLICATION, {}, command=("/nowhere/python",)), Heard()
        await cluster.start(heard.sink)
        await cluster.request("a")
        await eventually(lambda: bool(heard.events))
        with pytest.raises(ClusterError, match="/nowhere/python could not be started"):
            await cluster.launch(heard.events[0].container_id, SPEC)  # type: ignore[union-attr]
        await cluster.finish(True, "")
        assert list((tmp_path / "containers").iterdir()) == []

    async def test_a_root_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "containers").write_text("")
        with pytest.raises(ClusterError, match="cannot be used"):
            await local_cluster(tmp_path).start(Heard().sink)

    @pytest.mark.parametrize("text", ["", "{", "[1]", '{"pid": "x"}', '{"pid": 1}'])
    async def test_a_torn_record(self, tmp_path: Path, text: str) -> None:
        directory = tmp_path / "containers" / "container_1700000000000_0001_01_000002"
        directory.mkdir(parents=True)
        (directory / "launch.json").write_text(text)
        (directory / "container_tokens").write_text("")
        (tmp_path / "containers" / "container_of_somebody").mkdir()
        cluster, heard = local_cluster(tmp_path, POLITE), Heard()
        assert await cluster.start(heard.sink) == []
        await cluster.request("a")
        await eventually(lambda: bool(heard.events))
        assert heard.events[0].container_id.endswith("_000003")  # type: ignore[union-attr]
        await cluster.finish(True, "")

    async def test_a_root_that_cannot_be_written_any_more(self, tmp_path: Path) -> None:
        root = tmp_path / "root"
        cluster, heard = local_cluster(root), Heard()
        await cluster.start(heard.sink)
        (root / "last-container.tmp").mkdir()
        await cluster.request("a")
        await eventually(lambda: bool(heard.events))
        (refused,) = heard.events
        assert isinstance(refused, AskRefused)
        assert refused.retry
        (root / "last-container.tmp").rmdir()
        await cluster.request("b")
        await eventually(lambda: len(heard.events) == 2)
        assert isinstance(heard.events[1], Allocated)
        await cluster.finish(True, "")

    async def test_a_container_whose_record_cannot_be_kept_does_not_run(self, tmp_path: Path) -> None:
        cluster, heard = local_cluster(tmp_path), Heard()
        await cluster.start(heard.sink)
        await cluster.request("a")
        await eventually(lambda: bool(heard.events))
        container = heard.events[0].container_id  # type: ignore[union-attr]
        (tmp_path / "containers" / container / "launch.json.tmp").mkdir(parents=True)
        with pytest.raises(ClusterError, match="could not be started"):
            await cluster.launch(container, SPEC)
        await cluster.finish(True, "")
        assert not any(container in Path(f"/proc/{pid}/environ").read_text(errors="replace") for pid in _own_pids())


def _own_pids() -> list[int]:
    return [found.pid for found in process.family(Process(os.getpid(), 0, process.boot()))]
