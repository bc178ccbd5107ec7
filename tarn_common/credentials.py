"""Hadoop credentials files (`HADOOP_TOKEN_FILE_LOCATION`): tokens and secret keys, in the Writable format (version 0).

Every secret of an application reaches a container in this file and in no other way. Pure over bytes; `read` and `write` at
the end touch the disk. Version 1 (protobuf) is recognised and refused by name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

AGENT_SECRET = "tarn.agent.secret"  # noqa: S105
AM_CERTIFICATE = "tarn.am.certificate"
ZK_DIGEST = "tarn.zookeeper.digest"
_MAGIC = b"HDTS"


class CredentialsError(ValueError):
    """A credentials file that is missing, unreadable, torn, or of a version we do not read."""


@dataclass(frozen=True)
class Token:
    """One delegation token, as Hadoop's `Token` class has it."""

    kind: str
    service: str
    identifier: bytes
    password: bytes = field(repr=False)


@dataclass(frozen=True)
class Credentials:
    """Tokens by alias, secret keys by name. The bytes of secrets never show in a repr."""

    tokens: Mapping[str, Token] = field(default_factory=dict)
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)


def encode(credentials: Credentials) -> bytes:
    """The bytes of a version 0 file: also what a ContainerLaunchContext's `tokens` holds."""
    out = bytearray(_MAGIC + b"\x00")
    out += vint(len(credentials.tokens))
    for alias, token in credentials.tokens.items():
        out += _text(alias) + _blob(token.identifier) + _blob(token.password) + _text(token.kind) + _text(token.service)
    out += vint(len(credentials.secrets))
    for name, value in credentials.secrets.items():
        out += _text(name) + _blob(value)
    return bytes(out)


def decode(data: bytes) -> Credentials:
    """Reads a version 0 file; trailing bytes are ignored, as Hadoop does. Raises CredentialsError."""
    if data[:4] != _MAGIC:
        raise CredentialsError("not a Hadoop credentials file: it does not begin with HDTS")
    if data[4:5] == b"\x01":
        raise CredentialsError("the credentials file has version 1 (protobuf); write it with version 0 (Writable)")
    if data[4:5] != b"\x00":
        raise CredentialsError(f"the credentials file has the unknown version {data[4:5].hex() or 'none'}")
    reader = WritableReader(data, 5)
    tokens: dict[str, Token] = {}
    for _ in range(reader.count()):
        alias, identifier, password = reader.text(), reader.blob(), reader.blob()
        tokens[alias] = Token(reader.text(), reader.text(), identifier, password)
    secrets = {reader.text(): reader.blob() for _ in range(reader.count())}
    return Credentials(tokens, secrets)


def read(path: Path) -> Credentials:
    """Reads a file of at most 1 MiB; raises CredentialsError that names the path."""
    try:
        with path.open("rb") as file:
            data = file.read(1 << 20)
        return decode(data)
    except OSError as error:
        raise CredentialsError(f"cannot read the credentials file {path}: {error.strerror}") from error
    except CredentialsError as error:
        raise CredentialsError(f"{path}: {error}") from error


def write(path: Path, credentials: Credentials) -> None:
    """Writes with mode 0600, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(encode(credentials))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def vint(value: int) -> bytes:
    """Hadoop's variable-length integer (WritableUtils.writeVLong)."""
    if -112 <= value <= 127:
        return bytes([value & 0xFF])
    marker, magnitude = (-112, value) if value >= 0 else (-120, ~value)
    body = magnitude.to_bytes((magnitude.bit_length() + 7) // 8 or 1, "big")
    return bytes([(marker - len(body)) & 0xFF]) + body


def _blob(value: bytes) -> bytes:
    return vint(len(value)) + value


def _text(value: str) -> bytes:
    return _blob(value.encode())


class WritableReader:
    """Hadoop's Writable integers, texts and byte strings, from a position on. Raises CredentialsError where they are torn."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at

    def take(self, length: int) -> bytes:
        if length < 0 or self._at + length > len(self._data):
            raise CredentialsError("the credentials file is torn: it ends in the middle of an entry")
        piece = self._data[self._at : self._at + length]
        self._at += length
        return piece

    def count(self) -> int:
        first = int.from_bytes(self.take(1), "big", signed=True)
        if first >= -112:
            return first
        length, negative = (-(first + 112), False) if first >= -120 else (-(first + 120), True)
        magnitude = int.from_bytes(self.take(length), "big")
        return ~magnitude if negative else magnitude

    def blob(self) -> bytes:
        return self.take(self.count())

    def text(self) -> str:
        try:
            return self.blob().decode()
        except UnicodeDecodeError as error:
            raise CredentialsError("the credentials file holds a name that is not UTF-8") from error
