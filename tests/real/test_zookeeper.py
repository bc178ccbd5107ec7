"""The upkeep of znodes against a real ZooKeeper server: losses, expiries, restarts, other owners, wrong bytes."""

from __future__ import annotations

import asyncio
import signal
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoAuthError
from structlog.testing import capture_logs

from tarn_common.endpoint import parse_ensemble
from tarn_common.zk_login import parse_login
from tarn_common.zk_session import decode_session
from tarn_common.zookeeper import ZooKeeper
from tests.rigs.wait import eventually
from tests.rigs.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.real

SESSION_S = 2.0


@pytest.fixture
def eye(zookeeper: ZooKeeperServer) -> Iterator[Any]:
    """A plain client that looks at the shared server from outside."""
    client = KazooClient(zookeeper.connect)
    client.start()
    yield client
    client.stop()
    client.close()


@pytest.fixture
async def ours(zookeeper: ZooKeeperServer) -> AsyncIterator[ZooKeeper]:
    found = ZooKeeper(parse_ensemble(zookeeper.connect), SESSION_S)
    found.start()
    yield found
    await found.close()


async def standing(zk: ZooKeeper, path: str) -> None:
    await eventually(lambda: zk.stands(path), f"{path} stands")


def end_session(server: ZooKeeperServer, session_file: Path) -> None:
    """Ends a session from outside, as its expiry does: takes it over on a connection of our own and closes it there."""
    known = decode_session(session_file.read_text(), server.connect)
    assert known is not None
    take_over = struct.pack(">iqiqi16s?", 0, 0, 10_000, known.number, 16, known.password, False)
    close = struct.pack(">ii", 1, -11)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as link:
        for request in (take_over, close):
            link.sendall(struct.pack(">i", len(request)) + request)
            assert link.recv(4096)


class TestZnodeThatMustStand:
    async def test_it_is_made_with_its_parents_and_exactly_its_data(self, ours: ZooKeeper, eye: Any, zk_path: str) -> None:
        ours.keep(f"{zk_path}/a", b"host:1")
        await standing(ours, f"{zk_path}/a")
        data, about = eye.get(f"{zk_path}/a")
        assert data == b"host:1"
        assert about.ephemeralOwner != 0

    async def test_other_data_changes_it_in_place(self, ours: ZooKeeper, eye: Any, zk_path: str) -> None:
        ours.keep(f"{zk_path}/a", b"host:1")
        await standing(ours, f"{zk_path}/a")
        born = eye.exists(f"{zk_path}/a").czxid
        ours.keep(f"{zk_path}/a", b"host:2")
        await eventually(lambda: eye.get(f"{zk_path}/a")[0] == b"host:2", "the data is the new one")
        assert eye.exists(f"{zk_path}/a").czxid == born

    async def test_a_drop_is_confirmed(self, ours: ZooKeeper, eye: Any, zk_path: str) -> None:
        ours.keep(f"{zk_path}/a", b"host:1")
        await standing(ours, f"{zk_path}/a")
        assert await ours.drop(f"{zk_path}/a")
        assert eye.exists(f"{zk_path}/a") is None
        assert not ours.stands(f"{zk_path}/a")
        assert await ours.drop(f"{zk_path}/a")

    async def test_of_many_wishes_in_a_row_the_last_one_counts(self, ours: ZooKeeper, eye: Any, zk_path: str) -> None:
        path = f"{zk_path}/a"
        for number in range(20):
            ours.keep(path, b"host:%d" % number)
            gone = asyncio.ensure_future(ours.drop(path))
            await asyncio.sleep(0)
        assert await gone
        assert eye.exists(path) is None
        dropped = asyncio.ensure_future(ours.drop(path))
        await asyncio.sleep(0)
        ours.keep(path, b"host:99")
        await dropped
        await standing(ours, path)
        assert eye.get(path)[0] == b"host:99"

    async def test_closing_removes_it_without_waiting_for_the_session(self, zookeeper: ZooKeeperServer, eye: Any, zk_path: str) -> None:
        zk = ZooKeeper(parse_ensemble(zookeeper.connect), 60.0)
        zk.start()
        zk.keep(f"{zk_path}/a", b"host:1")
        await standing(zk, f"{zk_path}/a")
        await zk.close()
        assert eye.exists(f"{zk_path}/a") is None

    async def test_a_chroot_is_made_and_kept_to(self, zookeeper: ZooKeeperServer, eye: Any, zk_path: str) -> None:
        zk = ZooKeeper(parse_ensemble(f"{zookeeper.connect}{zk_path}/deep"), SESSION_S)
        zk.start()
        zk.keep("/x/a", b"host:1")
        await standing(zk, "/x/a")
        assert eye.get(f"{zk_path}/deep/x/a")[0] == b"host:1"
        assert await zk.children("/x") == ["a"]
        await zk.close()


