"""`tarn submit` on a real Hadoop: what it refuses, what it sends, what comes up, and what is left when it ends."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import signal
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from tarn_am.cli import example
from tarn_am.cluster.yarn import convert
from tarn_am.hadoop.ipc.client import HadoopClient
from tarn_am.hadoop.ipc.sasl import Login
from tarn_am.hadoop.pb import yarn_services_pb2
from tarn_am.hadoop.protocols import APPLICATION_CLIENT
from tarn_common.ids import application_id
from tests.rigs.cluster import HadoopCluster
from tests.rigs.hadoop import ROOT, Daemon, classpath, free_port
from tests.rigs.submitted import Client, bare_archive, masters, processes, staged, triton_directory
from tests.rigs.wait import eventually

pytestmark = pytest.mark.real
REPOSITORY = "hdfs:///models"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bare_archive(tmp_path_factory.mktemp("archive") / "tarn.tar.gz")


@pytest.fixture
def client(tmp_path: Path, cluster: HadoopCluster, archive: Path) -> Client:
    return Client(tmp_path, cluster, archive)


@pytest.fixture(scope="module")
def admin(cluster: HadoopCluster, tmp_path_factory: pytest.TempPathFactory) -> Daemon:
    """`hdfs dfsadmin`."""
    scratch = tmp_path_factory.mktemp("dfsadmin")
    return Daemon("dfsadmin", "org.apache.hadoop.hdfs.tools.DFSAdmin", cluster.conf, classpath(), scratch)


@pytest.fixture(scope="module")
def with_triton(
    tmp_path_factory: pytest.TempPathFactory, cluster: HadoopCluster, archive: Path, triton_runtime: Mapping[str, str]
) -> Client:
    """A client whose nodes have a tritonserver, and whose HDFS has the example models."""
    scratch = tmp_path_factory.mktemp("client")
    cluster.hdfs.put_tree("/models/identity", _files(ROOT / "examples" / "models" / "identity"))
    return Client(scratch, cluster, archive, f"{triton_directory(scratch / 'bin', triton_runtime)}:/usr/bin:/bin")


def _files(directory: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


async def nothing_left(client: Client, before: list[str]) -> None:
    assert staged(client.cluster) == before
    living = json.loads((await client.tarn("list", "--json")).out)
    assert living == []


@pytest.fixture
def conf(tmp_path: Path, cluster: HadoopCluster) -> Path:
    """A configuration directory of the test's own, to be spoiled."""
    directory = tmp_path / "conf"
    directory.mkdir()
    for site in cluster.conf.glob("*-site.xml"):
        (directory / site.name).write_bytes(site.read_bytes())
    return directory


