"""The small HTTP client against servers that misbehave: every exchange ends in an answer or an HttpError, within its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tarn_agent.http_client import Answer, HttpClient, HttpError, tcp, unix

pytestmark = pytest.mark.real

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(talk: Talk) -> AsyncIterator[tuple[int, list[int]]]:
    """Yields its port, and a list that grows by one with each connection."""
    connections: list[int] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1], connections
    finally:
        listening.close()


def says(*answers: bytes) -> Talk:
    """Reads a request, sends an answer, and so on; then ends the connection."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()

    return talk


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class TestAnswers:
    @pytest.mark.parametrize(
        ("raw", "answer"),
        [
            (OK, Answer(200, b"hi")),
            (b"HTTP/1.1 404 No\r\ncontent-LENGTH:0\r\n\r\n", Answer(404, b"")),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: t\r\n\r\n",
                Answer(200, b"abcde"),
            ),
            (b"HTTP/1.0 200 OK\r\n\r\nto the end", Answer(200, b"to the end")),
        ],
    )
    async def test_each_way_to_end_a_body(self, raw: bytes, answer: Answer) -> None:
        async with server(says(raw)) as (port, _):
            assert await HttpClient(tcp("127.0.0.1", port), {"X": "y"}).ask("GET", "/", 60.0) == answer

    async def test_over_a_unix_socket(self, tmp_path: Path) -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await says(OK)(reader, writer)
            writer.close()

        listening = await asyncio.start_unix_server(handle, tmp_path / "s")
        assert (await HttpClient(unix(str(tmp_path / "s")), {}, keep=False).ask("POST", "/", 60.0, b"x")).text == "hi"
        listening.close()


class TestKeptConnection:
    async def test_serves_one_exchange_after_the_other(self) -> None:
        async with server(says(OK, OK, OK)) as (port, connections):
            client = HttpClient(tcp("127.0.0.1", port), {})
            answers = await asyncio.gather(*(client.ask("GET", "/", 60.0) for _ in range(3)))
            assert [answer.text for answer in answers] == ["hi"] * 3
            assert len(connections) == 1
            client.close()

    async def test_that_the_server_closed_is_replaced_unseen(self) -> None:
        async with server(says(OK)) as (port, connections):
            client = HttpClient(tcp("127.0.0.1", port), {})
            for _ in range(3):
                assert (await client.ask("GET", "/", 60.0)).text == "hi"
            assert len(connections) == 3

    async def test_closed_by_its_owner_it_stays_closed(self) -> None:
        async with server(silent) as (port, connections):
            client = HttpClient(tcp("127.0.0.1", port), {})
            asking = asyncio.create_task(client.ask("GET", "/", 60.0))
            while not connections:
                await asyncio.sleep(0.01)
            client.close()
            with pytest.raises(HttpError):
                await asking
            with pytest.raises(HttpError, match="was closed before"):
                await client.ask("GET", "/", 60.0)
            assert len(connections) == 1


class TestBadServers:
    @pytest.mark.parametrize(
        "raw",
        [
            b"\x16\x03\x01\x02\x00garbage\r\n\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000,
            b"HTTP/1.1 200",
            b"",
        ],
    )
    async def test_what_is_no_answer_is_an_http_error(self, raw: bytes) -> None:
        async with server(says(raw)) as (port, _):
            with pytest.raises(HttpError):
                await HttpClient(tcp("127.0.0.1", port), {}).ask("GET", "/", 60.0)

    @pytest.mark.parametrize("talk", [silent, says(b"HTTP/1.1 200 OK\r\nContent-Le", b"")])
    async def test_one_that_stops_in_the_middle_costs_the_deadline(self, talk: Talk) -> None:
        async with server(talk) as (port, _):
            client = HttpClient(tcp("127.0.0.1", port), {})
            with pytest.raises(HttpError, match=r"within 0\.1 s"):
                await client.ask("GET", "/", 0.1)

    async def test_nobody_there(self) -> None:
        async with server(silent) as (port, _):
            pass
        with pytest.raises(HttpError) as error:
            await HttpClient(tcp("127.0.0.1", port), {}).ask("GET", "/", 60.0)
        assert not error.value.connected
