"""The `tarn` command against the real HTTP API of a fleet in memory: what a person reads, and what a script relies on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tarn_am.api import views
from tarn_am.api.server import ApiServer
from tarn_am.cli.outcome import Outcome
from tarn_am.core.model import Happening, Phase
from tarn_am.settings import AmSettings
from tarn_common.endpoint import HostPort, Rendezvous, am_path, parse_ensemble
from tarn_common.zookeeper import ZooKeeper
from tests.rigs import command
from tests.rigs.command import Ran, on_terminal, tarn
from tests.rigs.fake_fleet import APPLICATION, FakeFleet, SetClock, container, fleet_view, ready, staging
from tests.rigs.secrets import planted
from tests.rigs.wait import eventually
from tests.rigs.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.real


@dataclass
class Am:
    """An Application Master's API with a token, and the state directory that `tarn local` would have left."""

    fleet: FakeFleet
    server: ApiServer
    url: str
    home: Path
    token: str = field(repr=False)

    @property
    def state_dir(self) -> Path:
        return self.home / ".local" / "state" / "tarn" / "tarn"

    async def tarn(self, *arguments: str, **environ: str) -> Ran:
        return await tarn(self.home, *arguments, **environ)

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await command.start(arguments, command.environment(self.home))


@pytest.fixture
async def am(tmp_path: Path) -> AsyncIterator[Am]:
    fleet, token = FakeFleet(), planted("api-token")
    server = ApiServer(fleet, AmSettings(model_repository="/models", am_port=0), token, SetClock())
    at = await server.start()
    found = Am(fleet, server, f"http://{at}", tmp_path, token)
    found.state_dir.mkdir(parents=True)
    (found.state_dir / "token").touch(0o600)
    (found.state_dir / "token").write_text(token + "\n")
    (found.state_dir / "am.json").write_bytes(Rendezvous(HostPort("127.0.0.1", 1), found.url, "am1").encode())
    yield found
    await server.close()


def one_line(ran: Ran) -> str:
    """What the command complained about: exactly one line, and no traceback."""
    lines = ran.err.strip().splitlines()
    assert len(lines) == 1, ran.err
    return lines[0]


class TestWhatAPersonSees:
    async def test_status_says_what_serves_and_why_the_rest_does_not(self, am: Am) -> None:
        am.fleet.put(fleet_view(ready(1), staging(2), replace(ready(3), phase=Phase.UNREADY, reason="Triton does not answer")))
        ran = await am.tarn("status")
        assert ran.status == Outcome.OK
        assert ran.out.startswith("DEGRADED  1 of 3 instances READY\n")
        rows = [line.split("  ") for line in ran.out.splitlines() if line.startswith("container_")]
        assert [row[0] for row in rows] == [container(1), container(2), container(3)]
        assert "75 % of 4.0 GiB, 7/9 files" in ran.out
        assert "Triton does not answer" in ran.out

    async def test_a_hung_application_master_is_told(self, am: Am) -> None:
        am.fleet.put(fleet_view(ready(1), at=am.fleet.current.at - 60))
        ran = await am.tarn("status")
        assert ran.out.splitlines()[:2] == ["UNKNOWN  1 of 1 instances READY", "the Application Master's loop has not turned for 60 s"]

    async def test_instances_are_those_that_serve(self, am: Am) -> None:
        am.fleet.put(fleet_view(ready(1), staging(2)))
        ran = await am.tarn("instances")
        assert ran.out.splitlines()[0].split() == ["INSTANCE", "NODE", "HTTP", "GRPC", "METRICS", "MODELS"]
        assert [line.split() for line in ran.out.splitlines()[1:]] == [
            [container(1), "node1", "127.0.0.1:20001", "127.0.0.1:30001", "127.0.0.1:40001", "identity"]
        ]

    async def test_no_instance_is_said_and_is_no_error(self, am: Am) -> None:
        am.fleet.put(fleet_view())
        ran = await am.tarn("instances")
        assert (ran.status, ran.out) == (Outcome.OK, "")
        assert one_line(ran) == "no instance is READY; `tarn status` says why"

    async def test_addresses_are_what_a_balancer_reads(self, am: Am) -> None:
        assert (await am.tarn("instances", "--addresses")).out == "127.0.0.1:20001\n127.0.0.1:20002\n"

    async def test_config_is_shown_without_secrets(self, am: Am) -> None:
        ran = await am.tarn("config")
        assert ["model_repository", "/models"] in [line.split() for line in ran.out.splitlines()]

    async def test_a_sentence_cannot_move_the_cursor(self, am: Am) -> None:
        am.fleet.put(fleet_view(ready(1), happenings=(Happening(1.0, "a\x1b[2Jb\x9bc\rd"),), verdict="\x1b]0;title\x07x"))
        out = (await am.tarn("status")).out
        assert not {"\x1b", "\x07", "\x9b", "\r"} & set(out)

    async def test_colours_only_on_a_terminal_that_wants_them(self, am: Am) -> None:
        assert "\x1b[32m" in (await on_terminal(am.home, "status")).out
        assert "\x1b[" not in (await on_terminal(am.home, "status", NO_COLOR="1")).out
        assert "\x1b[" not in (await am.tarn("status")).out


