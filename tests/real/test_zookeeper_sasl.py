"""SASL's DIGEST-MD5 against a real ZooKeeper that knows the users: the ACL, a killed process, an expiry, restarts, refusals."""

from __future__ import annotations

import asyncio
import functools
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoAuthError
from structlog.testing import capture_logs

from tarn_agent.presence import ZooKeeperPresence, open_zookeeper
from tarn_agent.settings import AgentSettings
from tarn_am.beacon import Beacon
from tarn_am.core import launch
from tarn_am.settings import AmSettings
from tarn_am.state import StateDir
from tarn_common.credentials import ZK_DIGEST, Credentials
from tarn_common.endpoint import HostPort, Rendezvous, am_path, instance_path, parse_ensemble
from tarn_common.ids import ApplicationId, container_id
from tarn_common.settings import load
from tarn_common.zk_login import SASL, parse_login
from tarn_common.zookeeper import ZooKeeper
from tests.real.test_zookeeper import end_session, standing
from tests.rigs.wait import eventually
from tests.rigs.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.real

SESSION_S = 4.0
PASSWORD = "pw-of-tarn"
LOGIN = parse_login(f"tarn:{PASSWORD}", SASL)


def jaas(directory: Path, password: str) -> Path:
    path = directory / "jaas.conf"
    path.write_text(
        f'Server {{ org.apache.zookeeper.server.auth.DigestLoginModule required user_tarn="{password}" user_eve="pw-of-eve"; }};\n'
    )
    return path


def sasl_server(directory: Path, password: str) -> ZooKeeperServer:
    return ZooKeeperServer(
        directory / "zookeeper",
        config="authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider",
        jvm=(f"-Djava.security.auth.login.config={jaas(directory, password)}",),
    )


@pytest.fixture(scope="module")
def sasl_zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperServer]:
    server = sasl_server(tmp_path_factory.mktemp("sasl"), PASSWORD)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def other_password(tmp_path: Path) -> Iterator[ZooKeeperServer]:
    """A server of one test, that knows our user by another password."""
    server = sasl_server(tmp_path, "another-one")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def stranger(sasl_zookeeper: ZooKeeperServer) -> Iterator[Any]:
    """A client that is nobody."""
    client = KazooClient(sasl_zookeeper.connect)
    client.start()
    yield client
    client.stop()
    client.close()


def owners(client: Any, path: str) -> set[tuple[str, str, int]]:
    return {(acl.id.scheme, acl.id.id, acl.perms) for acl in client.get_acls(path)[0]}


OURS = {("sasl", "tarn", 31), ("world", "anyone", 1)}


class TestOwner:
    async def test_the_world_reads_and_only_the_user_changes(self, sasl_zookeeper: ZooKeeperServer, stranger: Any, zk_path: str) -> None:
        path = f"{zk_path}/a"
        zk = ZooKeeper(parse_ensemble(sasl_zookeeper.connect), SESSION_S, login=LOGIN)
        zk.start()
        zk.keep(path, b"host:1")
        await standing(zk, path)
        assert owners(stranger, path) == owners(stranger, zk_path) == OURS
        assert stranger.get(path)[0] == b"host:1"
        eve = KazooClient(sasl_zookeeper.connect, sasl_options={"mechanism": "DIGEST-MD5", "username": "eve", "password": "pw-of-eve"})
        eve.start()
        for client in (stranger, eve):
            with pytest.raises(NoAuthError):
                client.set(path, b"mallory:1")
            with pytest.raises(NoAuthError):
                client.delete(path)
            with pytest.raises(NoAuthError):
                client.create(f"{zk_path}/mallory", b"mallory:1")
        eve.stop()
        eve.close()
        zk.keep(path, b"host:2")
        await eventually(lambda: stranger.get(path)[0] == b"host:2", "the owner may change it")
        assert await zk.drop(path)
        await zk.close()

    async def test_an_expired_session_is_followed_by_one_that_owns_it_alike(
        self, sasl_zookeeper: ZooKeeperServer, stranger: Any, zk_path: str, tmp_path: Path
    ) -> None:
        path, kept = f"{zk_path}/a", tmp_path / "session.json"
        zk = ZooKeeper(parse_ensemble(sasl_zookeeper.connect), SESSION_S, login=LOGIN, session_file=kept)
        zk.start()
        zk.keep(path, b"host:1")
        await standing(zk, path)
        before = stranger.exists(path).ephemeralOwner
        await asyncio.to_thread(end_session, sasl_zookeeper, kept)
        await eventually(lambda: (found := stranger.exists(path)) and found.ephemeralOwner != before, "a new session owns it")
        await standing(zk, path)
        assert owners(stranger, path) == OURS
        await zk.close()