class TestRefused:
    """Each before anything is made: one sentence, no traceback, nothing left."""

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (("--queue", "nowhere"), "there is no queue 'nowhere': give --queue one of root.default"),
            (("--queue", "root"), "--queue=root is no leaf: applications go into one of root.default"),
            (("--memory-mb", "9000"), "an instance asks for 9000 MiB (--memory-mb), and the cluster allows a container at most 2048 MiB"),
            (("--vcores", "900"), "an instance asks for 900 vcores (--vcores)"),
            (("--am-memory-mb", "9000"), "the Application Master asks for 9000 MiB (--am-memory-mb)"),
            (("--gpus", "1", "--gpu-resource", "yarn.io/gpus"), "the cluster has no resource of that name; did you mean 'yarn.io/gpu'?"),
            (("--gpus", "2"), "an instance asks for 2 yarn.io/gpu (--gpus)"),
            (("--tp", "2", "--pp", "2", "--gpus", "4"), "an instance asks for 4 yarn.io/gpu (--tp and --pp)"),
            (
                ("--node-label", "fast"),
                "an instance asks for a node with the label 'fast' (--node-label), and there is none: no node has a label",
            ),
            (("--archive", "/nowhere/tarn.tar.gz"), "--archive='/nowhere/tarn.tar.gz' is no file"),
            (("--archive", "hdfs:///nowhere/tarn.tar.gz"), "is not there"),
            (("--model-repository", "models"), "--model-repository='models' is no place that every node knows"),
            (("--staging-dir", "s3a://bucket/x"), "TARN cannot stage in s3a://bucket/x"),
            (("--runtime", "docker"), "--image is not set"),
            (("--env", "CUDA_VISIBLE_DEVICES=1"), "the cluster decides which GPUs an instance has"),
            (("--jar", "tarn.jar"), "--jar is of the Java TARN"),
            (("--ranger-service", "x"), "--ranger-service (Ranger service that authorizes) is not built yet"),
            (("--min-instances", "3", "--max-instances", "2"), "--min-instances 3 is more than --max-instances 2"),
        ],
    )
    async def test_an_ask_that_cannot_be_met(self, client: Client, arguments: tuple[str, ...], sentence: str) -> None:
        before = staged(client.cluster)
        ran = await client.submit("--model-repository", REPOSITORY, *arguments)
        assert ran.status != 0
        assert sentence in ran.err.splitlines()[-1]
        assert "Traceback" not in ran.err
        await nothing_left(client, before)

    async def test_no_configuration(self, client: Client, tmp_path: Path) -> None:
        for directory, sentence in (
            ("", "no Hadoop configuration was found"),
            (str(tmp_path / "no"), "is not there"),
            (str(tmp_path), "has none of"),
        ):
            ran = await client.submit("--model-repository", REPOSITORY, HADOOP_CONF_DIR=directory)
            assert (ran.status, sentence in ran.err.splitlines()[-1]) == (1, True), ran.err

    @pytest.mark.parametrize("listener", ["nobody", "http"])
    async def test_a_wrong_address(self, client: Client, conf: Path, listener: str) -> None:
        port = free_port() if listener == "nobody" else client.cluster.yarn.web.port
        site = conf / "yarn-site.xml"
        site.write_text(site.read_text().replace(f"<value>{client.cluster.yarn.client}</value>", f"<value>127.0.0.1:{port}</value>"))
        ran = await client.submit("--model-repository", REPOSITORY, "--rm-patience-s", "0.5", HADOOP_CONF_DIR=str(conf))
        assert ran.status == 1
        assert "yarn.resourcemanager.address" in ran.err.splitlines()[-1]

    async def test_a_user_without_a_home(self, client: Client) -> None:
        ran = await client.submit("--model-repository", REPOSITORY, HADOOP_USER_NAME="mallory")
        assert ran.status == 1
        assert "mallory may not write in /user" in ran.err.splitlines()[-1]
        assert staged(client.cluster, "/user/mallory") == []

    async def test_a_home_whose_quota_is_used_up(self, client: Client, admin: Daemon) -> None:
        client.cluster.hdfs.client.mkdirs("/user/full", 0o777, True)
        client.cluster.hdfs.client.set_permission("/user/full", 0o777)
        admin.run("-setSpaceQuota", "1", "/user/full")
        ran = await client.submit("--model-repository", REPOSITORY, HADOOP_USER_NAME="full")
        assert ran.status == 1
        assert "quota of space is used up" in ran.err.splitlines()[-1]
        assert staged(client.cluster, "/user/full") == []

    async def test_safe_mode(self, client: Client, admin: Daemon) -> None:
        admin.run("-safemode", "enter")
        try:
            ran = await client.submit("--model-repository", REPOSITORY, "--staging-dir", "another")
        finally:
            admin.run("-safemode", "leave")
        assert ran.status == 1
        assert "HDFS is in safe mode" in ran.err.splitlines()[-1]