class TestSomebodyElsesHand:
    async def test_a_deleted_znode_is_made_again(self, ours: ZooKeeper, eye: Any, zk_path: str) -> None:
        ours.keep(f"{zk_path}/a", b"host:1")
        await standing(ours, f"{zk_path}/a")
        eye.delete(f"{zk_path}/a")
        await eventually(lambda: eye.exists(f"{zk_path}/a"), "it is back")

    async def test_changed_data_is_put_right(self, ours: ZooKeeper, eye: Any, zk_path: str) -> None:
        ours.keep(f"{zk_path}/a", b"host:1")
        await standing(ours, f"{zk_path}/a")
        eye.set(f"{zk_path}/a", b"nonsense")
        await eventually(lambda: eye.get(f"{zk_path}/a")[0] == b"host:1", "the data is ours again")

    async def test_the_znode_of_a_dead_session_is_replaced(self, ours: ZooKeeper, eye: Any, zk_path: str) -> None:
        eye.create(f"{zk_path}/a", b"old:1", ephemeral=True, makepath=True)
        ours.keep(f"{zk_path}/a", b"host:1")
        await standing(ours, f"{zk_path}/a")
        data, about = eye.get(f"{zk_path}/a")
        assert data == b"host:1"
        assert about.ephemeralOwner != eye.client_id[0]

    async def test_two_owners_do_not_chase_each_other(self, zookeeper: ZooKeeperServer, eye: Any, zk_path: str) -> None:
        path = f"{zk_path}/a"
        owners = [ZooKeeper(parse_ensemble(zookeeper.connect), SESSION_S) for _ in range(2)]
        for number, owner in enumerate(owners):
            owner.start()
            owner.keep(path, b"owner:%d" % (number + 1))
        await eventually(lambda: eye.exists(zk_path) and eye.exists(zk_path).cversion >= 6, "the znode changed hands")
        await asyncio.sleep(1.0)
        assert eye.exists(zk_path).cversion < 40
        for owner in owners:
            await owner.close()


class TestSessionThatExpired:
    async def test_the_znode_is_made_again_in_a_new_session(
        self, zookeeper: ZooKeeperServer, eye: Any, zk_path: str, tmp_path: Path
    ) -> None:
        kept = tmp_path / "session.json"
        zk = ZooKeeper(parse_ensemble(zookeeper.connect), SESSION_S, session_file=kept)
        zk.start()
        zk.keep(f"{zk_path}/a", b"host:1")
        await standing(zk, f"{zk_path}/a")
        before = eye.exists(f"{zk_path}/a").ephemeralOwner
        await asyncio.to_thread(end_session, zookeeper, kept)
        await eventually(lambda: (found := eye.exists(f"{zk_path}/a")) and found.ephemeralOwner != before, "a new session owns it")
        await zk.close()

    async def test_a_znode_no_longer_wanted_stays_away(self, zookeeper: ZooKeeperServer, eye: Any, zk_path: str, tmp_path: Path) -> None:
        kept = tmp_path / "session.json"
        zk = ZooKeeper(parse_ensemble(zookeeper.connect), SESSION_S, session_file=kept)
        zk.start()
        zk.keep(f"{zk_path}/a", b"host:1")
        zk.keep(f"{zk_path}/b", b"host:2")
        await standing(zk, f"{zk_path}/b")
        await zk.drop(f"{zk_path}/a")
        before = eye.exists(f"{zk_path}/b").ephemeralOwner
        await asyncio.to_thread(end_session, zookeeper, kept)
        await eventually(lambda: (found := eye.exists(f"{zk_path}/b")) and found.ephemeralOwner != before, "the other one is back")
        assert eye.exists(f"{zk_path}/a") is None
        await zk.close()


