"""What every store promises, asked of all three: a mounted directory, and a real HDFS over WebHDFS and over its own RPC."""

from __future__ import annotations

import contextlib
import getpass
import io
import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from tarn_agent.core.model import FileStatus
from tarn_agent.ports import StageError, Store
from tarn_agent.stores.mounted import MountedStore
from tarn_agent.stores.native_hdfs import NativeHdfsStore
from tarn_agent.stores.webhdfs import WebHdfsStore
from tests.rigs.hadoop import Hdfs

BLOCK = 1 << 16
BIG = os.urandom(BLOCK * 3 + 17)
ODD = "a b/1/c %d+#?é&=;'\"\\%41.bin"
TREE: Mapping[str, bytes | None] = {
    "m/config.pbtxt": b'name: "m"',
    "m/1/model.bin": BIG,
    "m/1/empty": b"",
    "ensemble/config.pbtxt": b"x",
    "ensemble/1": None,
    ODD: b"odd",
}
_numbers = itertools.count()
Build = Callable[[Mapping[str, bytes | None]], Store]


def mounted(root: Path) -> Build:
    def build(files: Mapping[str, bytes | None]) -> Store:
        base = root / f"repository-{next(_numbers)}"
        base.mkdir()
        for name, data in files.items():
            path = base / name
            (path if data is None else path.parent).mkdir(parents=True, exist_ok=True)
            if data is not None:
                path.write_bytes(data)
        return MountedStore(str(base), f"file:{base}")

    return build


def at(hdfs: Hdfs, kind: str, path: str) -> Store:
    if kind == "native":
        return NativeHdfsStore(hdfs.url, path, hdfs.url + path, {})
    return WebHdfsStore((f"http://{hdfs.http}",), path, f"webhdfs://{hdfs.http}{path}", user=getpass.getuser())


def remote(hdfs: Hdfs, kind: str) -> Build:
    def build(files: Mapping[str, bytes | None]) -> Store:
        path = f"/contract/{next(_numbers)}"
        hdfs.put_tree(path, files, BLOCK)
        return at(hdfs, kind, path)

    return build


@pytest.fixture(
    params=["mounted", pytest.param("webhdfs", marks=pytest.mark.real), pytest.param("native", marks=pytest.mark.real)], scope="module"
)
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Build:
    if request.param == "mounted":
        return mounted(tmp_path_factory.mktemp("mounted"))
    return remote(request.getfixturevalue("hdfs"), request.param)


@pytest.fixture(scope="module")
def store(build: Build) -> Iterator[Store]:
    """With TREE in it, only read."""
    store = build(TREE)
    yield store
    store.close()


def entries(store: Store) -> dict[str, FileStatus]:
    return {entry.path: entry for entry in store.listing(30)}


def read(store: Store, file: FileStatus, offset: int = 0, length: int | None = None) -> bytes:
    into = io.BytesIO()
    counted: list[int] = []
    store.read(file, offset, file.length - offset if length is None else length, cast(BinaryIO, into), counted.append)
    assert sum(counted) == len(into.getvalue())
    return into.getvalue()


class TestListing:
    def test_has_every_file_and_directory_with_its_length(self, store: Store) -> None:
        found = entries(store)
        assert {path: entry.length for path, entry in found.items() if not entry.directory} == {
            path: len(data) for path, data in TREE.items() if data is not None
        }
        assert {path for path, entry in found.items() if entry.directory} == {"m", "m/1", "ensemble", "ensemble/1", "a b", "a b/1"}

    def test_is_the_same_when_nothing_happened(self, store: Store) -> None:
        assert entries(store) == entries(store)

    def test_of_an_empty_repository_is_empty(self, build: Build) -> None:
        assert build({}).listing(30) == []


class TestReading:
    @pytest.mark.parametrize("path", [path for path, data in TREE.items() if data is not None])
    def test_gives_the_bytes_that_were_put(self, store: Store, path: str) -> None:
        assert read(store, entries(store)[path]) == TREE[path]

    @pytest.mark.parametrize(
        ("offset", "length"), [(0, 1), (BLOCK - 1, 2), (BLOCK, BLOCK), (len(BIG) - 1, 1), (5, 3 * BLOCK), (len(BIG), 0)]
    )
    def test_a_range_is_that_range(self, store: Store, offset: int, length: int) -> None:
        assert read(store, entries(store)["m/1/model.bin"], offset, length) == BIG[offset : offset + length]

    def test_what_the_receiver_raises_comes_through_as_it_is(self, store: Store) -> None:
        class Full(Exception):
            pass

        class Disk(io.BytesIO):
            def write(self, _data: object) -> int:
                raise Full

        with pytest.raises(Full):
            store.read(entries(store)["m/1/model.bin"], 0, 10, cast(BinaryIO, Disk()), lambda _count: None)

    def test_beyond_the_end_is_an_error_that_a_new_listing_may_mend(self, store: Store) -> None:
        file = entries(store)["m/1/model.bin"]
        longer = FileStatus(file.path, file.length + 10, file.identity)
        with pytest.raises(StageError) as caught:
            read(store, longer)
        assert caught.value.retry

    def test_a_file_that_is_gone_is_named(self, store: Store) -> None:
        with pytest.raises(StageError, match=r"m/1/gone"):
            read(store, FileStatus("m/1/gone", 3, "1-3"))


class TestChecksum:
    def test_never_calls_a_right_copy_wrong(self, store: Store, tmp_path: Path) -> None:
        for path, data in TREE.items():
            if data is not None:
                (tmp_path / "copy").write_bytes(data)
                assert store.checksum(entries(store)[path], str(tmp_path / "copy")) in (True, None)

    def test_never_calls_a_wrong_copy_right(self, store: Store, tmp_path: Path) -> None:
        flipped = bytearray(BIG)
        flipped[BLOCK + 5] ^= 1
        for wrong in (bytes(flipped), BIG[:-1], BIG + b"x", b""):
            (tmp_path / "copy").write_bytes(wrong)
            assert store.checksum(entries(store)["m/1/model.bin"], str(tmp_path / "copy")) in (False, None)


