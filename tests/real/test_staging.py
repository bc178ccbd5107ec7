"""Staging from a real HDFS, and what may happen on the way."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tarn_agent.core.model import Progress
from tarn_agent.ports import Staged, StageError
from tarn_agent.staging import RepositoryStager
from tarn_agent.stores.mounted import MountedStore
from tarn_agent.stores.webhdfs import token_text
from tarn_common import credentials
from tarn_common.clock import SystemClock
from tests.rigs.hadoop import ROOT, Hdfs
from tests.rigs.stager import environment, settings

pytestmark = pytest.mark.real

KINDS = ("native", "webhdfs")
_numbers = itertools.count()

MODELS: Mapping[str, bytes | None] = {
    "a/config.pbtxt": b'name: "a"',
    "a/1/model.bin": os.urandom(300_000),
    "a/1/triton_python_backend_stub": b"#!",
    "b/config.pbtxt": b'name: "b"',
    "b/1/model.bin": os.urandom(1000),
    "e/config.pbtxt": b'ensemble_scheduling { step [ { model_name: "b" } ] }',
    "e/1": None,
    "notes.txt": b"not a model",
}
MANY: Mapping[str, bytes | None] = {f"m/1/part-{number:02d}": os.urandom(20_000) for number in range(24)}


class Repositories:
    """Repositories in the HDFS of the session, each under a name of its own."""

    def __init__(self, hdfs: Hdfs) -> None:
        self.hdfs = hdfs

    def put(self, files: Mapping[str, bytes | None]) -> str:
        """The path of a new one."""
        path = f"/staging/{next(_numbers)}"
        self.hdfs.put_tree(path, files, 1 << 16)
        return path

    def url(self, path: str, kind: str = "native") -> str:
        return self.hdfs.url + path if kind == "native" else f"webhdfs://{self.hdfs.http}{path}"


@pytest.fixture(scope="module")
def repositories(hdfs: Hdfs) -> Repositories:
    return Repositories(hdfs)


@pytest.fixture(scope="module")
def models(repositories: Repositories) -> str:
    """MODELS, only read."""
    return repositories.put(MODELS)


@pytest.fixture(scope="module")
def many(repositories: Repositories) -> str:
    """MANY, only read."""
    return repositories.put(MANY)


def unheard(_progress: Progress) -> None:
    pass


async def stage(directory: Path, url: str, on_progress: Callable[[Progress], None] = unheard, **more: str) -> Staged:
    return await RepositoryStager(settings(directory, url, **more), SystemClock()).stage(on_progress)


async def refusal(directory: Path, url: str, **more: str) -> StageError:
    with pytest.raises(StageError) as caught:
        await stage(directory, url, unheard, **more)
    assert "\n" not in str(caught.value)
    return caught.value


def tree(root: Path) -> dict[str, bytes | None]:
    """What is in a directory, but for our own journal."""
    found = {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}
    return {path: data for path, data in found.items() if path != ".tarn-manifest"}


def expected(files: Mapping[str, bytes | None], *names: str) -> dict[str, bytes | None]:
    chosen = {path: data for path, data in files.items() if path.partition("/")[0] in names}
    parents = {str(parent): None for path in chosen for parent in Path(path).parents if str(parent) != "."}
    return {**parents, **chosen}


def only_models(directory: Path) -> bool:
    """Nothing half-done lies beside the result."""
    return {path.name for path in (directory / "data").iterdir()} <= {"models", ".models.lock"}


@pytest.mark.parametrize("kind", KINDS)
class TestStaging:
    async def test_brings_the_models_and_nothing_else(self, repositories: Repositories, models: str, tmp_path: Path, kind: str) -> None:
        seen: list[Progress] = []
        staged = await stage(tmp_path, repositories.url(models, kind), seen.append)
        assert staged.models == ("a", "b", "e")
        assert not staged.in_place
        assert tree(Path(staged.path)) == expected(MODELS, "a", "b", "e")
        assert os.access(Path(staged.path) / "a/1/triton_python_backend_stub", os.X_OK)
        assert only_models(tmp_path)
        total = sum(len(data) for path, data in MODELS.items() if data and "/" in path)
        assert [each.bytes_done for each in seen] == sorted(each.bytes_done for each in seen)
        assert (seen[-1].bytes_done, seen[-1].bytes_total, seen[-1].files_done, seen[-1].files_total) == (total, total, 6, 6)
        assert staged.progress == seen[-1]

    async def test_some_models_bring_what_their_ensembles_run(
        self, repositories: Repositories, models: str, tmp_path: Path, kind: str
    ) -> None:
        staged = await stage(tmp_path, repositories.url(models, kind), TARN_MODELS="e")
        assert staged.models == ("e",)
        assert tree(Path(staged.path)) == expected(MODELS, "e", "b")

    async def test_again_copies_nothing(self, repositories: Repositories, models: str, tmp_path: Path, kind: str) -> None:
        first = await stage(tmp_path, repositories.url(models, kind))
        inode = (Path(first.path) / "a/1/model.bin").stat().st_ino
        second = await stage(tmp_path, repositories.url(models, kind))
        assert second.progress.bytes_reused == second.progress.bytes_total == first.progress.bytes_total
        assert (Path(second.path) / "a/1/model.bin").stat().st_ino == inode
        assert tree(Path(second.path)) == expected(MODELS, "a", "b", "e")

    async def test_what_was_damaged_here_since_is_noticed_and_copied_again(
        self, repositories: Repositories, models: str, tmp_path: Path, kind: str
    ) -> None:
        staged = Path((await stage(tmp_path, repositories.url(models, kind))).path)
        flipped = bytearray((staged / "a/1/model.bin").read_bytes())
        flipped[200_000] ^= 1
        (staged / "a/1/model.bin").write_bytes(flipped)
        (staged / "b/1/model.bin").write_bytes(b"short")
        (staged / "b/config.pbtxt").unlink()
        (staged / "a/1/stray").write_bytes(b"x")
        again = await stage(tmp_path, repositories.url(models, kind))
        assert tree(staged) == expected(MODELS, "a", "b", "e")
        assert 0 < again.progress.bytes_reused < 300_000

    async def test_only_what_changed_in_hdfs_is_copied_again(self, repositories: Repositories, tmp_path: Path, kind: str) -> None:
        path = repositories.put({"m/config.pbtxt": b"one", "m/1/big": MODELS["a/1/model.bin"], "m/1/gone": b"x"})
        await stage(tmp_path, repositories.url(path, kind))
        repositories.hdfs.put(f"{path}/m/config.pbtxt", b"two")
        repositories.hdfs.delete(f"{path}/m/1/gone")
        again = await stage(tmp_path, repositories.url(path, kind))
        assert again.progress.bytes_reused == 300_000
        assert tree(Path(again.path)) == expected({"m/config.pbtxt": b"two", "m/1/big": MODELS["a/1/model.bin"]}, "m")


class TestRefusals:
    """Each is one sentence with the fix, told at once."""

    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_path_that_is_not_there(self, repositories: Repositories, tmp_path: Path, kind: str) -> None:
        error = await refusal(tmp_path, repositories.url("/staging/nowhere", kind))
        assert "HDFS has no /staging/nowhere: correct --model-repository" in str(error)
        assert not error.retry

    async def test_a_model_that_is_not_there(self, repositories: Repositories, models: str, tmp_path: Path) -> None:
        error = await refusal(tmp_path, repositories.url(models), TARN_MODELS="b,resnet")
        assert str(error) == f"{repositories.url(models)} has no model 'resnet'; it has a, b, e"

    async def test_an_empty_repository(self, repositories: Repositories, tmp_path: Path) -> None:
        assert "is empty: put each model there" in str(await refusal(tmp_path, repositories.url(repositories.put({}))))

    async def test_a_model_in_the_place_of_a_repository(self, repositories: Repositories, models: str, tmp_path: Path) -> None:
        assert "is a model, not a repository" in str(await refusal(tmp_path, repositories.url(f"{models}/a")))

    async def test_a_disk_that_is_too_small_before_anything_is_copied(
        self, repositories: Repositories, models: str, tmp_path: Path
    ) -> None:
        error = await refusal(tmp_path, repositories.url(models), TARN_DISK_RESERVE_BYTES=str(1 << 60))
        assert "free, of which 1048576.0 TiB are held in reserve: free some space, or lower TARN_DISK_RESERVE_BYTES" in str(error)
        assert not error.retry
        assert only_models(tmp_path)
        assert not (tmp_path / "data/models").exists()

    async def test_a_real_disk_that_is_too_small(self, repositories: Repositories, models: str, tmp_path: Path) -> None:
        (tmp_path / "disk").mkdir()
        environ = environment(tmp_path, repositories.url(models), TARN_DATA_DIR=str(tmp_path / "disk/data"))
        said = await Stager.on_disk_of(200_000, environ).outcome()
        assert said["error"] == f"340.0 KiB must be copied to {tmp_path}/disk/data, which has 192.0 KiB free: free some space"
        assert said["retry"] is False

    async def test_a_real_disk_that_fills_up_under_way(self, repositories: Repositories, many: str, tmp_path: Path) -> None:
        (tmp_path / "disk").mkdir()
        environ = environment(tmp_path, repositories.url(many), TARN_DATA_DIR=str(tmp_path / "disk/data"))
        said = await Stager.on_disk_of(1 << 20, environ).outcome("fill")
        assert "no space is left in" in said["error"]
        assert said["retry"] is False

    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_repository_that_is_closed_to_this_user(self, repositories: Repositories, tmp_path: Path, kind: str) -> None:
        path = repositories.put({"m/1/model": b"x"})
        repositories.hdfs.chmod(path, 0o700)
        said = await Stager.as_user("bob", tmp_path, repositories.url(path, kind)).outcome()
        assert "user=bob" in said["error"]
        assert "grant that user read access" in said["error"]
        assert said["retry"] is False

    @pytest.mark.parametrize("kind", KINDS)
    async def test_one_file_that_is_closed_to_this_user(self, repositories: Repositories, tmp_path: Path, kind: str) -> None:
        path = repositories.put({"m/1/model": b"x", "m/config.pbtxt": b"y"})
        repositories.hdfs.chmod(f"{path}/m/1/model", 0o600)
        said = await Stager.as_user("bob", tmp_path, repositories.url(path, kind)).outcome()
        assert f'inode="{path}/m/1/model"' in said["error"]
        assert only_models(tmp_path)
        assert not (tmp_path / "data/models").exists()

    async def test_a_data_directory_that_is_a_file(self, repositories: Repositories, models: str, tmp_path: Path) -> None:
        (tmp_path / "data").write_bytes(b"")
        error = await refusal(tmp_path, repositories.url(models))
        assert "correct TARN_DATA_DIR" in str(error)

    async def test_two_at_once_in_one_directory(self, repositories: Repositories, many: str, tmp_path: Path) -> None:
        errors: list[StageError] = []

        async def second() -> None:
            errors.append(await refusal(tmp_path, repositories.url(many)))

        begun = asyncio.Event()
        first = asyncio.create_task(stage(tmp_path, repositories.url(many), lambda _progress: begun.set()))
        await begun.wait()
        await second()
        await first
        assert "another process is staging into" in str(errors[0])

    async def test_a_namenode_that_is_not_there_ends_when_nothing_moves_for_long(self, tmp_path: Path) -> None:
        told: list[Progress] = []
        with pytest.raises(StageError) as caught:
            await stage(tmp_path, "hdfs://127.0.0.1:1/models", told.append, TARN_STAGE_STALL_S="2")
        error = caught.value
        assert any("127.0.0.1:1" in progress.waiting for progress in told)
        assert "Connection refused" in str(error)
        assert "given up after 2 s" in str(error)
        assert error.retry


class Stager:
    """A stager in a process of its own."""

    def __init__(self, environ: Mapping[str, str], *wrapped: str) -> None:
        self._environ = {**os.environ, **environ}
        self._command = [*wrapped, sys.executable, "-m", "tests.rigs.stager"]

    @classmethod
    def as_user(cls, user: str, directory: Path, url: str) -> Stager:
        return cls(environment(directory, url, HADOOP_USER_NAME=user))

    @classmethod
    def on_disk_of(cls, size: int, environ: Mapping[str, str]) -> Stager:
        """With a real file system of `size` bytes around its data directory, seen by that process alone."""
        root = str(Path(environ["TARN_DATA_DIR"]).parent)
        script = f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'
        return cls(environ, "unshare", "--map-root-user", "--mount", "sh", "-c", script, root)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self._command, *arguments], cwd=ROOT, env=self._environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    async def outcome(self, *arguments: str) -> dict[str, Any]:
        process = self.start(*arguments)
        out, _ = await asyncio.to_thread(process.communicate, None, 60)
        last: dict[str, Any] = json.loads(out.splitlines()[-1])
        return last


def at_first_file(do: Callable[[], None]) -> tuple[Callable[[Progress], None], list[Progress]]:
    """An `on_progress` that acts when the first file is done. The event loop waits for it, so that at most the pieces in flight end meanwhile."""
    acted: list[Progress] = []

    def on_progress(progress: Progress) -> None:
        if progress.files_done >= 1 and not acted:
            acted.append(progress)
            do()

    return on_progress, acted


class TestHdfsGoesAway:
    """In the middle, with files left to copy: it is tried again, and finished when it is back."""

    @pytest.mark.parametrize("kind", KINDS)
    async def test_the_namenode_is_killed_and_started_again(
        self, hdfs: Hdfs, repositories: Repositories, many: str, tmp_path: Path, kind: str
    ) -> None:
        on_progress, acted = at_first_file(hdfs.namenode.kill)
        task = asyncio.create_task(stage(tmp_path, repositories.url(many, kind), on_progress))
        while not acted and not task.done():
            await asyncio.sleep(0.01)
        assert not hdfs.namenode.running
        assert acted[0].files_done + 8 < acted[0].files_total
        await asyncio.to_thread(hdfs.start_namenode)
        staged = await task
        assert tree(Path(staged.path)) == expected(MANY, "m")
        assert staged.progress.bytes_reused == 0

    async def test_the_datanode_is_killed_and_started_again(
        self, hdfs: Hdfs, repositories: Repositories, many: str, tmp_path: Path
    ) -> None:
        on_progress, acted = at_first_file(hdfs.datanode.kill)
        task = asyncio.create_task(stage(tmp_path, repositories.url(many), on_progress))
        while not acted and not task.done():
            await asyncio.sleep(0.01)
        hdfs.datanode.start()
        staged = await task
        await asyncio.to_thread(hdfs.await_serving)
        assert tree(Path(staged.path)) == expected(MANY, "m")

    async def test_a_namenode_that_hangs_is_given_up_and_the_copy_with_it(
        self, hdfs: Hdfs, repositories: Repositories, many: str, tmp_path: Path
    ) -> None:
        on_progress, acted = at_first_file(hdfs.namenode.freeze)
        try:
            with pytest.raises(StageError, match=r"nothing of .* arrived for 2 s") as caught:
                await stage(tmp_path, repositories.url(many), on_progress, TARN_STAGE_STALL_S="2")
        finally:
            hdfs.namenode.thaw()
        assert acted
        assert caught.value.retry
        assert not (tmp_path / "data/models").exists()
        staged = await stage(tmp_path, repositories.url(many))
        assert staged.progress.bytes_reused > 0
        assert tree(Path(staged.path)) == expected(MANY, "m")


class TestTheRepositoryChangesUnderWay:
    async def test_a_replaced_file_is_copied_as_it_is_now(self, hdfs: Hdfs, repositories: Repositories, tmp_path: Path) -> None:
        path = repositories.put(MANY)
        on_progress, acted = at_first_file(lambda: replace(hdfs, path))
        staged = await stage(tmp_path, repositories.url(path), on_progress)
        assert acted
        assert tree(Path(staged.path)) == expected({**MANY, "m/1/part-00": b"new"}, "m")


def replace(hdfs: Hdfs, path: str) -> None:
    hdfs.put(f"{path}/m/1/part-00", b"new")


class TestTheStagerEnds:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_killed_in_the_middle_it_leaves_nothing_that_counts_and_the_next_one_finishes(
        self, repositories: Repositories, many: str, tmp_path: Path, kind: str
    ) -> None:
        process = Stager(environment(tmp_path, repositories.url(many, kind))).start()
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("files_done", 0) >= 1:
                break
        process.kill()
        process.wait()
        process.stdout.close()
        left = (tmp_path / "data/.models.new").exists()
        assert left != (tmp_path / "data/models").exists()
        staged = await stage(tmp_path, repositories.url(many, kind))
        assert staged.progress.bytes_reused > 0
        assert tree(Path(staged.path)) == expected(MANY, "m")
        assert only_models(tmp_path)

    async def test_what_a_killed_one_left_is_not_believed(self, repositories: Repositories, many: str, tmp_path: Path) -> None:
        staged = Path((await stage(tmp_path, repositories.url(many))).path)
        growing = staged.rename(staged.with_name(".models.new"))
        (growing / "m/1/part-00").write_bytes(os.urandom(20_000))
        (growing / "m/1/part-01").write_bytes(b"")
        (growing / "other/1").mkdir(parents=True)
        (growing / "other/1/file").write_bytes(b"x")
        (growing / "m/1/link").symlink_to(tmp_path)
        (growing / "m/1/part-03").unlink()
        (growing / "m/1/part-03").mkdir()
        with (growing / ".tarn-manifest").open("ab") as journal:
            journal.write(b'{"path":"m/1/part-02","length":1')
        again = await stage(tmp_path, repositories.url(many))
        assert again.progress.bytes_reused == 21 * 20_000
        assert tree(staged) == expected(MANY, "m")

    async def test_cancelled_it_stops_at_once_and_leaves_nothing(self, repositories: Repositories, many: str, tmp_path: Path) -> None:
        begun = asyncio.Event()
        task = asyncio.create_task(stage(tmp_path, repositories.url(many), lambda progress: begun.set() if progress.files_done else None))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert only_models(tmp_path)
        assert not (tmp_path / "data/models").exists()


class TestInPlace:
    async def test_a_mounted_repository_is_used_where_it_is(self, tmp_path: Path) -> None:
        for name in ("a/1/model.bin", "b/1/model.bin"):
            (tmp_path / "nfs" / name).parent.mkdir(parents=True)
            (tmp_path / "nfs" / name).write_bytes(b"x")
        for url in (str(tmp_path / "nfs"), f"file:{tmp_path}/nfs", f"file://{tmp_path}/nfs/"):
            staged = await stage(tmp_path, url, TARN_MODELS="b")
            assert (staged.path, staged.models, staged.in_place) == (str(tmp_path / "nfs"), ("b",), True)
        assert not (tmp_path / "data").exists()

    async def test_a_path_that_triton_would_hand_to_a_shell_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "my models" / "a" / "1").mkdir(parents=True)
        with pytest.raises(StageError, match=r"cannot be used in place: it holds ' '.*use a path of letters"):
            await stage(tmp_path, str(tmp_path / "my models"))

    async def test_so_is_a_model_that_an_ensemble_would_bring(self, tmp_path: Path) -> None:
        models = tmp_path / "models"
        for name in ("e", "m$(id)"):
            (models / name / "1").mkdir(parents=True)
            (models / name / "config.pbtxt").write_text('ensemble_scheduling { step [ { model_name: "m$(id)" } ] }')
        with pytest.raises(StageError, match=r"the model .m.*. cannot be served.*rename its directory"):
            await stage(tmp_path, str(models), TARN_MODELS="e")

    async def test_pythons_caches_are_not_looked_at(self, tmp_path: Path) -> None:
        (tmp_path / "a" / "1" / "__pycache__").mkdir(parents=True)
        (tmp_path / "a" / "1" / "__pycache__" / "model.pyc").write_bytes(b"x")
        assert [entry.path for entry in MountedStore(str(tmp_path), "here").listing(10.0)] == ["a", "a/1"]


class TestTheAddress:
    """How a repository's URL finds its HDFS."""

    def conf(self, hdfs: Hdfs, tmp_path: Path) -> str:
        (tmp_path / "conf").mkdir()
        for site in ("core-site.xml", "hdfs-site.xml"):
            (tmp_path / "conf" / site).write_bytes((hdfs.conf / site).read_bytes())
        return str(tmp_path / "conf")

    async def test_without_an_authority_it_is_that_of_the_configuration(self, hdfs: Hdfs, models: str, tmp_path: Path) -> None:
        assert (await stage(tmp_path, f"hdfs://{models}", HADOOP_CONF_DIR=self.conf(hdfs, tmp_path))).models == ("a", "b", "e")

    async def test_without_either_the_fix_is_told(self, models: str, tmp_path: Path) -> None:
        assert "fs.defaultFS is not set: give hdfs://namenode:8020/path" in str(await refusal(tmp_path, f"hdfs://{models}"))

    async def test_a_nameservice_finds_the_namenode_that_answers(self, hdfs: Hdfs, models: str, tmp_path: Path) -> None:
        conf = tmp_path / "ha"
        conf.mkdir()
        rows = {
            "dfs.nameservices": "prod",
            "dfs.ha.namenodes.prod": "dead,alive",
            "dfs.namenode.rpc-address.prod.dead": "127.0.0.1:1",
            "dfs.namenode.rpc-address.prod.alive": hdfs.rpc,
            "dfs.client.failover.proxy.provider.prod": "org.apache.hadoop.hdfs.server.namenode.ha.ConfiguredFailoverProxyProvider",
        }
        body = "".join(f"<property><name>{name}</name><value>{value}</value></property>" for name, value in rows.items())
        (conf / "hdfs-site.xml").write_text(f"<configuration>{body}</configuration>")
        assert (await stage(tmp_path, f"hdfs://prod{models}", HADOOP_CONF_DIR=str(conf))).models == ("a", "b", "e")

    async def test_hdfs_over_webhdfs_when_its_address_is_given(self, hdfs: Hdfs, models: str, tmp_path: Path) -> None:
        staged = await stage(tmp_path, f"hdfs://nobody-resolves-this.invalid{models}", TARN_WEBHDFS=f"http://{hdfs.http}")
        assert tree(Path(staged.path)) == expected(MODELS, "a", "b", "e")


