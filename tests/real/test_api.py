"""The HTTP API on real sockets, over a fleet in memory: every route, every refusal, and what tries to disturb it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import resource
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from urllib.parse import quote

import pytest

from tarn_am.api.server import ApiServer
from tarn_am.core.model import Phase
from tarn_am.ports import NotConnected, UnknownInstance
from tarn_am.settings import AmSettings
from tarn_common.ids import ContainerId
from tests.rigs.fake_fleet import APPLICATION, FakeFleet, SetClock, container, large_view, ready
from tests.rigs.raw_http import Answer, RawHttp
from tests.rigs.wait import eventually

pytestmark = pytest.mark.real
TOKEN = "sesame-0123456789"
WITH = f"X-TARN-Token: {TOKEN}"
JSON = "Content-Type: application/json"
FORM = "Content-Type: application/x-www-form-urlencoded"


class Api:
    """One server and the connections made to it."""

    def __init__(self, token: str | None, fleet: FakeFleet | None = None, max_connections: int = 1024) -> None:
        self.fleet, self.clock = fleet or FakeFleet(), SetClock()
        settings = AmSettings(model_repository="/models", am_port=0)
        self.server = ApiServer(self.fleet, settings, token, self.clock, max_connections)
        self.port = 0
        self._open: list[RawHttp] = []

    async def __aenter__(self) -> Api:
        self.port = (await self.server.start()).port
        return self

    async def __aexit__(self, *_: object) -> None:
        for one in self._open:
            await one.close()
        await self.server.close()

    async def connect(self) -> RawHttp:
        one = await RawHttp.connect(self.port)
        self._open.append(one)
        return one

    async def get(self, target: str, *headers: str) -> Answer:
        return await (await self.connect()).ask("GET", target, *headers)

    async def post(self, target: str, body: bytes, *headers: str, kind: str = JSON, host: str = "127.0.0.1") -> Answer:
        return await (await self.connect()).ask("POST", target, kind, *headers, body=body, host=host)


@pytest.fixture
async def closed() -> AsyncIterator[Api]:
    """With a token."""
    async with Api(TOKEN) as api:
        yield api


@pytest.fixture
async def opened() -> AsyncIterator[Api]:
    """Without one."""
    async with Api(None) as api:
        yield api


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Logged:
    caplog.set_level(logging.DEBUG)
    return Logged(caplog, capsys)


class Logged:
    """All that was written: structlog's lines and the standard library's."""

    def __init__(self, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
        self._caplog, self._capsys, self._seen = caplog, capsys, ""

    @property
    def text(self) -> str:
        out = self._capsys.readouterr()
        self._seen += out.out + out.err
        return self._seen + self._caplog.text


def error(answer: Answer, status: int) -> str:
    """The sentence of an error; every one has the same shape."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert set(answer.json) == {"error", "fix"}
    assert answer.json["error"]
    assert "Traceback" not in answer.body.decode()
    return str(answer.json["error"])


class TestTheList:
    async def test_is_a_line_an_instance(self, closed: Api) -> None:
        answer = await closed.get("/instances", WITH)
        assert answer.body == b"127.0.0.1:20001\n127.0.0.1:20002\n"
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["x-tarn-version"] == "am1-1"
        assert answer.headers["x-tarn-complete"] == "true"

    @pytest.mark.parametrize(
        ("accept", "is_json"),
        [("application/json", True), ("application/json, text/plain", True), ("text/plain, application/json", False), ("*/*", False)],
    )
    async def test_is_json_when_asked_for(self, closed: Api, accept: str, is_json: bool) -> None:
        answer = await closed.get("/instances", WITH, f"Accept: {accept}")
        assert answer.headers["content-type"].startswith("application/json" if is_json else "text/plain")
        assert answer.headers["x-tarn-version"] == "am1-1"
        if is_json:
            assert answer.json["version"] == "am1-1"
            assert [i["grpc_port"] for i in answer.json["instances"]] == [30001, 30002]

    async def test_follows_every_change(self, closed: Api) -> None:
        connection = await closed.connect()
        for count in (3, 0, 1):
            closed.fleet.change(instances=tuple(ready(number) for number in range(1, count + 1)))
            answer = await connection.ask("GET", "/instances", WITH)
            assert answer.body.count(b"\n") == count
            assert answer.headers["x-tarn-version"] == closed.fleet.view().listing_version

    async def test_shows_models_that_changed_while_the_list_did_not(self, closed: Api) -> None:
        await closed.get("/instances", WITH, "Accept: application/json")
        closed.fleet.change(instances=(ready(1, models=()), ready(2)))
        answer = await closed.get("/instances", WITH, "Accept: application/json")
        assert [i["models"] for i in answer.json["instances"]] == [[], ["identity"]]
        assert answer.json["version"] == "am1-1"

    async def test_is_not_sent_again_to_who_has_it(self, closed: Api) -> None:
        tag = (await closed.get("/instances", WITH)).headers["etag"]
        answer = await closed.get("/instances", WITH, f"If-None-Match: {tag}")
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["x-tarn-version"] == "am1-1"
        closed.fleet.change(instances=(ready(1),))
        assert (await closed.get("/instances", WITH, f"If-None-Match: {tag}")).status == 200

    async def test_says_that_it_is_incomplete_until_the_adopted_have_spoken(self, closed: Api) -> None:
        adopted = ready(2, phase=Phase.LAUNCHED, asked_at=closed.fleet.view().started_at - 9, incarnation="")
        closed.fleet.change(instances=(ready(1), adopted))
        answer = await closed.get("/instances", WITH, "Accept: application/json")
        assert answer.headers["x-tarn-complete"] == "false"
        assert answer.json["complete"] is False


