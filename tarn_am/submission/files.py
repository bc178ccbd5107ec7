"""The file system that an application is staged in: a few calls about names over Hadoop RPC, contents by hdfs-native.

`file:` is a directory that all nodes mount. A file appears whole or not at all: it is written beside its name and renamed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from tarn_am.hadoop.conf import NAMENODE_PRINCIPAL, login, namenodes, token_service
from tarn_am.hadoop.delegation import TokenIssuer
from tarn_am.hadoop.errors import HadoopError
from tarn_am.hadoop.ipc.client import HadoopClient, Patience
from tarn_am.hadoop.pb import hdfs_pb2
from tarn_am.hadoop.protocols import CLIENT_NAMENODE
from tarn_am.submission.context import StagedFile
from tarn_am.submission.errors import SubmissionError, by_kind, of_hdfs
from tarn_common.credentials import Token
from tarn_common.hadoop_conf import HadoopConf, HadoopConfError

_RPC_ERROR = re.compile(r'RPCError\("([\w.$]+)",\s*"(.*)', re.DOTALL)
_BLOCK = 4 << 20
_SMALL = 1 << 20


class Files(Protocol):
    """Paths are absolute, without scheme. Every call raises SubmissionError."""

    def url(self, path: str) -> str: ...

    async def make_directory(self, path: str) -> bool:
        """0700, with its parents; False when it was there."""

    async def info(self, path: str) -> StagedFile | None: ...

    async def put(self, path: str, source: Path | bytes, *, replace: bool = False) -> StagedFile:
        """Readable by the owner alone. A file that is there stays, for its name says what is in it; `replace` is for the others."""

    async def read(self, path: str) -> bytes | None:
        """A small file; None where there is none."""

    async def names(self, path: str) -> list[str]:
        """What a directory holds; nothing where there is none."""

    async def delete(self, path: str, *, empty: bool = False) -> None:
        """With all below it; with `empty` only an empty directory. What is not there is deleted already."""

    async def token(self, renewer: str) -> Token | None:
        """What proves the holder to be us; None where none is needed."""

    async def close(self) -> None: ...


class HdfsFiles:
    """`authority` is a nameservice or host:port."""

    def __init__(self, conf: HadoopConf, authority: str, user: str, patience_s: float) -> None:
        self._conf, self._authority = conf, authority
        try:
            self._addresses = namenodes(conf, authority)
            self._client = HadoopClient(self._addresses, login(conf, user, NAMENODE_PRINCIPAL), patience=Patience(give_up_s=patience_s))
        except HadoopConfError as error:
            raise SubmissionError(str(error)) from error
        self._native: Any = None

    def url(self, path: str) -> str:
        return f"hdfs://{self._authority}{path}"

    async def make_directory(self, path: str) -> bool:
        if await self._status(path) is not None:
            return False
        mode = hdfs_pb2.FsPermissionProto(perm=0o700)
        request = hdfs_pb2.MkdirsRequestProto(src=path, masked=mode, createParent=True)
        await self._call("mkdirs", request, hdfs_pb2.MkdirsResponseProto, path)
        return True

    async def info(self, path: str) -> StagedFile | None:
        status = await self._status(path)
        if status is None or status.fileType != hdfs_pb2.HdfsFileStatusProto.IS_FILE:
            return None
        return StagedFile(self.url(path), status.length, status.modification_time)

    async def _status(self, path: str) -> hdfs_pb2.HdfsFileStatusProto | None:
        request = hdfs_pb2.GetFileInfoRequestProto(src=path)
        answer = await self._call("getFileInfo", request, hdfs_pb2.GetFileInfoResponseProto, path)
        return answer.fs if answer.HasField("fs") else None

    async def read(self, path: str) -> bytes | None:
        if await self._status(path) is None:
            return None
        return await asyncio.to_thread(self._read, path)

    async def put(self, path: str, source: Path | bytes, *, replace: bool = False) -> StagedFile:
        await asyncio.to_thread(self._write, path, source, replace)
        found = await self.info(path)
        if found is None:
            raise SubmissionError(f"{self.url(path)} is gone right after it was written: does something clean up there?")
        return found

    async def names(self, path: str) -> list[str]:
        if await self._status(path) is None:
            return []
        return await asyncio.to_thread(self._listed, path)

    async def delete(self, path: str, *, empty: bool = False) -> None:
        await self._call("delete", hdfs_pb2.DeleteRequestProto(src=path, recursive=not empty), hdfs_pb2.DeleteResponseProto, path)

    async def token(self, renewer: str) -> Token | None:
        if not self._conf.secure:
            return None
        service = await token_service(self._conf, self._addresses, self._authority)
        try:
            return await TokenIssuer(self._client, CLIENT_NAMENODE, service).fetch(renewer)
        except HadoopError as error:
            raise of_hdfs(error, self.url("/")) from error

    async def close(self) -> None:
        self._native = None
        await self._client.close()

    async def _call(self, method: str, request: Any, response: type[Any], path: str) -> Any:
        try:
            return await self._client.call(CLIENT_NAMENODE, method, request, response)
        except HadoopError as error:
            raise of_hdfs(error, self.url(path)) from error

    def _library(self) -> Any:
        # Here and not at the top: most submissions find everything staged, and need not load the library.
        import hdfs_native

        if self._native is None:
            config = {name: self._conf.get(name) for name in self._conf.properties}
            self._native = hdfs_native.Client(f"hdfs://{self._authority}", config)
        return hdfs_native

    def _listed(self, path: str) -> list[str]:
        try:
            self._library()
            return [status.path.rstrip("/").rpartition("/")[2] for status in self._native.list_status(path, False)]
        except Exception as error:  # the library raises whatever fits: OSError, RuntimeError, its own panics
            raise self._translated(error, path) from error

    def _read(self, path: str) -> bytes:
        try:
            self._library()
            return bytes(self._native.read(path).read(_SMALL))
        except Exception as error:  # as above
            raise self._translated(error, path) from error

    def _write(self, path: str, source: Path | bytes, replace: bool) -> None:
        temporary = f"{path}.{secrets.token_hex(4)}.part"
        try:
            options = self._library().WriteOptions(permission=0o600, overwrite=True)
            try:
                with self._native.create(temporary, options) as file:
                    for block in _blocks(source):
                        file.write(block)
                self._native.rename(temporary, path, replace)
            except BaseException:
                with contextlib.suppress(Exception):  # the error that led here is what counts
                    self._native.delete(temporary, False)
                raise
        except Exception as error:  # as above
            found = self._translated(error, path)
            if "FileAlreadyExists" not in str(error):
                raise found from error

    def _translated(self, error: Exception, path: str) -> SubmissionError:
        found = _RPC_ERROR.search(str(error))
        if found is not None:
            return by_kind(found[1].rpartition(".")[2], found[2], self.url(path))
        return by_kind(type(error).__name__, str(error), self.url(path))


class LocalFiles:
    """A directory that every node mounts at the same path."""

    def url(self, path: str) -> str:
        return f"file://{path}"

    async def make_directory(self, path: str) -> bool:
        return bool(await self._guarded(lambda: _mkdir(Path(path)), path))

    async def info(self, path: str) -> StagedFile | None:
        if not Path(path).is_file():
            return None
        about = Path(path).stat()
        return StagedFile(self.url(path), about.st_size, about.st_mtime_ns // 1_000_000)

    async def read(self, path: str) -> bytes | None:
        return Path(path).read_bytes()[:_SMALL] if Path(path).is_file() else None

    async def put(self, path: str, source: Path | bytes, *, replace: bool = False) -> StagedFile:
        if replace or not Path(path).exists():
            await self._guarded(lambda: _place(Path(path), source), path)
        found = await self.info(path)
        assert found is not None
        return found

    async def names(self, path: str) -> list[str]:
        return [entry.name for entry in Path(path).iterdir()] if Path(path).is_dir() else []

    async def delete(self, path: str, *, empty: bool = False) -> None:
        if empty:
            with contextlib.suppress(OSError):
                Path(path).rmdir()
        elif Path(path).is_dir():
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
        else:
            Path(path).unlink(missing_ok=True)

    async def token(self, renewer: str) -> Token | None:
        return None

    async def close(self) -> None:
        return None

    async def _guarded(self, call: Any, path: str) -> Any:
        try:
            return await asyncio.to_thread(call)
        except OSError as error:
            raise SubmissionError(f"{self.url(path)} cannot be written: {error.strerror}: give another --staging-dir") from error


def _mkdir(path: Path) -> bool:
    if path.is_dir():
        return False
    path.mkdir(parents=True, mode=0o700)
    return True


def _place(path: Path, source: Path | bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            for block in _blocks(source):
                file.write(block)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _blocks(source: Path | bytes) -> Any:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def files_of(conf: HadoopConf, staging_dir: str, user: str, patience_s: float) -> tuple[Files, str]:
    """The file system of `staging_dir` and its absolute path there. Raises SubmissionError."""
    base = conf.default_fs or "file:///"
    parts = urlsplit(staging_dir if "://" in staging_dir else base)
    path = parts.path if "://" in staging_dir else staging_dir
    if parts.scheme == "file":
        return LocalFiles(), path if path.startswith("/") else str(Path.home() / path)
    # hdfs:///x is on the cluster's own NameNode.
    authority = parts.netloc or (urlsplit(base).netloc if urlsplit(base).scheme == "hdfs" else "")
    if parts.scheme != "hdfs" or not authority:
        raise SubmissionError(
            f"TARN cannot stage in {base if '://' not in staging_dir else staging_dir}: give --staging-dir=hdfs://nameservice/path, "
            "or file:///path of a directory that every node mounts"
        )
    return HdfsFiles(conf, authority, user, patience_s), (path if path.startswith("/") else f"/user/{user}/{path}").rstrip("/")