class TestDryRun:
    async def test_what_would_be_sent_is_printed_and_nothing_is_made(self, client: Client, tmp_path: Path) -> None:
        config = tmp_path / "fleet.toml"
        config.write_text('queue = "default"\nmin-instances = 2\nenv = ["A=b,c", "D=e"]\nname = "from-file"\nam-attempts = 7\n')
        before = staged(client.cluster)
        ran = await client.submit(
            "--model-repository", REPOSITORY, "--dry-run", "--config", str(config), "--name", "from-flag", TARN_AM_ATTEMPTS="3"
        )
        assert ran.status == 0, ran.err
        sent = json.loads(ran.out)
        assert (sent["application"]["name"], sent["application"]["max_attempts"]) == ("from-flag", 3)
        am = sent["master"]["environment"]["TARN_SETTINGS"]["am"]
        assert (am["min_instances"], am["env"]) == (2, ["A=b,c", "D=e"])
        assert am["model_repository"] == f"{client.cluster.hdfs.url}/models"
        assert sent["master"]["credentials"] == ["tarn.agent.secret", "tarn.am.certificate", "tarn.am.key", "tarn.api.token"]
        await nothing_left(client, before)

    async def test_a_wrong_key_or_value_of_the_file_is_told_with_the_file(self, client: Client, tmp_path: Path) -> None:
        config = tmp_path / "fleet.toml"
        for text, sentence in (
            ("min-instnaces = 2", "'min-instnaces' is no option of this verb: did you mean 'min-instances'?"),
            ("queue = 'a b'", f"{config}: --queue='a b'"),
            ("queue = ", "is not TOML"),
            ("[queue]\na = 1", "'queue' is neither a text nor a number"),
        ):
            config.write_text(text + "\n")
            ran = await client.submit("--model-repository", REPOSITORY, "--dry-run", "--config", str(config))
            assert (ran.status, sentence in ran.err) == (2, True), ran.err


class TestLife:
    async def test_from_submission_to_stop(self, with_triton: Client) -> None:
        client = with_triton
        options = ("--models", "identity", "--max-instances", "2", "--drain-grace-s", "0", "--name", "story")
        ran = await client.submit("--model-repository", REPOSITORY, *options)
        assert ran.status == 0, ran.err
        application = ran.out.split()[0]
        assert "is READY at 127.0.0." in ran.out

        listed = json.loads((await client.tarn("list", "--json")).out)
        assert [(one["application_id"], one["state"]) for one in listed] == [(application, "RUNNING")]
        offered = json.loads((await client.tarn("--application", application, "instances", "--json")).out)["instances"][0]
        assert _infers(offered["host"], offered["http_port"])

        # A crash of the master is mended in its container: same attempt, same instances, no attempt spent.
        [master] = masters(application)
        os.kill(master.pid, signal.SIGKILL)
        await eventually(lambda: [one.pid for one in masters(application)] not in ([], [master.pid]), "another master runs")

        async def serves() -> bool:
            ran = await client.tarn("--name", "story", "instances", "--json")
            return ran.status == 0 and [one["container_id"] for one in json.loads(ran.out)["instances"]] == [offered["container_id"]]

        await eventually(serves, "the new master lists the old instance")
        assert json.loads((await client.tarn("list", "--json")).out)[0]["attempt"] == 1
        assert _infers(offered["host"], offered["http_port"])

        ran = await client.tarn("--application", application, "stop")
        assert ran.status == 0, ran.err
        [over] = json.loads((await client.tarn("list", "--all", "--json")).out)[:1]
        assert (over["application_id"], over["state"], over["final"]) == (application, "FINISHED", "SUCCEEDED")
        assert not [path for path in staged(client.cluster) if path.startswith(application)]
        await eventually(lambda: not processes(application), "no process of the application is left")

    async def test_a_master_whose_container_is_lost_is_succeeded_without_a_restart_and_keeps_the_target(self, with_triton: Client) -> None:
        """No ZooKeeper: the agents find the second master, wherever it is, by its record in HDFS."""
        client = with_triton
        options = ("--models", "identity", "--max-instances", "2", "--drain-grace-s", "0", "--name", "succession")
        application = await client.submitted("--model-repository", REPOSITORY, *options)
        ran = await client.tarn("--application", application, "scale", "2", "--wait")
        assert ran.status == 0, ran.err
        before = await _offered(client, application)
        assert len({one["node"] for one in before}) == 2
        tritons = {one.pid for one in processes(application) if one.name() == "tritonserver"}

        _end_master(application)

        async def succeeded() -> bool:
            ran = await client.tarn("--application", application, "status", "--json")
            return ran.status == 0 and json.loads(ran.out)["counts"]["ready"] == 2

        await eventually(succeeded, "the second master knows both instances as READY")
        assert json.loads((await client.tarn("list", "--json")).out)[0]["attempt"] == 2
        assert await _offered(client, application) == before
        assert {one.pid for one in processes(application) if one.name() == "tritonserver"} == tritons
        assert json.loads((await client.tarn("--application", application, "status", "--json")).out)["counts"]["wanted"] == 2
        assert (await client.tarn("--application", application, "stop")).status == 0

    async def test_a_kill_leaves_no_process_and_no_file(self, client: Client) -> None:
        application = await client.submitted("--model-repository", REPOSITORY, "--wait", "up", "--min-instances", "0")
        assert [path for path in staged(client.cluster) if path == application]
        ran = await client.tarn("kill", application)
        assert (ran.status, ran.out) == (0, f"{application} is killed\n")
        assert not [path for path in staged(client.cluster) if path.startswith(application)]
        await eventually(lambda: not processes(application), "no process of the application is left")
        ran = await client.tarn("--application", application, "status")
        assert (ran.status, f"{application} is over: KILLED" in ran.err) == (3, True)
        assert (await client.tarn("kill", application)).out == f"{application} was over already (KILLED)\n"

    async def test_a_master_that_cannot_run_ends_as_one_sentence(self, client: Client) -> None:
        ran = await client.submit("--model-repository", REPOSITORY, "--am-attempts", "1", "--python", "/nowhere/python3")
        assert ran.status == 1
        assert "ended as FAILED" in ran.err.splitlines()[-1]
        assert "/nowhere/python3" in ran.err.splitlines()[-1]
        assert not [path for path in staged(client.cluster) if path.startswith("application_")]

    async def test_what_an_application_left_that_was_killed_from_outside_goes_with_the_next_submission(self, client: Client) -> None:
        application = await client.submitted("--model-repository", REPOSITORY, "--wait", "none", "--min-instances", "0")
        await _killed_by_yarn(client, application)
        assert [path for path in staged(client.cluster) if path == application]
        later = await client.submitted("--model-repository", REPOSITORY, "--wait", "none", "--min-instances", "0")
        assert [path for path in staged(client.cluster) if path.startswith("application_")] == [later]
        assert (await client.tarn("kill", later)).status == 0


