"""A repository over WebHDFS, with the `hdfs` library: for clusters whose RPC ports are closed, or an HttpFS or Knox in front.

Guarantees: every request has time-outs; a copy is proved by HDFS's own MD5-of-MD5-of-CRC, computed again from the local
file. The delegation token travels in the request's query, because WebHDFS accepts it nowhere else: it is never in an error
or a log of ours.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

import crc32c
import hdfs
import requests
import urllib3

from tarn_agent.core.model import FileStatus
from tarn_agent.ports import StageError
from tarn_agent.stores.bounded import bounded
from tarn_agent.stores.hdfs_errors import Changed, translated
from tarn_common import credentials

T = TypeVar("T")
_CONNECT_S = 5.0
_READ_S = 30.0
_CHUNK = 256 << 10
_ALGORITHM = re.compile(r"MD5-of-\d+MD5-of-\d+(CRC32C?)")
_OTHER_FILE = re.compile(r"^HDFS has no |Offset=\d+ out of the range")
_READ_BLOCK = 1 << 20


def token_text(token: credentials.Token) -> str:
    """A delegation token as Hadoop writes it into URLs."""
    kind, service = token.kind.encode(), token.service.encode()
    parts = (token.identifier, token.password, kind, service)
    return base64.urlsafe_b64encode(b"".join(credentials.vint(len(part)) + part for part in parts)).decode().rstrip("=")


class WebHdfsStore:
    """`urls` are the NameNodes' base URLs (http://host:port), `path` the directory in HDFS, `location` what the user wrote."""

    def __init__(self, urls: tuple[str, ...], path: str, location: str, *, user: str = "", token: credentials.Token | None = None) -> None:
        self.urls, self._path, self._location = urls, path.rstrip("/"), location
        self._opaque: set[str] = set()
        session = requests.Session()
        # Neither a proxy from the environment nor a password from ~/.netrc has anything to do with a cluster's NameNode.
        session.trust_env = False
        session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or True
        options: dict[str, Any] = {"timeout": (_CONNECT_S, _READ_S), "session": session}
        joined = ";".join(urls)
        self._client = (
            hdfs.TokenClient(joined, token_text(token), **options) if token else hdfs.InsecureClient(joined, user or None, **options)
        )

    @property
    def location(self) -> str:
        return self._location

    def listing(self, deadline_s: float) -> list[FileStatus]:
        return bounded(lambda: self._guarded(self._listing), deadline_s, f"WebHDFS of {self._location}")

    def _listing(self) -> list[FileStatus]:
        if self._client.status(self._path or "/")["type"] != "DIRECTORY":
            raise StageError(f"{self._location} is a file, not a directory of models: correct --model-repository", retry=False)
        found: list[FileStatus] = []
        waiting = [""]
        while waiting:
            prefix = waiting.pop()
            for name, status in self._children(prefix):
                path = prefix + name
                found.append(self._entry(path, status))
                if found[-1].directory:
                    waiting.append(path + "/")
        return found

    def _children(self, prefix: str) -> list[tuple[str, dict[str, Any]]]:
        statuses = self._client._list_status(self._full(prefix)).json()["FileStatuses"]["FileStatus"]
        return [(status["pathSuffix"], status) for status in statuses]

    def _entry(self, path: str, status: dict[str, Any]) -> FileStatus:
        if status["type"] == "DIRECTORY":
            return FileStatus(path, 0, "", directory=True)
        # HDFS computes the checksum of an encrypted file over what lies encrypted, and of an erasure-coded one over its cells.
        if status.get("encBit") or status.get("ecBit"):
            self._opaque.add(path)
        length = int(status["length"])
        return FileStatus(path, length, f"{status['modificationTime']}-{length}-{status.get('fileId', 0)}")

    def _full(self, path: str) -> str:
        return f"{self._path}/{path}".rstrip("/") or "/"

    def read(self, file: FileStatus, offset: int, length: int, into: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        if length == 0:
            return
        try:
            self._guarded(lambda: self._read(file, offset, length, into, on_bytes))
        except StageError as error:
            if _OTHER_FILE.search(str(error)):
                raise Changed(f"{file.path} in {self._location} is no longer as it was listed") from error
            raise

    def _read(self, file: FileStatus, offset: int, length: int, into: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        with self._client.read(self._full(file.path), offset=offset, length=length, chunk_size=_CHUNK) as chunks:
            left = length
            for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    break
                into.write(chunk)
                on_bytes(len(chunk))
        if left:
            raise StageError(f"HDFS sent another number of bytes of {file.path} in {self._location} than it was asked for", retry=True)

    def checksum(self, file: FileStatus, local: str) -> bool | None:
        if file.length == 0:
            return True
        if file.path in self._opaque:
            return None
        theirs = self._guarded(lambda: self._client.checksum(self._full(file.path)))
        return matches(theirs, local)

    def _guarded(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except hdfs.HdfsError as error:
            raise self._translated(error) from None
        except requests.JSONDecodeError as error:
            raise self._no_webhdfs(error) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            # Without its text and without its chain: they hold the URL, and with it the token.
            raise StageError(
                f"WebHDFS of {self._location} at {', '.join(self.urls)}, or a DataNode behind it, is away: {_kind(error)}", retry=True
            ) from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._no_webhdfs(error) from None

    def _no_webhdfs(self, error: Exception) -> StageError:
        return StageError(f"what answers for {self._location} at {', '.join(self.urls)} is no WebHDFS ({type(error).__name__})", retry=True)

    def _translated(self, error: hdfs.HdfsError) -> StageError:
        message = error.message.decode(errors="replace") if isinstance(error.message, bytes) else str(error.message)
        if message.startswith("Authentication failure"):
            return StageError(f"WebHDFS of {self._location} asks for a Kerberos ticket or a delegation token, and none fits", retry=False)
        return translated(error.exception or "", re.sub(r"delegation=[^&\s\"']*", "delegation=(hidden)", message), self._location)

    def close(self) -> None:
        self._client._session.close()


def _kind(error: BaseException) -> str:
    """The innermost error's own words where it is the system's, else the class's name."""
    seen = error
    while (cause := seen.__cause__ or seen.__context__) is not None:
        seen = cause
    return seen.strerror if isinstance(seen, OSError) and seen.strerror else type(error).__name__


def matches(theirs: dict[str, Any], local: str) -> bool | None:
    """Whether HDFS's FileChecksum object is the local file's; None for an algorithm that is not MD5-of-MD5-of-CRC.

    `bytes` holds bytesPerCRC (4 bytes), crcPerBlock (8) and the MD5 (16), in hexadecimal, then padding. The MD5 is taken over
    the blocks' MD5s in a buffer of 32 bytes that doubles until they fit, its unused end zeros; a block's MD5 over the
    big-endian CRC of each `bytesPerCRC` bytes. Source: FileChecksumHelper and MD5MD5CRC32FileChecksum of Hadoop 3.
    """
    found = _ALGORITHM.fullmatch(str(theirs["algorithm"]))
    if found is None:
        return None
    raw = bytes.fromhex(theirs["bytes"])
    per_crc, per_block = int.from_bytes(raw[:4], "big"), int.from_bytes(raw[4:12], "big")
    if len(raw) < 28 or per_crc == 0:
        return None
    crc = crc32c.crc32c if found[1] == "CRC32C" else zlib.crc32
    return _md5_of_md5(local, per_crc, per_crc * per_block or None, crc) == raw[12:28]


def _md5_of_md5(local: str, per_crc: int, block: int | None, crc: Callable[[memoryview], int]) -> bytes:
    blocks: list[bytes] = []
    with open(local, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for start in range(0, size, block or size or 1):
            blocks.append(_md5_of_block(file, min(block or size, size - start), per_crc, crc))
    capacity = 32
    while capacity < 16 * len(blocks):
        capacity *= 2
    return hashlib.md5(b"".join(blocks).ljust(capacity, b"\0"), usedforsecurity=False).digest()


def _md5_of_block(file: Any, length: int, per_crc: int, crc: Callable[[memoryview], int]) -> bytes:
    digest = hashlib.md5(usedforsecurity=False)
    buffer = bytearray(max(per_crc, _READ_BLOCK // per_crc * per_crc))
    view = memoryview(buffer)
    while length > 0:
        want = min(len(buffer), length)
        got = 0
        while got < want:
            count = file.readinto(view[got:want])
            if not count:
                return b""
            got += count
        digest.update(b"".join(crc(view[at : min(at + per_crc, want)]).to_bytes(4, "big") for at in range(0, want, per_crc)))
        length -= want
    return digest.digest()