class TestWhatAProgramReads:
    async def test_status_is_the_one_structure(self, am: Am) -> None:
        assert json.loads((await am.tarn("status", "--json")).out) == views.status(am.fleet.view())

    async def test_instances(self, am: Am) -> None:
        assert json.loads((await am.tarn("instances", "--json")).out) == views.instances_json(am.fleet.view())

    async def test_config(self, am: Am) -> None:
        assert json.loads((await am.tarn("config", "--json")).out)["model_repository"] == "/models"

    async def test_the_outcome_of_orders(self, am: Am) -> None:
        assert json.loads((await am.tarn("scale", "3", "--json")).out)["counts"]["wanted"] == 3
        assert json.loads((await am.tarn("drain", "1", "--json")).out)["phase"] == "DRAINING"
        assert json.loads((await am.tarn("model", "reload", "2", "identity", "--json")).out)["action"] == "reload"


class TestScale:
    async def test_orders_and_returns(self, am: Am) -> None:
        ran = await am.tarn("scale", "4")
        assert ran.status == Outcome.OK
        assert ran.out.startswith("the target is 4; 2 READY now")
        assert [order[:2] for order in am.fleet.orders] == [("scale", "4")]

    async def test_waits_until_all_are_ready(self, am: Am) -> None:
        am.fleet.put(fleet_view(ready(1), ready(2), staging(3), wanted=2))
        process = await am.start("scale", "3", "--wait")
        assert process.stderr is not None
        assert b"instance 3 STAGING 75 %" in await asyncio.wait_for(process.stderr.readline(), 60)
        am.fleet.change(instances=(ready(1), ready(2), ready(3)))
        ran = await command.ended(process)
        assert (ran.status, ran.out) == (Outcome.OK, "3 of 3 instances READY\n")

    async def test_a_wait_that_is_over_has_its_own_exit_code(self, am: Am) -> None:
        ran = await am.tarn("scale", "3", "--wait", "--wait-s", "0.1")
        assert ran.status == Outcome.TIMED_OUT
        assert "tarn scale: 3 READY instances did not come within 0.1 s" in ran.err

    async def test_a_fleet_that_gave_up_ends_the_wait(self, am: Am) -> None:
        am.fleet.change(halted="5 instances failed in a row")
        ran = await am.tarn("scale", "3", "--wait")
        assert (ran.status, one_line(ran)) == (Outcome.FAILED, "tarn scale: 5 instances failed in a row")

    async def test_a_number_that_the_fleet_refuses(self, am: Am) -> None:
        ran = await am.tarn("scale", "11")
        assert (ran.status, one_line(ran)) == (
            Outcome.FAILED,
            "tarn scale: 11 instances are not between the minimum 0 and the maximum 10",
        )

    async def test_somebody_else_who_sets_another_target(self, am: Am) -> None:
        process = await am.start("scale", "3", "--wait")
        await eventually(lambda: am.fleet.orders, "the order")
        await am.fleet.scale(5, "somebody")
        assert (await command.ended(process)).status == Outcome.FAILED