class TestFromTheSettings:
    async def test_the_agents_and_the_application_masters_znodes_are_the_users(
        self, sasl_zookeeper: ZooKeeperServer, stranger: Any, zk_path: str, tmp_path: Path
    ) -> None:
        (tmp_path / "login").write_text(f"{LOGIN.pair}\n")
        am = AmSettings(
            model_repository="/models",
            zk_ensemble=sasl_zookeeper.connect,
            zk_path=zk_path,
            zk_digest_file=str(tmp_path / "login"),
            zk_auth=SASL,
        )
        application = ApplicationId("application_1700000000000_0001")
        of_the_node = {
            "CONTAINER_ID": "container_1700000000000_0001_01_000002",
            "HADOOP_TOKEN_FILE_LOCATION": "/tokens",
            "TARN_LOG_DIR": "/logs",
            "TARN_RUN_DIR": str(tmp_path),
            "TARN_DATA_DIR": "/data",
        }
        settings = load(AgentSettings, {**launch.environment(application, am, launch.Meeting(HostPort("node1", 5000))), **of_the_node})
        zookeeper = open_zookeeper(settings, Credentials(secrets={ZK_DIGEST: LOGIN.pair.encode()}))
        assert zookeeper is not None
        presence, state = ZooKeeperPresence(settings, zookeeper), StateDir(tmp_path / "state")
        state.lock()
        beacon = Beacon(am, state, LOGIN)
        await presence.start()
        presence.announce("node1:8000")
        beacon.light(Rendezvous(HostPort("node1", 5000), "http://node1:8888", "1"))
        for path in (instance_path(zk_path, container_id(settings.container_id)), am_path(zk_path, state.application_id)):
            await eventually(functools.partial(stranger.exists, path), f"{path} stands")
            assert owners(stranger, path) == OURS
        await presence.close()
        await beacon.close()
        state.unlock()


CHILD = """
import asyncio, sys
from pathlib import Path
from tarn_common import logs
from tarn_common.endpoint import parse_ensemble
from tarn_common.zk_login import SASL, parse_login
from tarn_common.zookeeper import ZooKeeper
async def main():
    logs.configure()
    login = parse_login(sys.stdin.readline().strip(), SASL)
    zk = ZooKeeper(parse_ensemble(sys.argv[1]), 10.0, login=login, session_file=Path(sys.argv[3]))
    zk.start()
    zk.keep(sys.argv[2], b"host:1")
    while not zk.stands(sys.argv[2]):
        await asyncio.sleep(0.01)
    print("stands", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


class TestProcessKilledAndStartedAgain:
    async def test_its_znode_never_goes(self, sasl_zookeeper: ZooKeeperServer, stranger: Any, zk_path: str, tmp_path: Path) -> None:
        path, kept = f"{zk_path}/a", tmp_path / "session.json"
        command = [sys.executable, "-c", CHILD, sasl_zookeeper.connect, path, str(kept)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(f"{LOGIN.pair}\n".encode())
            child.stdin.close()
            assert await asyncio.to_thread(child.stdout.readline) == b"stands\n"
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
        born = stranger.exists(path)
        zk = ZooKeeper(parse_ensemble(sasl_zookeeper.connect), 10.0, login=LOGIN, session_file=kept)
        zk.start()
        zk.keep(path, b"host:1")
        await standing(zk, path)
        found = stranger.exists(path)
        assert (found.czxid, found.ephemeralOwner) == (born.czxid, born.ephemeralOwner)
        zk.keep(path, b"host:2")
        await eventually(lambda: stranger.get(path)[0] == b"host:2", "it is still its own")
        await zk.close()
        assert stranger.exists(path) is None


class TestRefusal:
    async def test_a_wrong_password_is_told_once_and_works_when_the_servers_know_it(
        self, other_password: ZooKeeperServer, zk_path: str, tmp_path: Path
    ) -> None:
        server, path, kept = other_password, f"{zk_path}/a", tmp_path / "session.json"
        with capture_logs() as logs:
            zk = ZooKeeper(parse_ensemble(server.connect), SESSION_S, login=LOGIN, session_file=kept)
            zk.start()
            zk.keep(path, b"host:1")
            await eventually(lambda: any(line["log_level"] == "error" for line in logs), "it is told")
            await asyncio.sleep(1.0)
            assert not zk.connected
            assert not zk.stands(path)
            assert not await zk.drop(path)
            assert not kept.exists()
            assert 2 <= server.log().count("failed to SASL authenticate") <= 4
            await eventually(
                lambda: not any(thread.name == "zookeeper" for thread in threading.enumerate()), "no refused client is left behind"
            )
            jaas(tmp_path, PASSWORD)
            zk.keep(path, b"host:2")
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await standing(zk, path)
            assert await zk.get(path) == b"host:2"
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await eventually(lambda: any(line["event"] == "zookeeper_lost" for line in logs), "the restart is seen")
            await standing(zk, path)
            await zk.close()
        errors = [line for line in logs if line["log_level"] == "error"]
        assert len(errors) == 1
        assert "does not let the sasl user 'tarn' in: check the password" in errors[0]["error"]
        assert {line["event"] for line in logs if line["log_level"] == "warning"} == {"zookeeper_lost"}
        assert PASSWORD not in str(logs)

    async def test_servers_without_sasl_are_asked_a_few_times_and_not_for_ever(self, zookeeper: ZooKeeperServer, zk_path: str) -> None:
        def received() -> int:
            found = re.search(r"^Received: (\d+)$", zookeeper.command("srvr"), re.MULTILINE)
            assert found is not None
            return int(found[1])

        before = received()
        with capture_logs() as logs:
            zk = ZooKeeper(parse_ensemble(zookeeper.connect), SESSION_S, login=LOGIN)
            zk.start()
            zk.keep(f"{zk_path}/a", b"host:1")
            await eventually(lambda: any(line["log_level"] == "error" for line in logs), "it is told")
            await zk.close()
        assert "that the servers have SASL" in next(line["error"] for line in logs if line["log_level"] == "error")
        assert received() - before < 60