class TestTheToken:
    async def test_is_in_no_error(self, repositories: Repositories, tmp_path: Path) -> None:
        token = credentials.Token("HDFS_DELEGATION_TOKEN", "127.0.0.1:8020", b"planted-identifier", b"planted-password")
        credentials.write(tmp_path / "credentials", credentials.Credentials({"hdfs": token}))
        away = await refusal(tmp_path, "webhdfs://127.0.0.1:1/models", TARN_STAGE_STALL_S="1")
        missing = await refusal(tmp_path, repositories.url("/staging/nowhere", "webhdfs"))
        for error in (away, missing):
            cause: BaseException | None = error
            while cause is not None:
                assert token_text(token) not in str(cause)
                assert "delegation=" not in str(cause)
                cause = cause.__cause__

    async def test_of_another_hdfs_is_not_taken_for_none(self, hdfs: Hdfs, models: str, tmp_path: Path) -> None:
        token = credentials.Token("HDFS_DELEGATION_TOKEN", "192.0.2.1:8020", b"i", b"p")
        credentials.write(tmp_path / "credentials", credentials.Credentials({"hdfs": token}))
        error = await refusal(tmp_path, hdfs.url + models)
        assert f"tokens for 192.0.2.1:8020, but none for {hdfs.rpc}" in str(error)