class TestDrain:
    @pytest.mark.parametrize("name", ["2", "000002", container(2)])
    async def test_an_instance_by_its_number_or_its_id(self, am: Am, name: str) -> None:
        ran = await am.tarn("drain", name)
        assert (ran.status, ran.out) == (Outcome.OK, f"{container(2)} drains\n")
        assert am.fleet.orders[0][:2] == ("drain", container(2))

    async def test_an_instance_that_is_not_there_names_those_that_are(self, am: Am) -> None:
        ran = await am.tarn("drain", "7")
        assert ran.status == Outcome.USAGE
        assert one_line(ran) == f"tarn drain: '7' is no instance of this application: there are: {container(1)}, {container(2)}"
        assert am.fleet.orders == []

    @pytest.mark.parametrize(("phase", "status"), [(Phase.STOPPED, Outcome.OK), (Phase.FAILED, Outcome.FAILED)])
    async def test_waits_for_its_end_and_says_which_end_it_was(self, am: Am, phase: Phase, status: Outcome) -> None:
        process = await am.start("drain", "2", "--wait")
        await eventually(lambda: am.fleet.orders, "the order")
        am.fleet.change(instances=(ready(1),), ended=(ready(2, phase=phase, reason="its node went away"),))
        ran = await command.ended(process)
        assert ran.status == status
        assert ("its node went away" in ran.err) == (phase is Phase.FAILED)


class TestLogs:
    async def test_the_last_lines_of_one_instance(self, am: Am) -> None:
        am.fleet.logs[container(2)] = ["first", "second", "third"]
        ran = await am.tarn("logs", "2", "--lines", "2", "--source", "agent")
        assert (ran.status, ran.out) == (Outcome.OK, "agent: second\nagent: third\n")

    async def test_all_instances_with_their_numbers(self, am: Am) -> None:
        am.fleet.logs = {container(1): ["one"], container(2): ["two"]}
        ran = await am.tarn("logs")
        assert sorted(ran.out.splitlines()) == ["  1 | triton: one", "  2 | triton: two"]

    async def test_followed_until_ctrl_c(self, am: Am) -> None:
        process = await am.start("logs", "-f", "2")
        assert process.stdout is not None
        am.fleet.more.put_nowait("grown")
        assert await asyncio.wait_for(process.stdout.readline(), 60) == b"grown\n"
        process.send_signal(signal.SIGINT)
        ran = await command.ended(process)
        assert (ran.status, ran.err.strip()) == (Outcome.INTERRUPTED, "")
        await asyncio.wait_for(am.fleet.tails_ended.wait(), 60)

    async def test_as_an_object_a_line(self, am: Am) -> None:
        plain, read = await am.tarn("logs", "2"), await am.tarn("logs", "2", "--json")
        found = [json.loads(line) for line in read.out.splitlines()]
        assert [one["line"] for one in found] == plain.out.splitlines()
        assert all(one["instance"].endswith("_000002") for one in found)

    async def test_a_reader_who_has_had_enough(self, am: Am) -> None:
        am.fleet.logs[container(2)] = ["line " * 20] * 9_000
        ours, theirs = os.pipe()
        process = await command.start(("logs", "2", "--lines", "9000"), command.environment(am.home), stdout=theirs)
        os.close(theirs)
        assert await asyncio.to_thread(os.read, ours, 10) == b"triton: li"
        os.close(ours)
        ran = await command.ended(process)
        assert (ran.status, ran.err) == (Outcome.OK, "")

    async def test_an_instance_whose_agent_is_away(self, am: Am) -> None:
        am.fleet.disconnected.add(container(2))
        ran = await am.tarn("logs", "2")
        assert ran.status == Outcome.FAILED
        assert one_line(ran).startswith(f"tarn logs: the agent of {container(2)} is not connected now")