class TestWatchingTheList:
    async def test_answers_at_once_when_the_version_differs(self, closed: Api) -> None:
        for known in ("am0-7", "", "nonsense", "%00%ff"):
            answer = await closed.get(f"/instances?watch={known}&timeout=300", WITH)
            assert answer.headers["x-tarn-version"] == "am1-1"

    async def test_answers_when_the_list_changes(self, closed: Api) -> None:
        waiting = asyncio.ensure_future(closed.get("/instances?watch=am1-1&timeout=300", WITH))
        await eventually(lambda: closed.server.waiting == 1, "the poll waits")
        closed.fleet.change(verdict="something else")
        closed.fleet.change(instances=(ready(1),))
        answer = await waiting
        assert answer.body == b"127.0.0.1:20001\n"
        assert answer.headers["x-tarn-version"] == closed.fleet.view().listing_version != "am1-1"

    async def test_answers_the_same_list_when_the_time_is_over(self, closed: Api) -> None:
        for timeout in ("0", "0.01"):
            answer = await closed.get(f"/instances?watch=am1-1&timeout={timeout}", WITH)
            assert (answer.status, answer.body) == (200, b"127.0.0.1:20001\n127.0.0.1:20002\n")

    async def test_answers_when_an_incomplete_list_becomes_complete(self, closed: Api) -> None:
        adopted = ready(2, phase=Phase.LAUNCHED, asked_at=closed.fleet.view().started_at - 9, incarnation="")
        known = closed.fleet.change(instances=(ready(1), adopted)).listing_version
        waiting = asyncio.ensure_future(closed.get(f"/instances?watch={known}&timeout=300", WITH))
        await eventually(lambda: closed.server.waiting == 1, "the poll waits")
        closed.fleet.change(instances=(ready(1), replace(adopted, incarnation="agent2", phase=Phase.UNREADY)))
        answer = await waiting
        assert (answer.headers["x-tarn-version"], answer.headers["x-tarn-complete"]) == (known, "true")

    @pytest.mark.parametrize("timeout", ["-1", "301", "nan", "inf", "1e9", "x", "", "1,5", "٣", "1" * 5000])
    async def test_refuses_a_time_that_is_none(self, closed: Api, timeout: str) -> None:
        assert "timeout" in error(await closed.get(f"/instances?watch=am1-1&timeout={quote(timeout)}", WITH), 400)

    async def test_refuses_a_timeout_without_a_watch(self, closed: Api) -> None:
        assert "without watch" in error(await closed.get("/instances?timeout=5", WITH), 400)

    async def test_ends_when_the_client_goes(self, closed: Api) -> None:
        connection = await closed.connect()
        await connection.send(f"GET /instances?watch=am1-1&timeout=300 HTTP/1.1\r\nHost: x\r\n{WITH}\r\n\r\n".encode())
        await eventually(lambda: closed.server.waiting == 1, "the poll waits")
        await connection.close()
        await eventually(lambda: closed.server.waiting == 0, "the poll ended with its client")

    async def test_leaves_connections_for_others(self) -> None:
        async with Api(None, max_connections=8) as api:
            waiting = [asyncio.ensure_future(api.get("/instances?watch=am1-1&timeout=300")) for _ in range(6)]
            await eventually(lambda: api.server.waiting == 6, "six polls wait")
            answer = await api.get("/instances?watch=am1-1&timeout=300")
            assert "wait" in error(answer, 503)
            assert answer.headers["retry-after"] == "5"
            api.fleet.change(instances=())
            assert {(await one).status for one in waiting} == {200}


