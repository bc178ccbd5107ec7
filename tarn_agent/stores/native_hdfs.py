"""A repository over HDFS's own RPC, with `hdfs-native` (Rust, no JVM): the usual way.

Guarantees: every byte was checked against the CRCs that HDFS stored, by the library, up to our buffer; its panics, which are
no Exceptions in Python, become StageErrors. Not guaranteed: a deadline on `read`. The library has none and cannot be
cancelled, so whoever calls `read` watches its progress and leaves the thread behind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, TypeVar

import hdfs_native

from tarn_agent.core.model import FileStatus
from tarn_agent.ports import StageError
from tarn_agent.stores.bounded import bounded
from tarn_agent.stores.hdfs_errors import Changed, translated

T = TypeVar("T")
# The library's own defaults wait for minutes; the staging above has its own back-off.
_IMPATIENT = {
    "dfs.client.failover.sleep.base.millis": "200",
    "dfs.client.failover.sleep.max.millis": "1000",
    "dfs.client.socket-timeout": "10000",
}
_RPC_ERROR = re.compile(r'RPCError\("([\w.$]+)",\s*"(.*)', re.DOTALL)
_NO_REPLICA = re.compile(r"All DataNodes failed")
_NO_TICKET = re.compile(r"GSSAPI|GSS_S_|Kerberos|SASL", re.IGNORECASE)


class NativeHdfsStore:
    """`url` is hdfs://<nameservice> or hdfs://<ip:port>: with a token, exactly as the token's service names it.

    `attempts` bounds the library's own tries, over all NameNodes of a nameservice.
    """

    def __init__(self, url: str, path: str, location: str, config: Mapping[str, str], attempts: int = 1) -> None:
        self._path, self._location = path.rstrip("/"), location
        self._client = self._guarded(
            lambda: hdfs_native.Client(url, {**config, **_IMPATIENT, "dfs.client.failover.max.attempts": str(attempts)})
        )

    @property
    def location(self) -> str:
        return self._location

    def listing(self, deadline_s: float) -> list[FileStatus]:
        return bounded(lambda: self._guarded(self._listing), deadline_s, f"the NameNode of {self._location}")

    def _listing(self) -> list[FileStatus]:
        root = self._path or "/"
        if not self._client.get_file_info(root).isdir:
            raise StageError(f"{self._location} is a file, not a directory of models: correct --model-repository", retry=False)
        return [self._entry(status) for status in self._client.list_status(root, True)]

    def _entry(self, status: Any) -> FileStatus:
        path = status.path.removeprefix(self._path).removeprefix("/")
        if status.isdir:
            return FileStatus(path, 0, "", directory=True)
        return FileStatus(path, status.length, f"{status.modification_time}-{status.length}")

    def read(self, file: FileStatus, offset: int, length: int, into: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        if length == 0:
            return
        reader = self._opened(file)
        # Beyond the end the library panics.
        if len(reader) != file.length or offset + length > file.length:
            raise Changed(f"{file.path} in {self._location} has another length than when it was listed")
        chunks = iter(self._guarded(lambda: reader.read_range_stream(offset, length)))
        left = length
        while (chunk := self._guarded(lambda: next(chunks, None))) is not None:
            left -= len(chunk)
            into.write(chunk)
            on_bytes(len(chunk))
        if left:
            raise StageError(f"HDFS sent another number of bytes of {file.path} in {self._location} than it was asked for", retry=True)

    def _opened(self, file: FileStatus) -> hdfs_native.FileReader:
        try:
            return self._guarded(lambda: self._client.read(f"{self._path}/{file.path}"))
        except StageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise Changed(f"{file.path} in {self._location} is gone since it was listed") from error
            raise

    def checksum(self, file: FileStatus, local: str) -> bool | None:
        return None

    def _guarded(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except StageError:
            raise
        except FileNotFoundError as error:
            raise translated("FileNotFoundError", str(error), self._location) from error
        except Exception as error:
            raise self._translated(error) from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":
                raise
            raise StageError(f"hdfs-native failed on {self._location}: {str(error)[:200]}", retry=True) from None

    def _translated(self, error: Exception) -> StageError:
        text = str(error)
        found = _RPC_ERROR.search(text)
        if found is not None:
            return translated(found[1], found[2], self._location)
        if _NO_REPLICA.search(text):
            return StageError(f"no DataNode that holds a block of {self._location} could serve it", retry=True)
        if _NO_TICKET.search(text):
            return StageError(
                f"HDFS asks for Kerberos on {self._location}, and neither a delegation token in the credentials file nor a ticket fits it",
                retry=False,
            )
        if isinstance(error, OSError):
            return StageError(f"the NameNode of {self._location} is away: {text.partition(chr(10))[0][:200]}", retry=True)
        return translated("", text, self._location)

    def close(self) -> None:
        # The library closes its connections when the last reference goes.
        del self._client