class TestModel:
    async def test_is_loaded(self, am: Am) -> None:
        ran = await am.tarn("model", "load", "2", "resnet")
        assert (ran.status, ran.out) == (Outcome.OK, f"resnet loaded in {container(2)}\n")
        assert am.fleet.orders == [("model", container(2), "load", "resnet")]

    async def test_that_will_not_load_says_why(self, am: Am) -> None:
        am.fleet.broken_models["resnet"] = "failed to load 'resnet': no such file"
        ran = await am.tarn("model", "load", "2", "resnet")
        assert (ran.status, one_line(ran)) == (Outcome.FAILED, "tarn model: failed to load 'resnet': no such file")


class TestStop:
    async def test_orders_and_returns(self, am: Am) -> None:
        ran = await am.tarn("stop", "--no-wait")
        assert (ran.status, ran.out) == (Outcome.OK, "the application drains and ends\n")
        assert [order[0] for order in am.fleet.orders] == ["stop"]

    async def test_in_json(self, am: Am) -> None:
        ran = await am.tarn("stop", "--no-wait", "--json")
        assert json.loads(ran.out) == {"stopping": True, "ended": False}

    async def test_waits_until_the_application_master_is_gone(self, am: Am) -> None:
        process = await am.start("stop")
        await eventually(lambda: am.fleet.orders, "the order")
        await am.server.close()
        ran = await command.ended(process)
        assert (ran.status, ran.out) == (Outcome.OK, "the application has ended\n")


class TestWhereTheApplicationMasterIs:
    async def test_a_url(self, am: Am) -> None:
        token = am.state_dir / "token"
        assert (await am.tarn("--am", am.url, "--token-file", str(token), "instances")).status == Outcome.OK
        assert (await am.tarn("instances", "--am", am.url, "--token-file", str(token))).status == Outcome.OK
        assert (await am.tarn("instances", TARN_AM_URL=am.url, TARN_TOKEN_FILE=str(token))).status == Outcome.OK

    async def test_a_state_directory(self, am: Am) -> None:
        assert (await am.tarn("instances", "--state-dir", str(am.state_dir), HOME="/nowhere")).status == Outcome.OK
        assert (await am.tarn("instances", TARN_STATE_DIR=str(am.state_dir), HOME="/nowhere")).status == Outcome.OK
        assert (await am.tarn("instances", TARN_HOME=str(am.state_dir.parent), HOME="/nowhere")).status == Outcome.OK

    async def test_zookeeper(self, am: Am, zookeeper: ZooKeeperServer, zk_path: str) -> None:
        path = f"{zk_path}/instances"
        keeper = ZooKeeper(parse_ensemble(zookeeper.connect), 10.0)
        keeper.start()
        try:
            keeper.keep(am_path(path, APPLICATION), Rendezvous(HostPort("127.0.0.1", 1), am.url, "am1").encode())
            await eventually(lambda: keeper.stands(am_path(path, APPLICATION)), "the znode")
            where = ("--zk-ensemble", zookeeper.connect, "--zk-path", path, "--token-file", str(am.state_dir / "token"))
            for more in ((), ("--application", APPLICATION)):
                ran = await am.tarn("instances", "--addresses", *where, *more)
                assert (ran.status, ran.out, ran.err) == (Outcome.OK, "127.0.0.1:20001\n127.0.0.1:20002\n", "")
            other = await am.tarn("instances", *where, "--application", "application_1700000000000_0009")
            assert other.status == Outcome.UNREACHABLE
            assert "application_1700000000000_0009" in one_line(other)
        finally:
            await keeper.close()

    async def test_no_zookeeper_at_the_address(self, am: Am) -> None:
        ran = await am.tarn("instances", "--zk-ensemble", "127.0.0.1:1", "--timeout-s", "0.5")
        assert ran.status == Outcome.UNREACHABLE
        assert one_line(ran).startswith("tarn instances: ZooKeeper at 127.0.0.1:1 does not answer within 0.5 s")

    async def test_a_token_found_beside_one_address_is_not_sent_to_another(self, am: Am) -> None:
        assert (await am.tarn("instances", "--am", am.url)).status == Outcome.UNAUTHORISED