CHILD = """
import asyncio, sys
from pathlib import Path
from tarn_common import logs
from tarn_common.endpoint import parse_ensemble
from tarn_common.zookeeper import ZooKeeper
async def main():
    logs.configure()
    zk = ZooKeeper(parse_ensemble(sys.argv[1]), 10.0, session_file=Path(sys.argv[3]))
    zk.start()
    zk.keep(sys.argv[2], b"host:1")
    while not zk.stands(sys.argv[2]):
        await asyncio.sleep(0.01)
    print("stands", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


class TestProcessKilledAndStartedAgain:
    async def test_its_znode_never_goes(self, zookeeper: ZooKeeperServer, eye: Any, zk_path: str, tmp_path: Path) -> None:
        path, kept = f"{zk_path}/a", tmp_path / "session.json"
        child = subprocess.Popen([sys.executable, "-c", CHILD, zookeeper.connect, path, str(kept)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        try:
            assert await asyncio.to_thread(child.stdout.readline) == b"stands\n"
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        before = eye.exists(path)
        zk = ZooKeeper(parse_ensemble(zookeeper.connect), 10.0, session_file=kept)
        zk.start()
        zk.keep(path, b"host:1")
        await standing(zk, path)
        after = eye.exists(path)
        assert (after.czxid, after.ephemeralOwner) == (before.czxid, before.ephemeralOwner)
        await zk.close()
        assert eye.exists(path) is None

    async def test_a_session_file_of_rubbish_begins_a_new_session(self, zookeeper: ZooKeeperServer, zk_path: str, tmp_path: Path) -> None:
        kept = tmp_path / "session.json"
        for rubbish in (b"", b"\xff\x00", b"[]", b'{"hosts": 1}', b'{"session_id": 1e999, "password": "", "hosts": ""}'):
            kept.write_bytes(rubbish)
            zk = ZooKeeper(parse_ensemble(zookeeper.connect), SESSION_S, session_file=kept)
            zk.start()
            zk.keep(f"{zk_path}/a", b"host:1")
            await standing(zk, f"{zk_path}/a")
            await zk.close()


class TestServerAway:
    @pytest.mark.parametrize("forgets", [False, True], ids=["keeps its data", "forgets everything"])
    async def test_stopped_for_longer_than_the_session_and_started_again(
        self, own_zookeeper: ZooKeeperServer, zk_path: str, forgets: bool
    ) -> None:
        with capture_logs() as logs:
            zk = ZooKeeper(parse_ensemble(own_zookeeper.connect), 1.0)
            zk.start()
            zk.keep(f"{zk_path}/a", b"host:1")
            await standing(zk, f"{zk_path}/a")
            await asyncio.to_thread(own_zookeeper.stop)
            await eventually(lambda: not zk.connected, "the loss is seen")
            await eventually(lambda: not zk.stands(f"{zk_path}/a"), "the session's time is over")
            if forgets:
                own_zookeeper.forget()
            await asyncio.to_thread(own_zookeeper.start)
            await standing(zk, f"{zk_path}/a")
            assert await zk.children(zk_path) == ["a"]
            assert await zk.get(f"{zk_path}/a") == b"host:1"
            await zk.close()
        loud = [line["event"] for line in logs if line["log_level"] in ("warning", "error")]
        assert loud == ["zookeeper_lost"]
        assert [line["event"] for line in logs].count("zookeeper_back") == 1

    async def test_a_wish_made_while_it_is_away_is_met_when_it_is_back(self, own_zookeeper: ZooKeeperServer, zk_path: str) -> None:
        zk = ZooKeeper(parse_ensemble(own_zookeeper.connect), SESSION_S)
        zk.start()
        zk.keep(f"{zk_path}/a", b"host:1")
        await standing(zk, f"{zk_path}/a")
        await asyncio.to_thread(own_zookeeper.kill)
        await eventually(lambda: not zk.connected, "the loss is seen")
        assert not await zk.drop(f"{zk_path}/a")
        zk.keep(f"{zk_path}/b", b"host:2")
        await asyncio.to_thread(own_zookeeper.start)
        await standing(zk, f"{zk_path}/b")
        await eventually(lambda: zk.drop(f"{zk_path}/a"), "the drop is confirmed")
        assert await zk.children(zk_path) == ["b"]
        await zk.close()

    async def test_hung_server_holds_up_neither_a_drop_nor_the_close(self, own_zookeeper: ZooKeeperServer, zk_path: str) -> None:
        zk = ZooKeeper(parse_ensemble(own_zookeeper.connect), 30.0)
        zk.start()
        zk.keep(f"{zk_path}/a", b"host:1")
        await standing(zk, f"{zk_path}/a")
        own_zookeeper.signal(signal.SIGSTOP)
        assert not await zk.drop(f"{zk_path}/a", deadline_s=0.2)
        await zk.close(deadline_s=0.2)

    async def test_never_there_is_told_once_and_ends_at_once(self, zk_path: str) -> None:
        with capture_logs() as logs:
            zk = ZooKeeper(parse_ensemble("127.0.0.1:1,no-such-host.invalid:2181"), 1.0)
            zk.start()
            zk.keep(f"{zk_path}/a", b"host:1")
            await eventually(lambda: [line for line in logs if line["log_level"] == "warning"], "it is told")
            assert not await zk.drop(f"{zk_path}/a")
            await zk.close()
        assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["zookeeper_unreachable"]


class TestWrongBytesOnThePort:
    async def test_the_right_server_is_found_after_them(
        self, own_zookeeper: ZooKeeperServer, zk_path: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        await asyncio.to_thread(own_zookeeper.stop)
        answers = iter([b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x00\x00\x04abcd", b"\xff\xff\xff\xff", b"\x00\x00\x00\x00"])
        served = 0

        async def babble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal served
            served += 1
            writer.write(next(answers, b""))
            writer.close()

        stranger = await asyncio.start_server(babble, "127.0.0.1", own_zookeeper.port)
        zk = ZooKeeper(parse_ensemble(own_zookeeper.connect), 1.0)
        zk.start()
        zk.keep(f"{zk_path}/a", b"host:1")
        await eventually(lambda: served >= 5, "all answers were given")
        stranger.close()
        await stranger.wait_closed()
        await asyncio.to_thread(own_zookeeper.start)
        await standing(zk, f"{zk_path}/a")
        await zk.close()
        assert "Traceback" not in capfd.readouterr().err


class TestDigest:
    async def test_the_world_reads_and_only_the_owner_changes(self, zookeeper: ZooKeeperServer, eye: Any, zk_path: str) -> None:
        zk = ZooKeeper(parse_ensemble(zookeeper.connect), SESSION_S, login=parse_login("tarn:a-password"))
        zk.start()
        zk.keep(f"{zk_path}/a", b"host:1")
        await standing(zk, f"{zk_path}/a")
        assert eye.get(f"{zk_path}/a")[0] == b"host:1"
        with pytest.raises(NoAuthError):
            eye.set(f"{zk_path}/a", b"mallory:1")
        with pytest.raises(NoAuthError):
            eye.delete(f"{zk_path}/a")
        with pytest.raises(NoAuthError):
            eye.create(f"{zk_path}/mallory", b"mallory:1")
        zk.keep(f"{zk_path}/a", b"host:2")
        await eventually(lambda: eye.get(f"{zk_path}/a")[0] == b"host:2", "the owner may change it")
        await zk.close()

    async def test_a_refusal_is_told_once_with_its_cause(self, zookeeper: ZooKeeperServer, zk_path: str) -> None:
        owner = ZooKeeper(parse_ensemble(zookeeper.connect), SESSION_S, login=parse_login("tarn:a-password"))
        owner.start()
        owner.keep(f"{zk_path}/a", b"host:1")
        await standing(owner, f"{zk_path}/a")
        with capture_logs() as logs:
            stranger = ZooKeeper(parse_ensemble(zookeeper.connect), SESSION_S)
            stranger.start()
            stranger.keep(f"{zk_path}/b", b"host:2")
            await eventually(lambda: [line for line in logs if line["log_level"] == "warning"], "the refusal is told")
            await stranger.close()
        await owner.close()
        told = [line for line in logs if line["log_level"] == "warning"]
        assert len(told) == 1
        assert "check the znode's ACL" in told[0]["error"]


class TestFollowing:
    async def test_every_change_is_told_through_a_restart(self, own_zookeeper: ZooKeeperServer, zk_path: str) -> None:
        path, seen = f"{zk_path}/am", list[bytes | None]()
        follower = ZooKeeper(parse_ensemble(own_zookeeper.connect), SESSION_S)
        owner = ZooKeeper(parse_ensemble(own_zookeeper.connect), SESSION_S)
        follower.follow(path, seen.append)
        follower.start()
        owner.start()
        await eventually(lambda: seen[-1:] == [None], "there is none")
        owner.keep(path, b"one")
        await eventually(lambda: seen[-1] == b"one", "it came")
        owner.keep(path, b"two")
        await eventually(lambda: seen[-1] == b"two", "it changed")
        await asyncio.to_thread(own_zookeeper.kill)
        await asyncio.to_thread(own_zookeeper.start)
        owner.keep(path, b"three")
        await eventually(lambda: seen[-1] == b"three", "it changed after the restart")
        await owner.close()
        await eventually(lambda: seen[-1] is None, "it went")
        await follower.close()


def test_no_thread_of_the_library_holds_the_processs_end(zookeeper: ZooKeeperServer, tmp_path: Path) -> None:
    program = CHILD.replace("await asyncio.sleep(600)", "return")
    done = subprocess.run(
        [sys.executable, "-c", program, zookeeper.connect, "/t-end", str(tmp_path / "session.json")],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"stands\n")
    assert b"Traceback" not in done.stderr