class TestOrders:
    async def test_scale_sets_the_target(self, closed: Api) -> None:
        answer = await closed.post("/scale", b'{"instances": 5}', WITH)
        assert answer.status == 200
        assert answer.json["wanted"] == 5
        assert closed.fleet.orders == [("scale", "5", "127.0.0.1")]

    async def test_are_put_down_to_the_user_named_with_the_token(self, closed: Api) -> None:
        await closed.post("/scale", b'{"instances": 5}', WITH, "X-TARN-User: alice")
        assert closed.fleet.orders == [("scale", "5", "alice at 127.0.0.1")]

    @pytest.mark.parametrize("body", [b'{"instances": 11}', b'{"instances": -1}', b'{"instances": 99999999999999999999}'])
    async def test_scale_outside_the_limits_is_refused(self, closed: Api, body: bytes) -> None:
        assert "maximum 10" in error(await closed.post("/scale", body, WITH), 400)
        assert closed.fleet.orders == []

    async def test_drain_drains_one(self, closed: Api) -> None:
        answer = await closed.post("/drain", json.dumps({"instance": container(1)}).encode(), WITH)
        assert answer.status == 202
        assert answer.json["instance"] == container(1)
        assert (await closed.get("/instances", WITH)).body == b"127.0.0.1:20002\n"

    async def test_drain_of_nobody_names_who_is_there(self, closed: Api) -> None:
        sentence = error(await closed.post("/drain", json.dumps({"instance": container(9)}).encode(), WITH), 404)
        assert container(1) in sentence

    @pytest.mark.parametrize("name", ["x", "../../etc/passwd", "container_1_1_1_1", "<script>", "é" * 400])
    async def test_an_id_that_is_none_is_refused(self, closed: Api, name: str) -> None:
        assert "container" in error(await closed.post("/drain", json.dumps({"instance": name}).encode(), WITH), 400)

    async def test_stop_is_taken(self, closed: Api) -> None:
        answer = await closed.post("/stop", b"{}", WITH)
        assert (answer.status, answer.json) == (202, {"stopping": True})
        assert closed.fleet.orders == [("stop", "127.0.0.1")]

    @pytest.mark.parametrize("action", ["load", "unload", "reload"])
    async def test_model_goes_to_the_agent(self, closed: Api, action: str) -> None:
        body = json.dumps({"instance": container(2), "action": action, "model": "resnet"}).encode()
        assert (await closed.post("/model", body, WITH)).status == 200
        assert closed.fleet.orders == [("model", container(2), action, "resnet")]

    async def test_model_that_fails_says_why(self, closed: Api) -> None:
        closed.fleet.broken_models["resnet"] = "failed to load 'resnet': no weights"
        body = json.dumps({"instance": container(2), "action": "load", "model": "resnet"}).encode()
        assert error(await closed.post("/model", body, WITH), 409) == "failed to load 'resnet': no weights"

    async def test_model_on_an_agent_that_is_away_says_so(self, closed: Api) -> None:
        closed.fleet.disconnected.add(container(2))
        body = json.dumps({"instance": container(2), "action": "load", "model": "resnet"}).encode()
        assert "not connected" in error(await closed.post("/model", body, WITH), 409)

    async def test_model_with_an_unknown_action_is_refused(self, closed: Api) -> None:
        body = json.dumps({"instance": container(2), "action": "explode", "model": "resnet"}).encode()
        assert "explode" in error(await closed.post("/model", body, WITH), 400)