class TestNoApplicationMaster:
    async def test_none_was_ever_started(self, tmp_path: Path) -> None:
        ran = await tarn(tmp_path, "status")
        assert ran.status == Outcome.UNREACHABLE
        assert "tarn local" in one_line(ran)
        assert str(tmp_path / ".local/state/tarn/tarn") in one_line(ran)

    async def test_it_died_and_left_its_record(self, am: Am) -> None:
        await am.server.close()
        ran = await am.tarn("status")
        assert ran.status == Outcome.UNREACHABLE
        assert str(am.state_dir / "am.json") in one_line(ran)
        assert "Connection refused" in one_line(ran)
        assert "takes over" in one_line(ran)

    async def test_something_else_answers(self, am: Am) -> None:
        async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n<html>hi</html")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(other, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for verb in (("status",), ("instances",), ("scale", "2"), ("logs",), ("stop",)):
            ran = await am.tarn("--am", url, *verb)
            assert ran.status == Outcome.UNREACHABLE
            assert f"what answers at {url} (from --am) is not an Application Master" in one_line(ran)
        server.close()

    async def test_garbage_answers(self, am: Am) -> None:
        async def other(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"\x00\xff" * 3000)
            writer.close()

        server = await asyncio.start_server(other, "127.0.0.1", 0)
        ran = await am.tarn("--am", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "status")
        assert (ran.status, len(ran.err.splitlines())) == (Outcome.UNREACHABLE, 1)
        server.close()

    async def test_it_accepts_and_says_nothing(self, am: Am) -> None:
        hung = asyncio.Event()

        async def other(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await hung.wait()
            writer.close()

        server = await asyncio.start_server(other, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ran = await am.tarn("--am", url, "--timeout-s", "0.3", "status")
        hung.set()
        assert ran.status == Outcome.UNREACHABLE
        assert "no answer in time" in one_line(ran)
        server.close()


class TestTheToken:
    async def test_is_wanted(self, am: Am) -> None:
        (am.state_dir / "token").unlink()
        ran = await am.tarn("status")
        assert ran.status == Outcome.UNAUTHORISED
        assert "--token-file" in one_line(ran)

    async def test_is_another(self, am: Am) -> None:
        other = am.home / "other"
        other.write_text("another-token")
        ran = await am.tarn("status", "--token-file", str(other))
        assert ran.status == Outcome.UNAUTHORISED
        assert "wants another token" in one_line(ran)

    @pytest.mark.parametrize("content", [b"", b"two words", b"line\nline", "ü".encode(), b"\xff\xfe"])
    async def test_in_a_file_that_holds_none(self, am: Am, content: bytes) -> None:
        (am.home / "bad").write_bytes(content)
        ran = await am.tarn("status", "--token-file", str(am.home / "bad"))
        assert ran.status == Outcome.USAGE
        assert str(am.home / "bad") in one_line(ran)

    async def test_on_the_command_line_is_taken_with_a_warning(self, am: Am) -> None:
        (am.state_dir / "token").unlink()
        ran = await am.tarn("instances", "--addresses", "--token", am.token)
        assert (ran.status, ran.out) == (Outcome.OK, "127.0.0.1:20001\n127.0.0.1:20002\n")
        assert "--token-file" in one_line(ran)

    async def test_is_never_shown(self, am: Am) -> None:
        runs = [await am.tarn(*verb) for verb in (("status",), ("config",), ("status", "--json"), ("scale", "99"), ("drain", "99"))]
        await am.server.close()
        runs.append(await am.tarn("status"))
        assert all(am.token not in ran.out + ran.err for ran in runs)


MISTAKES: list[tuple[tuple[str, ...], str]] = [
    (("scal", "3"), "tarn: 'scal' is no verb; did you mean 'scale'?"),
    (("scale", "3", "--wiat"), "tarn scale: '--wiat' is no option of this verb; did you mean '--wait'?"),
    (("scale", "three"), "tarn scale: 'three' is no number of instances; give a whole number from 0 to 10000, such as 3"),
    (("scale", "-1"), "tarn scale: '-1' is no number that can be given here: give a whole number from 0 on"),
    (("scale", "9" * 5000), "tarn scale: '9999999999999999999999999999999999999...' is no number of instances"),
    (("scale",), "tarn scale: Missing argument 'N'."),
    (("scale", "3", "--wait-s", "long"), "tarn scale: --wait-s='long' is no number of seconds"),
    (("model", "lod", "2", "identity"), "tarn model: 'lod' is not one of 'load', 'unload', 'reload'; did you mean 'load'?"),
    (
        ("logs", "--source", "trition"),
        "tarn logs: --source='trition' is not one of 'triton', 'agent', 'supervisord'; did you mean 'triton'?",
    ),
    (("status", "--am", "am:8888"), "tarn status: --am='am:8888': not the base URL of an Application Master"),
    (("status", "--am", "http://am:99999"), "tarn status: --am='http://am:99999': not the base URL"),
    (("status", "--am", "http://[::1"), "tarn status: --am='http://[::1': not the base URL"),
    (("status", "--am", "http://am/é"), "tarn status: --am='http://am/é': not the base URL"),
    (("status", "--am", f"http://{'a' * 70}:1"), f"tarn status: --am='http://{'a' * 70}:1': not the base URL"),
    (("status", "--token", ""), "tarn status: --token does not hold a token"),
    (("status", "--token", "two\nlines"), "tarn status: --token does not hold a token: it is one word"),
    (("status", "--token-file", "/dev/zero"), "tarn status: the token file /dev/zero does not hold one token"),
    (("status", "--token-file", "~nobody-of-this-name/x"), "tarn status: --token-file='~nobody-of-this-name/x': nobody of that name"),
    (("status", "--state-dir", "~nobody-of-this-name/x"), "tarn status: --state-dir='~nobody-of-this-name/x': nobody of that name"),
    (("local", "--model-repository", "/m", "--token", ""), "tarn local: --token does not hold a token"),
    (("local", "--model-repository", "/m", "--env", "MY-PASS=x"), "tarn local: --env: 'MY-PASS' is no name of a variable"),
    (("local", "--model-repository", "n" * 300), f"tarn local: --model-repository='{'n' * 300}' is no directory"),
    (("status", "--timeout-s", "soon"), "tarn status: --timeout-s='soon' is not a number"),
    (("status", "--zk-ensemble", "zk1:port"), "tarn status: --zk-ensemble='zk1:port': 'zk1:port' is not host:port"),
    (("status", "--name", "../x"), "tarn status: --name='../x' cannot be the name of a directory"),
    (("local",), "tarn local: --model-repository is not given: give it, or TARN_MODEL_REPOSITORY"),
    (("local", "--model-repository", "nowhere"), "tarn local: --model-repository='nowhere' is no directory"),
    (("local", "--model-repository", "/m", "--min-instances", "5", "--max-instances", "3"), "tarn local: --min-instances 5 is more than"),
    (("local", "--model-repository", "/m", "--am-port", "http"), "tarn local: --am-port='http' is not a whole number"),
    (
        ("local", "--model-repository", "/m", "--am-port", "70000"),
        "tarn local: --am-port=70000 is out of range: give a value between 0 and 65535",
    ),
    (
        ("local", "--model-repository", "/m", "--model-failure", "strct"),
        "tarn local: --model-failure='strct' is not one of strict, partial",
    ),
    (("local", "--model-repository", "/m", "--log-level", "LOUD"), "tarn local: --log-level='LOUD'"),
    (("local", "--model-repository", "/m", "--no-token", "--token", "x"), "tarn local: --no-token contradicts the token"),
    (("completion", "csh"), "tarn completion: 'csh' is not one of 'bash', 'zsh', 'fish'"),
]


class TestWhereNothingCanBeWritten:
    @pytest.mark.parametrize("arguments", [("--version",), ("status",)])
    async def test_a_full_disk_behind_stdout_is_one_line(self, am: Am, arguments: tuple[str, ...]) -> None:
        with open("/dev/full", "w") as full:
            ran = await command.ended(await command.start(arguments, command.environment(am.home), full.fileno()))
        assert ran.status == Outcome.FAILED
        assert one_line(ran).endswith("the output cannot be written: No space left on device")

    async def test_a_stdout_that_is_closed_is_no_error(self, am: Am) -> None:
        shell = await asyncio.create_subprocess_exec(
            "sh", "-c", 'exec "$0" status >&-', str(command.TARN), env=command.environment(am.home), stderr=asyncio.subprocess.PIPE
        )
        assert (await shell.communicate())[1] == b""
        assert shell.returncode == Outcome.OK


class TestAMistakeIsOneLineWithTheFix:
    @pytest.mark.parametrize(("arguments", "line"), MISTAKES, ids=[" ".join(arguments)[:80] for arguments, _ in MISTAKES])
    async def test_on_the_command_line(self, tmp_path: Path, arguments: tuple[str, ...], line: str) -> None:
        ran = await tarn(tmp_path, *arguments)
        assert (ran.status, ran.out) == (Outcome.USAGE, "")
        assert one_line(ran).startswith(line)

    async def test_in_the_environment(self, tmp_path: Path) -> None:
        ran = await tarn(tmp_path, "local", TARN_MODEL_REPOSITORY="/m", TARN_MIN_INSTANCES="many")
        assert (ran.status, one_line(ran)) == (Outcome.USAGE, "tarn local: TARN_MIN_INSTANCES='many' is not a whole number")


class TestHelp:
    async def test_of_every_verb_has_examples_and_the_command_line_its_exit_codes(self, tmp_path: Path) -> None:
        from tarn_am.cli.main import _VERBS

        whole = await tarn(tmp_path, "--help")
        assert whole.status == Outcome.OK
        assert all(outcome.meaning in whole.out for outcome in Outcome)
        for verb in _VERBS:
            ran = await tarn(tmp_path, verb, "--help")
            assert (ran.status, ran.err) == (Outcome.OK, "")
            assert f"tarn {verb}" in ran.out.partition("Examples:")[2]

    async def test_version(self, tmp_path: Path) -> None:
        assert (await tarn(tmp_path, "--version")).out == "tarn 0.1.0\n"

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    async def test_completion_of_each_shell(self, tmp_path: Path, shell: str) -> None:
        ran = await tarn(tmp_path, "completion", shell)
        assert (ran.status, "_TARN_COMPLETE" in ran.out) == (Outcome.OK, True)

    async def test_a_word_is_completed(self, tmp_path: Path) -> None:
        ran = await tarn(tmp_path, _TARN_COMPLETE="bash_complete", COMP_WORDS="tarn dr", COMP_CWORD="1")
        assert ran.out == "plain,drain\n"
        ran = await tarn(tmp_path, _TARN_COMPLETE="bash_complete", COMP_WORDS="tarn scale --wai", COMP_CWORD="2")
        assert "plain,--wait" in ran.out.splitlines()
