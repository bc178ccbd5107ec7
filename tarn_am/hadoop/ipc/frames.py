"""Hadoop IPC version 9 as bytes: preamble, frames, headers. Pure: no socket, clock or log.

A frame is a big-endian int32 length and that many bytes: a header message and its bodies, each behind a varint of its
length. Whatever a peer sends, `FrameReader` answers with whole frames or with one error that says what the peer seems to be.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, EncodeError, Message

from tarn_am.hadoop.errors import HadoopError, NotHadoop, ProtocolError, RemoteError, TooLarge
from tarn_am.hadoop.pb import rpc_pb2

PREAMBLE_NONE = b"hrpc\x09\x00\x00"
PREAMBLE_SASL = b"hrpc\x09\x00\xdf"
CALL_CONTEXT = -3
CALL_PING = -4
CALL_SASL = -33
MAX_FRAME = 128 << 20
_LENGTH = struct.Struct(">i")
_TLS_RECORDS = (0x14, 0x15, 0x16, 0x17)

AnyMessage = TypeVar("AnyMessage", bound=Message)


def frame(call_id: int, client_id: bytes, retry: int, *bodies: bytes) -> bytes:
    """One frame of ours. Raises TooLarge beyond MAX_FRAME."""
    header = rpc_pb2.RpcRequestHeaderProto(
        rpcKind=rpc_pb2.RPC_PROTOCOL_BUFFER,
        rpcOp=rpc_pb2.RpcRequestHeaderProto.RPC_FINAL_PACKET,
        callId=call_id,
        clientId=client_id,
        retryCount=retry,
    )
    content = b"".join(delimited(part) for part in (header.SerializeToString(), *bodies))
    if len(content) > MAX_FRAME:
        raise TooLarge(f"the request has {len(content)} bytes; Hadoop takes at most {MAX_FRAME}")
    return _LENGTH.pack(len(content)) + content


def serialized(message: Message) -> bytes:
    """The bytes of a message of ours; raises ProtocolError where a required field was left out."""
    try:
        return message.SerializeToString()
    except EncodeError as error:
        raise ProtocolError(f"{message.DESCRIPTOR.name} cannot be sent: {error}") from error


def parsed(kind: type[AnyMessage], data: bytes) -> AnyMessage:
    """A message of the peer; raises ProtocolError."""
    try:
        message = kind.FromString(data)
    except DecodeError as error:
        raise ProtocolError(f"sent {len(data)} bytes that are no {kind.DESCRIPTOR.name}") from error
    # The parser itself lets required fields be absent.
    if not message.IsInitialized():
        raise ProtocolError(f"sent a {kind.DESCRIPTOR.name} that lacks a required field")
    return message


def delimited(data: bytes) -> bytes:
    """`data` behind the varint of its length."""
    length, out = len(data), bytearray()
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out) + data


def split(content: bytes) -> list[bytes]:
    """The delimited parts of a frame; raises ProtocolError when they do not fill it exactly."""
    parts, at = [], 0
    while at < len(content):
        length, shift = 0, 0
        while True:
            if at >= len(content) or shift > 28:
                raise ProtocolError("sent a frame whose inner length is torn")
            byte = content[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if at + length > len(content):
            raise ProtocolError(f"sent a frame with a part of {length} bytes that ends beyond the frame")
        parts.append(content[at : at + length])
        at += length
    return parts


@dataclass(frozen=True)
class Reply:
    """One answer: `body` on success, `error` otherwise. `call_id` is signed, as we sent it."""

    call_id: int
    body: bytes
    error: RemoteError | None


def reply(content: bytes) -> Reply:
    """Reads a response frame; raises ProtocolError."""
    parts = split(content)
    if not parts or len(parts) > 2:
        raise ProtocolError(f"sent a response of {len(parts)} parts; one or two are right")
    header = parsed(rpc_pb2.RpcResponseHeaderProto, parts[0])
    call_id = header.callId - (1 << 32) if header.callId >= 1 << 31 else header.callId
    if header.status == rpc_pb2.RpcResponseHeaderProto.SUCCESS:
        return Reply(call_id, parts[1] if len(parts) == 2 else b"", None)
    fatal = header.status == rpc_pb2.RpcResponseHeaderProto.FATAL
    return Reply(call_id, b"", RemoteError(header.exceptionClassName, header.errorMsg, detail=header.errorDetail, fatal=fatal))


class FrameReader:
    """Turns whatever pieces arrive into the contents of whole frames.

    `first` says that nothing of this peer was read yet, so that a length out of range means another protocol altogether.
    """

    def __init__(self, *, limit: int = MAX_FRAME, first: bool = True) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._first = first

    @property
    def buffered(self) -> int:
        """Bytes of a frame that is not yet whole."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that `data` completes, to be exhausted; raises NotHadoop, ProtocolError or TooLarge behind the good ones."""
        self._buffer += data
        while len(self._buffer) >= 4:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if self._first and length == -1 and not _old_fatal_is_whole(self._buffer):
                break
            if not 0 < length <= self._limit:
                raise self._out_of_range(length)
            if len(self._buffer) < 4 + length:
                break
            content = bytes(self._buffer[4 : 4 + length])
            del self._buffer[: 4 + length]
            self._first = False
            yield content
        if self._first and len(self._buffer) > 1 and self._buffer[0] in _TLS_RECORDS and self._buffer[1] == 3:
            raise self._out_of_range(0)

    def ended(self) -> HadoopError | None:
        """What the end of the stream means for the bytes that are left: None where it fell between two frames."""
        if not self._buffer:
            return None
        length = int.from_bytes(self._buffer[:4], "big", signed=True)
        if self._first and (len(self._buffer) < 4 or not 0 < length <= self._limit):
            return self._out_of_range(length)
        return ProtocolError(f"closed the connection in the middle of a frame, after {len(self._buffer)} bytes of it")

    def _out_of_range(self, length: int) -> HadoopError:
        head = bytes(self._buffer[:64])
        if not self._first:
            if length > 0:
                return TooLarge(f"sent a frame of {length} bytes; at most {self._limit} are allowed")
            return ProtocolError(f"sent a frame of the length {length}")
        if head.startswith(b"HTTP"):
            return NotHadoop("answers HTTP, not Hadoop RPC: the address is that of a web port")
        if head[0] in _TLS_RECORDS and head[1:2] == b"\x03":
            return NotHadoop("answers TLS, not Hadoop RPC: the address is that of an HTTPS port or of a TLS proxy")
        if length == -1:
            return _old_fatal(bytes(self._buffer))
        return NotHadoop(f"does not answer Hadoop RPC: its first bytes are {head!r}")


def _old_fatal_texts(data: bytes) -> tuple[list[bytes], bool]:
    """−1 once or twice, then two counted strings: what is there of them, and whether that is all."""
    at, texts = 8 if data[4:8] == b"\xff\xff\xff\xff" else 4, []
    for _ in range(2):
        length = max(0, int.from_bytes(data[at : at + 4], "big", signed=True))
        texts.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return texts, len(data) >= at and len(data) > 8


def _old_fatal_is_whole(data: bytearray) -> bool:
    return len(data) > 4096 or _old_fatal_texts(bytes(data))[1]


def _old_fatal(data: bytes) -> HadoopError:
    """The answer of daemons before version 9, or to a version they do not know."""
    name, text = (part.decode(errors="replace") for part in _old_fatal_texts(data)[0])
    return NotHadoop(f"speaks another version of Hadoop RPC than 9 ({name or 'no reason given'}: {text[:300]})")