class TestAChangedFile:
    def test_has_another_identity(self, build: Build) -> None:
        first, second = build({"m/1/f": b"one"}), build({"m/1/f": b"four"})
        assert entries(first)["m/1/f"].identity != entries(second)["m/1/f"].identity


class TestAMissingDirectory:
    def test_is_named_with_the_fix(self, tmp_path: Path) -> None:
        path = str(tmp_path / "no/such/place")
        with pytest.raises(StageError, match=r"/no/such/place.*--model-repository") as caught:
            MountedStore(path, path).listing(30)
        assert not caught.value.retry


class TestAMountThatHangs:
    def test_costs_a_deadline_and_not_the_agent(self, tmp_path: Path) -> None:
        (tmp_path / "m").mkdir()
        # Opening a pipe that nobody writes to blocks for ever, like a file on a dead mount.
        os.mkfifo(tmp_path / "m/config.pbtxt")
        with pytest.raises(StageError, match=r"did not answer within 0\.2 s") as caught:
            MountedStore(str(tmp_path), "file:/nfs/models").listing(0.2)
        assert caught.value.retry


class TestALinkInACircle:
    def test_is_an_error_and_no_endless_walk(self, tmp_path: Path) -> None:
        (tmp_path / "m/1").mkdir(parents=True)
        (tmp_path / "m/1/back").symlink_to(tmp_path / "m")
        with pytest.raises(StageError, match="is a link leading in a circle") as caught:
            MountedStore(str(tmp_path), str(tmp_path)).listing(30)
        assert not caught.value.retry


class Answering:
    """A server that answers every connection with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Answering:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(65536)
                    connection.sendall(self._answer)


def http(body: bytes, status: bytes = b"200 OK", *headers: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), b"Connection: close", *headers, b"", body])


class TestWhatIsNoHdfs:
    """Whatever answers: one StageError of one line."""

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"\x00\xff" * 500,
            b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{",
            http(b"<html>"),
            http(b"[]"),
            http(b"null"),
            http(b'{"FileStatus": 3}'),
            http(b'{"FileStatus": {"type": "DIRECTORY"}}'),
            http(b"<html>", b"401 Unauthorized"),
            http(b"\xff\xfe", b"500 Oops"),
            http(b"{}", b"403 Forbidden"),
            http(b"[]", b"403 Forbidden"),
            http(b'{"RemoteException": 7}', b"403 Forbidden"),
            http(b"", b"307 Temporary Redirect", b"Location: http://127.0.0.1:1/"),
            http(b"", b"307 Temporary Redirect", b"Location: \x80:::/"),
            http(b"", b"307 Temporary Redirect", b"Location: /webhdfs/v1/"),
        ],
    )
    def test_over_webhdfs(self, answer: bytes) -> None:
        with Answering(answer) as server:
            store = WebHdfsStore((f"http://{server.address}",), "/m", "hdfs:/m", user="alice")
            with pytest.raises(StageError) as caught:
                store.listing(30)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x00\x00\x02\x08\x96", b"\xff" * 500, b"\x00" * 500]
    )
    def test_over_rpc(self, answer: bytes) -> None:
        with Answering(answer) as server:
            store = NativeHdfsStore(f"hdfs://{server.address}", "/m", "hdfs:/m", {})
            with pytest.raises(StageError) as caught:
                store.listing(5)
        assert "\n" not in str(caught.value)


@pytest.mark.real
class TestHdfs:
    @pytest.mark.parametrize("kind", ["webhdfs", "native"])
    def test_a_missing_path_is_named_with_the_fix(self, hdfs: Hdfs, kind: str) -> None:
        with pytest.raises(StageError, match=r"HDFS has no /no/such/place.*--model-repository") as caught:
            at(hdfs, kind, "/no/such/place").listing(30)
        assert not caught.value.retry

    @pytest.mark.parametrize("kind", ["webhdfs", "native"])
    def test_a_file_is_no_repository(self, hdfs: Hdfs, kind: str) -> None:
        hdfs.put("/contract/file", b"x")
        with pytest.raises(StageError, match="is a file, not a directory of models"):
            at(hdfs, kind, "/contract/file").listing(30)

    def test_over_webhdfs_every_number_of_blocks_is_proved(self, hdfs: Hdfs, tmp_path: Path) -> None:
        block = 4096
        sizes = [1, 512, 4095, 4096, 4097, 2 * block, 3 * block - 1, 5 * block + 1]
        path = "/contract/blocks"
        hdfs.put_tree(path, {f"m/1/{size}": os.urandom(size) for size in sizes}, block)
        store = at(hdfs, "webhdfs", path)
        for name, file in entries(store).items():
            if not file.directory:
                (tmp_path / "copy").write_bytes(read(store, file))
                assert store.checksum(file, str(tmp_path / "copy")) is True, name

    def test_over_webhdfs_another_user_is_refused_in_one_sentence(self, hdfs: Hdfs) -> None:
        hdfs.put("/contract/closed/m/1/f", b"x")
        hdfs.chmod("/contract/closed", 0o700)
        store = WebHdfsStore((f"http://{hdfs.http}",), "/contract/closed", "hdfs:/contract/closed", user="bob")
        with pytest.raises(StageError, match=r"user=bob.*grant that user read access") as caught:
            store.listing(30)
        assert not caught.value.retry
        assert "\n" not in str(caught.value)