def _end_master(application: str) -> None:
    """Its whole container at once, as the loss of a node's room takes it: the keeper, and with it the master."""
    for process in processes(application):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "tarn_am.am_keeper" in process.cmdline():
                process.kill()


async def _offered(client: Client, application: str) -> list[dict[str, object]]:
    """Sorted, without the times that a new master counts from its own start."""
    found = json.loads((await client.tarn("--application", application, "instances", "--json")).out)["instances"]
    wanted = ("container_id", "node", "host", "http_port", "models")
    return sorted(({name: one[name] for name in wanted} for one in found), key=lambda one: str(one["container_id"]))


async def _killed_by_yarn(client: Client, application: str) -> None:
    """As `yarn application -kill` does it: nobody of TARN is asked."""
    async with HadoopClient([client.cluster.yarn.client], Login(getpass.getuser())) as rm:
        request = yarn_services_pb2.KillApplicationRequestProto(application_id=convert.application(application_id(application)))

        async def over() -> bool:
            answer = await rm.call(APPLICATION_CLIENT, "forceKillApplication", request, yarn_services_pb2.KillApplicationResponseProto)
            return answer.is_kill_completed

        await eventually(over, "the application is killed")


def _infers(host: str, port: int) -> bool:
    with urllib.request.urlopen(f"http://{host}:{port}/v2/models/identity", timeout=10) as answer:
        body = example.body(json.load(answer))
    request = urllib.request.Request(f"http://{host}:{port}/v2/models/identity/infer", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        return bool(json.load(answer)["outputs"])