class TestABodyThatIsWrong:
    @pytest.mark.parametrize(
        ("target", "body"),
        [
            ("/scale", b""), ("/scale", b"{"), ("/scale", b"\xff\xfe"), ("/scale", b"[1]"), ("/scale", b'{"instances": NaN}'),
            ("/scale", b'{"instances": "3"}'), ("/scale", b'{"instances": 3.5}'), ("/scale", b'{"instances": true}'),
            ("/scale", b'{"instances": 3, "force": true}'), ("/scale", b'{"instance": 3}'), ("/scale", b"[" * 60000),
            ("/scale", b'{"instances": 3, "instances": 4}'), ("/drain", b'{"instance": 3}'), ("/drain", b"{}"),
            ("/stop", b'{"now": true}'), ("/stop", b""), ("/model", b'{"instance": "x"}'), ("/drain", b'{"instance": "a\\u0000b"}'),
        ],
    )  # fmt: skip
    async def test_is_named_and_changes_nothing(self, closed: Api, target: str, body: bytes) -> None:
        error(await closed.post(target, body, WITH), 400)
        assert closed.fleet.orders == []

    async def test_a_misspelt_key_says_which_was_meant(self, closed: Api) -> None:
        answer = await closed.post("/scale", b'{"instnaces": 3}', WITH)
        assert "'instnaces'" in error(answer, 400)
        assert answer.json["fix"] == "did you mean instances?"

    async def test_a_large_one_is_refused_unread(self, closed: Api) -> None:
        connection = await closed.connect()
        await connection.send(f"POST /scale HTTP/1.1\r\nHost: x\r\n{JSON}\r\n{WITH}\r\nContent-Length: 1000000000\r\n\r\n".encode())
        assert "65536" in error(await connection.answer(), 413)

    async def test_a_large_one_in_chunks_is_refused(self, closed: Api) -> None:
        connection = await closed.connect()
        await connection.send(f"POST /scale HTTP/1.1\r\nHost: x\r\n{JSON}\r\n{WITH}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        await connection.send(b"11170\r\n" + b" " * 0x11170 + b"\r\n")
        assert "65536" in error(await connection.answer(), 413)

    async def test_one_of_another_kind_is_refused(self, closed: Api) -> None:
        for kind in ("Content-Type: text/plain", FORM, "X-None: 1", "Content-Type: multipart/form-data; boundary=x"):
            assert "Content-Type" in error(await closed.post("/scale", b'{"instances": 3}', WITH, kind=kind), 400)
        assert closed.fleet.orders == []

    async def test_a_packed_one_is_not_unpacked(self, closed: Api) -> None:
        error(await closed.post("/scale", b"\x1f\x8b\x08\x00" + b"\x00" * 40, WITH, "Content-Encoding: gzip"), 400)

    async def test_one_that_is_announced_is_called_for(self, closed: Api) -> None:
        connection = await closed.connect()
        head = f"POST /scale HTTP/1.1\r\nHost: x\r\n{JSON}\r\n{WITH}\r\nContent-Length: 16\r\nExpect: 100-continue\r\n\r\n"
        await connection.send(head.encode())
        assert (await connection.head())[0] == 100
        await connection.send(b'{"instances": 4}')
        assert (await connection.answer()).json["wanted"] == 4


class TestTheToken:
    PATHS = ("/instances", "/status", "/metrics", "/config", "/dashboard", f"/logs/{container(1)}")

    @pytest.mark.parametrize("target", PATHS)
    async def test_is_wanted_for_reading(self, closed: Api, target: str) -> None:
        for headers in ((), ("X-TARN-Token: wrong",), ("Authorization: Bearer wrong",), (f"Authorization: Basic {TOKEN}",)):
            answer = await closed.get(target, *headers)
            assert TOKEN not in error(answer, 401)
            assert "X-TARN-Token" in answer.json["fix"]

    @pytest.mark.parametrize("target", PATHS)
    async def test_opens_by_either_header(self, closed: Api, target: str) -> None:
        for header in (WITH, f"Authorization: Bearer {TOKEN}"):
            assert (await closed.get(target, header)).status == 200

    async def test_is_wanted_for_orders(self, closed: Api) -> None:
        for target in ("/scale", "/drain", "/stop", "/model"):
            error(await closed.post(target, b"{}"), 401)
            error(await closed.post(target, b"{}", "X-TARN-Token: wrong"), 401)
        assert closed.fleet.orders == []

    async def test_in_the_query_opens_the_metrics_alone(self, closed: Api) -> None:
        assert (await closed.get(f"/metrics?token={TOKEN}")).status == 200
        error(await closed.get("/metrics?token=wrong"), 401)
        for target in ("/instances", "/status", "/config", "/health", "/dashboard"):
            answer = await closed.get(f"{target}?token={TOKEN}")
            assert TOKEN not in error(answer, 400)
            assert "X-TARN-Token" in answer.json["fix"]

    async def test_twice_or_in_two_minds_is_refused(self, closed: Api) -> None:
        for headers in ((WITH, WITH), (WITH, "Authorization: Bearer other"), (WITH, "X-TARN-Token: other")):
            error(await closed.get("/status", *headers), 400)
        error(await closed.get("/metrics?token=other", WITH), 400)

    async def test_is_in_no_log_and_refusals_are_told_once(self, closed: Api, logged: Logged) -> None:
        for _ in range(20):
            await closed.get("/status", "X-TARN-Token: guess-of-a-secret")
        await closed.get("/metrics?token=guess-of-a-secret")
        await closed.get(f"/instances?token={TOKEN}", WITH)
        await closed.post("/scale", b'{"instances": 3}', WITH)
        await closed.get("/nowhere", WITH)
        told = logged.text
        assert TOKEN not in told
        assert "guess-of-a-secret" not in told
        assert told.count("token_refused") == 1

    async def test_refusals_are_counted_after_a_minute(self, closed: Api, logged: Logged) -> None:
        for _ in range(7):
            await closed.get("/status", "X-TARN-Token: guess")
        closed.clock.now += 61
        await eventually(lambda: re.search(r"count\W+6\b", re.sub(r"\x1b\[\d*m", "", logged.text)), "the count is told")


class TestWithoutAToken:
    async def test_reading_is_open(self, opened: Api) -> None:
        for target in TestTheToken.PATHS:
            assert (await opened.get(target)).status == 200

    async def test_an_order_is_taken_under_a_loopback_name(self, opened: Api) -> None:
        for host in ("127.0.0.1:8888", "localhost", "[::1]:80"):
            assert (await opened.post("/scale", b'{"instances": 3}', host=host)).status == 200

    async def test_an_order_under_another_name_is_refused(self, opened: Api) -> None:
        for host in ("evil.example.com", "127.0.0.1.evil.example.com", "10.0.0.1:8888"):
            assert "loopback" in error(await opened.post("/scale", b'{"instances": 3}', host=host), 403)
        assert opened.fleet.orders == []

    async def test_a_users_name_counts_for_nothing(self, opened: Api) -> None:
        await opened.post("/scale", b'{"instances": 3}', "X-TARN-User: root")
        assert opened.fleet.orders == [("scale", "3", "127.0.0.1")]


class TestHealth:
    async def test_tells_a_stranger_one_word(self, closed: Api) -> None:
        assert (await closed.get("/health")).json == {"ok": True, "reason": "ok"}
        closed.fleet.change(halted="no space left on node7")
        answer = await closed.get("/health")
        assert (answer.status, answer.json) == (503, {"ok": False, "reason": "halted"})
        error(await closed.get("/health", WITH, WITH), 400)

    async def test_tells_the_reason_with_the_token(self, closed: Api) -> None:
        closed.fleet.change(halted="no space left on node7")
        answer = await closed.get("/health", WITH)
        assert "node7" in answer.json["reason"]
        assert answer.json["ready"] == 2

    async def test_is_not_ok_when_the_loop_is_stuck(self, closed: Api) -> None:
        closed.clock.now += 6
        answer = await closed.get("/health")
        assert (answer.status, answer.json["reason"]) == (503, "stale")

    async def test_answers_to_head(self, closed: Api) -> None:
        connection = await closed.connect()
        assert (await connection.ask("HEAD", "/health")).status == 200
        assert (await connection.ask("GET", "/health")).status == 200


class TestWhatIsObserved:
    async def test_status_is_the_whole_view(self, closed: Api) -> None:
        found = (await closed.get("/status", WITH)).json
        assert found["application_id"] == APPLICATION
        assert found["instances"][0]["sample"]["gpus"][0]["uuid"] == "GPU-00000000"
        closed.fleet.change(verdict="new")
        assert (await closed.get("/status", WITH)).json["verdict"] == "new"

    async def test_a_thousand_instances_are_all_there(self) -> None:
        async with Api(None, FakeFleet(large_view(1000))) as api:
            assert len((await api.get("/status")).json["instances"]) == 1000
            assert (await api.get("/instances")).body.count(b"\n") == 1000
            assert (await api.get("/metrics")).body.count(b"tarn_container_load{") == 1000
            assert (await api.get("/dashboard")).status == 200

    async def test_config_shows_settings(self, closed: Api) -> None:
        assert (await closed.get("/config", WITH)).json["model_repository"] == "/models"

    async def test_metrics_count_routes_and_not_what_clients_invent(self, closed: Api) -> None:
        for number in range(20):
            await closed.get(f"/invented{number}", WITH)
            await closed.get(f"/logs/invented{number}", WITH)
        page = (await closed.get("/metrics", WITH)).body.decode()
        assert 'tarn_http_requests_total{code="404",path="other"} 20.0' in page
        assert 'tarn_http_requests_total{code="400",path="/logs/"} 20.0' in page
        assert "invented" not in page


class TestLogs:
    async def test_are_lines_of_text(self, closed: Api) -> None:
        closed.fleet.logs[container(1)] = ["one", "two\n", "thr\udcffee"]
        answer = await closed.get(f"/logs/{container(1)}?source=agent&lines=2", WITH)
        assert answer.body == b"agent: two\nagent: thr?ee\n"
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"

    async def test_are_followed_as_they_grow(self, closed: Api) -> None:
        connection = await closed.connect()
        await connection.send(f"GET /logs/{container(1)}?follow=true HTTP/1.1\r\nHost: x\r\n{WITH}\r\n\r\n".encode())
        closed.fleet.more.put_nowait("first")
        assert (await connection.head())[0] == 200
        assert await connection.chunk() == b"first\n"
        closed.fleet.more.put_nowait("second")
        assert await connection.chunk() == b"second\n"

    async def test_begin_even_when_nothing_is_written_yet(self, closed: Api) -> None:
        connection = await closed.connect()
        await connection.send(f"GET /logs/{container(1)}?follow=true HTTP/1.1\r\nHost: x\r\n{WITH}\r\n\r\n".encode())
        assert (await connection.head())[0] == 200

    async def test_end_at_the_agent_when_the_client_goes(self, closed: Api) -> None:
        connection = await closed.connect()
        await connection.send(f"GET /logs/{container(1)}?follow=true HTTP/1.1\r\nHost: x\r\n{WITH}\r\n\r\n".encode())
        await eventually(lambda: closed.fleet.tails_open == 1, "the tail is open")
        await connection.close()
        await asyncio.wait_for(closed.fleet.tails_ended.wait(), 30)

    async def test_are_read_no_faster_than_the_client_takes_them(self, closed: Api) -> None:
        taken = 0

        class Endless(FakeFleet):
            async def tail(self, container_id: ContainerId, source: str, lines: int, follow: bool) -> AsyncIterator[str]:
                nonlocal taken
                while True:
                    taken += 1
                    yield "x" * 10_000

        async with Api(TOKEN, Endless()) as api:
            connection = await api.connect()
            await connection.send(f"GET /logs/{container(1)} HTTP/1.1\r\nHost: x\r\n{WITH}\r\n\r\n".encode())
            await connection.head()
            seen = -1

            async def stands_still() -> bool:
                nonlocal seen
                before, seen = seen, taken
                await asyncio.sleep(0.2)
                return before == taken

            await eventually(stands_still, "the tail waits for its reader")
            assert taken * 10_000 < 64 << 20
            assert (await api.get("/health")).status == 200

    async def test_refused_before_the_first_line_is_asked_for_say_why(self) -> None:
        class Prompt(FakeFleet):
            def tail(self, container_id: ContainerId, source: str, lines: int, follow: bool) -> AsyncIterator[str]:
                raise UnknownInstance(f"there is no instance {container_id}")

        async with Api(None, Prompt()) as api:
            error(await api.get(f"/logs/{container(1)}"), 404)

    async def test_that_break_off_say_so_at_their_end(self) -> None:
        class Torn(FakeFleet):
            async def tail(self, container_id: ContainerId, source: str, lines: int, follow: bool) -> AsyncIterator[str]:
                yield "one"
                raise NotConnected("the agent went away")

        async with Api(None, Torn()) as api:
            assert (await api.get(f"/logs/{container(1)}")).body == b"one\ntarn: the log ends here: the agent went away\n"

    async def test_that_meet_a_defect_are_cut_and_not_ended(self, logged: Logged) -> None:
        class Broken(FakeFleet):
            async def tail(self, container_id: ContainerId, source: str, lines: int, follow: bool) -> AsyncIterator[str]:
                yield "one"
                raise RuntimeError("the secret inside")

        async with Api(None, Broken()) as api:
            connection = await api.connect()
            await connection.send(f"GET /logs/{container(1)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            got = await connection.end()
            assert b"one\n" in got
            assert not got.endswith(b"0\r\n\r\n")
            assert b"secret inside" not in got
            assert "api_defect" in logged.text

    async def test_that_cannot_be_had_say_why(self, closed: Api) -> None:
        error(await closed.get(f"/logs/{container(9)}", WITH), 404)
        closed.fleet.disconnected.add(container(1))
        assert "not connected" in error(await closed.get(f"/logs/{container(1)}", WITH), 409)

    @pytest.mark.parametrize(
        "query", ["source=passwd", "lines=-1", "lines=x", "lines=10001", "lines=", "follow=yes", "follow=", "lines=1&lines=2", "tail=5"]
    )
    async def test_asked_for_wrongly_are_refused(self, closed: Api, query: str) -> None:
        error(await closed.get(f"/logs/{container(1)}?{query}", WITH), 400)

    @pytest.mark.parametrize("name", ["", "x", "..%2f..%2fetc%2fpasswd", "%00", "%ff", "a/b"])
    async def test_of_nobody_are_refused(self, closed: Api, name: str) -> None:
        assert (await closed.get(f"/logs/{name}", WITH)).status in (400, 404)


class TestTheDashboard:
    async def test_is_a_page_with_its_files(self, opened: Api) -> None:
        answer = await opened.get("/dashboard")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        for address in re.findall(r'(?:href|src)="(dashboard/[^"]+)"', answer.body.decode()):
            file = await opened.get(f"/{address}")
            assert file.status == 200
            assert (await opened.get(f"/{address}", f"If-None-Match: {file.headers['etag']}")).status == 304

    async def test_is_found_from_the_root_by_a_relative_address(self, opened: Api) -> None:
        for target, location in (("/", "dashboard"), ("/dashboard/", "../dashboard")):
            answer = await opened.get(target)
            assert (answer.status, answer.headers["location"]) == (302, location)

    @pytest.mark.parametrize("name", ["page.html", "page.py", "..%2f..%2fserver.py", "x.css", "%00"])
    async def test_gives_no_other_file(self, opened: Api, name: str) -> None:
        error(await opened.get(f"/dashboard/{name}"), 404)

    async def test_shows_a_form_to_a_browser_without_a_session(self, closed: Api) -> None:
        answer = await closed.get("/dashboard", "Accept: text/html")
        assert answer.status == 401
        assert b'type="password"' in answer.body
        assert APPLICATION.encode() not in answer.body

    async def test_opens_by_the_form_for_looking_only(self, closed: Api) -> None:
        answer = await closed.post("/dashboard", f"token={TOKEN}".encode(), kind=FORM)
        assert (answer.status, answer.headers["location"]) == (303, "dashboard")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert "Path" not in cookie
        assert TOKEN not in cookie
        session = f"Cookie: {cookie.partition(';')[0]}"
        assert b"Instances, worst first" in (await closed.get("/dashboard", session, "Accept: text/html")).body
        assert (await closed.get("/status", session)).status == 200
        error(await closed.post("/scale", b'{"instances": 3}', session), 401)
        closed.clock.now += 13 * 3600
        assert (await closed.get("/dashboard", session, "Accept: text/html")).status == 401

    async def test_stays_shut_for_a_wrong_token(self, closed: Api) -> None:
        for body in (b"token=wrong", b"token=", b"token=%ff%fe"):
            answer = await closed.post("/dashboard", body, kind=FORM)
            assert answer.status in (400, 401)
            assert "set-cookie" not in answer.headers
        error(await closed.post("/dashboard", b'{"token": "x"}'), 400)
        error(await closed.post("/dashboard", b"toke=x", kind=FORM), 400)

    async def test_is_left_again(self, closed: Api) -> None:
        answer = await closed.post("/dashboard", b"leave=1", kind=FORM)
        assert answer.status == 303
        assert "Max-Age=0" in answer.headers["set-cookie"]


class TestAPathOrMethodThatIsNone:
    @pytest.mark.parametrize("target", ["/nowhere", "/instances/", "/status/x", "//", "/%00", "/%ff%fe", "/<script>", "/a" * 2000])
    async def test_is_a_json_404(self, closed: Api, target: str) -> None:
        error(await closed.get(target, WITH), 404)

    @pytest.mark.parametrize(
        ("method", "target", "allow"),
        [("POST", "/instances", "GET"), ("GET", "/scale", "POST"), ("DELETE", "/status", "GET"), ("PUT", "/dashboard", "GET, POST"),
         ("OPTIONS", "/scale", "POST"), ("PATCH", "/health", "GET")],
    )  # fmt: skip
    async def test_is_a_json_405_that_names_the_right_one(self, closed: Api, method: str, target: str, allow: str) -> None:
        answer = await (await closed.connect()).ask(method, target, WITH)
        error(answer, 405)
        assert answer.headers["allow"] == allow

    @pytest.mark.parametrize("query", ["wach=1", "watch=1&watch=2", "a=b&c=d", "%ff=1", "=1", "watch=1&x"])
    async def test_an_unknown_parameter_is_named(self, closed: Api, query: str) -> None:
        assert "query parameter" in error(await closed.get(f"/instances?{query}", WITH), 400)

    async def test_no_answer_carries_a_line_of_the_request(self, closed: Api) -> None:
        answer = await closed.get("/instances?watch=%0d%0aX-Evil:%201&timeout=0", WITH)
        assert "x-evil" not in answer.headers
        answer = await closed.get("/x%0d%0aX-Evil:%201", WITH)
        assert "x-evil" not in answer.headers


class TestADefect:
    async def test_is_told_by_its_number_alone(self, logged: Logged) -> None:
        class Broken(FakeFleet):
            async def scale(self, wanted: int, who: str) -> object:  # type: ignore[override]
                raise RuntimeError("the secret inside")

        async with Api(TOKEN, Broken()) as api:
            answer = await api.post("/scale", b'{"instances": 3}', WITH)
            sentence = error(answer, 500)
            assert "secret inside" not in answer.body.decode()
            number = sentence.rpartition(" ")[2]
            told = logged.text
            assert number in told
            assert "the secret inside" in told
            assert (await api.get("/health")).status == 200


class TestBytesThatAreNoHttp:
    @pytest.mark.parametrize(
        "garbage",
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
            b"\x00" * 5000,
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\x00c\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"A: " + b"x" * 100_000 + b"\r\n\r\n",
            b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"".join(b"A%d: b\r\n" % n for n in range(5000)) + b"\r\n",
            b"POST /scale HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
            b"POST /scale HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            b"POST /scale HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ],
    )
    async def test_are_answered_with_our_error_and_closed(self, closed: Api, logged: Logged, garbage: bytes) -> None:
        connection = await closed.connect()
        with contextlib.suppress(ConnectionError):
            await connection.send(garbage)
        answered = await connection.end()
        assert answered == b"" or answered.startswith(b"HTTP/1.1 400") or b" 400 " in answered[:20]
        assert b"Traceback" not in answered
        assert (await closed.get("/health")).status == 200
        assert "Traceback" not in logged.text

    async def test_a_thousand_times_are_one_line_of_log(self, closed: Api, logged: Logged) -> None:
        for _ in range(200):
            connection = await closed.connect()
            await connection.send(b"\x16\x03\x01 garbage\r\n\r\n")
            await connection.end()
            await connection.close()
        assert logged.text.count("http_not_http") == 1

    @pytest.mark.parametrize(
        "request_line", [b"GET http://[::1 HTTP/1.1", b"GET http://evil/status HTTP/1.1", b"CONNECT x:1 HTTP/1.1", b"OPTIONS * HTTP/1.1",
                         b"GET /%zz?%zz=%ff HTTP/1.1", b"GET ?x HTTP/1.1", b"GET //evil.example.com/instances HTTP/1.1"]
    )  # fmt: skip
    async def test_odd_targets_are_refused_in_order(self, closed: Api, logged: Logged, request_line: bytes) -> None:
        connection = await closed.connect()
        await connection.send(request_line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert re.match(rb"HTTP/1\.[01] 4\d\d ", await connection.end())
        assert "Traceback" not in logged.text
        assert (await closed.get("/health")).status == 200

    async def test_an_upgrade_is_not_taken(self, opened: Api) -> None:
        answer = await opened.get(
            "/status", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA=="
        )
        assert answer.status == 200
        assert "upgrade" not in answer.headers

    async def test_many_requests_in_one_piece_are_all_answered(self, closed: Api) -> None:
        connection = await closed.connect()
        await connection.send(f"GET /instances HTTP/1.1\r\nHost: x\r\n{WITH}\r\n\r\n".encode() * 50)
        assert [(await connection.answer()).status for _ in range(50)] == [200] * 50


class TestSlowAndManyClients:
    async def test_one_without_a_full_header_in_time_is_closed(self, closed: Api) -> None:
        connections = [await closed.connect() for _ in range(3)]
        await connections[1].send(b"GET /status HTTP/1.1\r\nHo")
        used = await closed.connect()
        assert (await used.ask("GET", "/health")).status == 200
        await used.send(b"GET /he")
        waiting = asyncio.ensure_future(closed.get("/instances?watch=am1-1&timeout=300", WITH))
        await eventually(lambda: closed.server.waiting == 1, "the poll waits")
        closed.clock.now += 11
        for connection in (*connections, used):
            assert await connection.end() == b""
        closed.fleet.change(instances=())
        assert (await waiting).status == 200

    async def test_when_all_places_are_taken_the_longest_silent_makes_room(self, logged: Logged) -> None:
        async with Api(None, max_connections=16) as api:
            silent = [await api.connect() for _ in range(40)]
            for _ in range(10):
                assert (await api.get("/health")).status == 200
            assert await silent[0].end() == b""
            assert logged.text.count("http_connections_full") == 1

    async def test_when_every_place_is_in_use_a_newcomer_is_closed(self, logged: Logged) -> None:
        async with Api(None, max_connections=8) as api:
            following = [await api.connect() for _ in range(8)]
            for connection in following:
                await connection.send(f"GET /logs/{container(1)}?follow=true HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await eventually(lambda: api.fleet.tails_open == 8, "all are in use")
            assert await (await api.connect()).end() == b""
            assert "http_connections_refused" in logged.text
            await following[0].close()
            await eventually(lambda: api.fleet.tails_open == 7, "one is free")
            assert (await api.get("/health")).status == 200

    async def test_two_thousand_idle_connections_disturb_nobody(self, closed: Api) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
        idle: list[socket.socket] = []
        try:
            kept = await closed.connect()
            assert (await kept.ask("GET", "/instances", WITH)).status == 200
            for number in range(2000):
                one = socket.socket()
                one.setblocking(False)
                idle.append(one)
                await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", closed.port))
                if number % 100 == 0:
                    assert (await closed.get("/instances", WITH)).status == 200
                    assert (await kept.ask("GET", "/instances", WITH)).status == 200
            assert (await closed.post("/scale", b'{"instances": 3}', WITH)).status == 200
            assert (await kept.ask("GET", "/instances", WITH)).status == 200
        finally:
            for one in idle:
                one.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    async def test_a_body_that_does_not_come_holds_up_nobody(self, closed: Api) -> None:
        slow = await closed.connect()
        await slow.send(f"POST /scale HTTP/1.1\r\nHost: x\r\n{JSON}\r\n{WITH}\r\nContent-Length: 16\r\n\r\n{{".encode())
        assert (await closed.get("/instances", WITH)).status == 200
        await slow.send(b'"instances": 4}')
        assert (await slow.answer()).json["wanted"] == 4

    async def test_one_that_goes_in_the_middle_leaves_no_trace(self, closed: Api, logged: Logged) -> None:
        for data in (b"GET /sta", f"POST /scale HTTP/1.1\r\nHost: x\r\n{JSON}\r\n{WITH}\r\nContent-Length: 16\r\n\r\n{{".encode()):
            connection = await closed.connect()
            await connection.send(data)
            await connection.close()
        assert (await closed.get("/health")).status == 200
        assert "Traceback" not in logged.text


class TestClosing:
    async def test_lets_an_order_finish_and_ends_what_waits(self) -> None:
        taken, go_on = asyncio.Event(), asyncio.Event()

        class Slow(FakeFleet):
            async def shut_down(self, who: str) -> None:
                taken.set()
                await go_on.wait()

        api = Api(None, Slow())
        async with api:
            order = asyncio.ensure_future(api.post("/stop", b"{}"))
            waiting = await api.connect()
            await waiting.send(b"GET /instances?watch=am1-1&timeout=300 HTTP/1.1\r\nHost: x\r\n\r\n")
            await taken.wait()
            await eventually(lambda: api.server.waiting == 1, "the poll waits")
            closing = asyncio.ensure_future(api.server.close())
            await eventually(lambda: api.server.waiting == 0, "the poll ended")
            go_on.set()
            assert (await order).status == 202
            await closing
            with pytest.raises(ConnectionError):
                await RawHttp.connect(api.port)

    async def test_of_a_port_that_is_taken_is_an_error_that_names_it(self, opened: Api) -> None:
        settings = AmSettings(model_repository="/models", am_port=opened.port)
        with pytest.raises(OSError, match=str(opened.port)):
            await ApiServer(FakeFleet(), settings, None, SetClock()).start()
