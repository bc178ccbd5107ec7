"""Hadoop credentials in every form that a cluster may hand out: files of version 0 and 1, messages, URL strings; and picking a token."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from google.protobuf.message import DecodeError

from tarn_am.hadoop.pb import security_pb2
from tarn_common import credentials as writable
from tarn_common.credentials import Credentials, CredentialsError, Token

AMRM = "YARN_AM_RM_TOKEN"
RM_DELEGATION = "RM_DELEGATION_TOKEN"
HDFS_DELEGATION = "HDFS_DELEGATION_TOKEN"
_PROTOBUF = b"HDTS\x01"
_LIMIT = 1 << 20


def decode(data: bytes) -> Credentials:
    """A file of either version; trailing bytes are ignored. Raises CredentialsError."""
    if not data.startswith(_PROTOBUF):
        return writable.decode(data)
    length, shift, at = 0, 0, len(_PROTOBUF)
    while True:
        if at >= len(data) or shift > 28:
            raise CredentialsError("the credentials file is torn: it ends before its message")
        length |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            break
    if at + length > len(data):
        raise CredentialsError("the credentials file is torn: it ends in the middle of its message")
    message = security_pb2.CredentialsProto()
    try:
        whole = message.MergeFromString(data[at : at + length]) == length and message.IsInitialized()
    except DecodeError as error:
        raise CredentialsError("the credentials file says version 1 (protobuf), but holds no such message") from error
    if not whole:
        raise CredentialsError("the credentials file says version 1 (protobuf), but a token in it lacks a part")
    return Credentials({entry.alias: token_of(entry.token) for entry in message.tokens}, {e.alias: e.secret for e in message.secrets})


def encode_protobuf(credentials: Credentials) -> bytes:
    """The bytes of a version 1 file. Version 0, which every Hadoop reads, is `tarn_common.credentials.encode`."""
    entry = security_pb2.CredentialsKVProto
    message = security_pb2.CredentialsProto(
        tokens=[entry(alias=alias, token=proto_of(token)) for alias, token in credentials.tokens.items()],
        secrets=[entry(alias=alias, secret=secret) for alias, secret in credentials.secrets.items()],
    ).SerializeToString()
    length, head = len(message), bytearray(_PROTOBUF)
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + message


def read(path: Path) -> Credentials:
    """Reads a file of at most 1 MiB in either version; raises CredentialsError that names the path."""
    try:
        with path.open("rb") as file:
            return decode(file.read(_LIMIT))
    except OSError as error:
        raise CredentialsError(f"cannot read the credentials file {path}: {error.strerror}") from error
    except CredentialsError as error:
        raise CredentialsError(f"{path}: {error}") from error


def token_of(message: security_pb2.TokenProto) -> Token:
    return Token(message.kind, message.service, message.identifier, message.password)


def proto_of(token: Token) -> security_pb2.TokenProto:
    return security_pb2.TokenProto(identifier=token.identifier, password=token.password, kind=token.kind, service=token.service)


def url_string(token: Token) -> str:
    """As WebHDFS and the ResourceManager's REST take a token."""
    data = writable.encode(Credentials({"": token}))
    # Magic, version, one token, an empty alias: 7 bytes before the token; one byte for "no secrets" behind it.
    return base64.urlsafe_b64encode(data[7:-1]).rstrip(b"=").decode()


def from_url_string(text: str) -> Token:
    """Raises CredentialsError."""
    try:
        data = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise CredentialsError("the token is not in URL-safe base64") from error
    return writable.decode(b"HDTS\x00\x01\x00" + data + b"\x00").tokens[""]


def of_kind(credentials: Credentials, kind: str, service: str = "") -> Token | None:
    """The token of that kind, for that service where one is named; None where there is none.

    The AMRM token has no service and is found by its kind alone; a service may be a comma-separated list.
    """
    for token in credentials.tokens.values():
        if token.kind == kind and (not service or service in token.service.split(",") or service == token.service):
            return token
    return None
