"""One connection's whole conversation as a state machine over bytes: preamble, SASL, context, calls, wrapping. Pure.

    NEW ──begin──► SASL ──agreed──► OPEN        (a SIMPLE login goes from NEW to OPEN at once)
    any ──an error is raised──► BROKEN          (nothing may be sent or received any more)

`begin`, `receive`, `call` and `ping` leave bytes in `outgoing`, which the owner of the socket takes with `take`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum

from tarn_am.hadoop.errors import HadoopError, ProtocolError
from tarn_am.hadoop.ipc import frames
from tarn_am.hadoop.ipc.protection import Layer
from tarn_am.hadoop.ipc.sasl import Login, Sasl, SaslState
from tarn_am.hadoop.pb import rpc_pb2
from tarn_am.hadoop.protocols import RpcProtocol


class SessionState(Enum):
    NEW = "new"
    SASL = "sasl"
    OPEN = "open"
    BROKEN = "broken"


class Session:
    """`names` are the server's host names in lower case. `client_id` is 16 bytes, the same for all connections of a client; `nonce` gives a fresh text for DIGEST-MD5."""

    def __init__(
        self,
        login: Login,
        names: Sequence[str],
        protocol: RpcProtocol,
        client_id: bytes,
        nonce: Callable[[], str],
        *,
        limit: int = frames.MAX_FRAME,
    ) -> None:
        self._login, self._protocol, self._client_id, self._limit = login, protocol, client_id, limit
        self._sasl = Sasl(login, names, nonce)
        self._reader = frames.FrameReader(limit=limit)
        self._unwrapped = frames.FrameReader(limit=limit, first=False)
        self._outgoing = bytearray()
        self.state = SessionState.NEW

    @property
    def method(self) -> str:
        """SIMPLE, TOKEN or KERBEROS, once OPEN."""
        return self._sasl.method or "SIMPLE"

    @property
    def layer(self) -> Layer | None:
        return self._sasl.layer

    def take(self) -> bytes:
        """What must be written now."""
        out = bytes(self._outgoing)
        self._outgoing.clear()
        return out

    def begin(self) -> None:
        self._expect(SessionState.NEW)
        if self._login.needs_sasl:
            self._outgoing += frames.PREAMBLE_SASL
            self._send_sasl(Sasl.begin())
            self.state = SessionState.SASL
        else:
            self._outgoing += frames.PREAMBLE_NONE
            self._open()

    def call(self, call_id: int, retry: int, protocol: RpcProtocol, method: str, request: bytes) -> None:
        """Sends a request; nothing is sent when it raises (TooLarge)."""
        self._expect(SessionState.OPEN)
        header = rpc_pb2.RequestHeaderProto(
            methodName=method, declaringClassProtocolName=protocol.name, clientProtocolVersion=protocol.version
        )
        self._send(frames.frame(call_id, self._client_id, retry, header.SerializeToString(), request))

    def ping(self) -> None:
        self._expect(SessionState.OPEN)
        self._send(frames.frame(frames.CALL_PING, self._client_id, -1))

    def receive(self, data: bytes) -> Iterator[frames.Reply]:
        """The answers that `data` completes, to be exhausted; behind the good ones, raises the error that ends the connection."""
        if self.state not in (SessionState.SASL, SessionState.OPEN):
            raise ProtocolError(f"bytes arrived while the session was {self.state.value}")
        try:
            for content in self._reader.feed(data):
                yield from self._receive_frame(content)
        except HadoopError:
            self.state = SessionState.BROKEN
            raise

    def ended(self) -> HadoopError | None:
        """The peer closed: what that means, or None where it fell between two frames."""
        self.state = SessionState.BROKEN
        return self._reader.ended() or self._unwrapped.ended()

    def _receive_frame(self, content: bytes) -> Iterator[frames.Reply]:
        reply = frames.reply(content)
        if self.state is SessionState.SASL:
            self._receive_sasl(reply)
        elif self.layer is None:
            yield _unless_fatal(reply)
        else:
            message = _sasl_message(reply)
            if message.state != rpc_pb2.RpcSaslProto.WRAP:
                raise ProtocolError("sent an unprotected message though protection was agreed")
            for inner in self._unwrapped.feed(self.layer.unwrap(message.token)):
                yield _unless_fatal(frames.reply(inner))

    def _receive_sasl(self, reply: frames.Reply) -> None:
        if reply.error is not None:
            raise reply.error
        answer = self._sasl.receive(_sasl_message(reply))
        if answer is not None:
            self._send_sasl(answer)
        if self._sasl.state is SaslState.DONE:
            self._open()

    def _open(self) -> None:
        self.state = SessionState.OPEN
        context = rpc_pb2.IpcConnectionContextProto(protocol=self._protocol.name, userInfo=rpc_pb2.UserInformationProto())
        if self.method == "SIMPLE":
            context.userInfo.effectiveUser = self._login.user
        self._send(frames.frame(frames.CALL_CONTEXT, self._client_id, -1, context.SerializeToString()))

    def _send_sasl(self, message: rpc_pb2.RpcSaslProto) -> None:
        self._outgoing += frames.frame(frames.CALL_SASL, b"", -1, message.SerializeToString())

    def _send(self, data: bytes) -> None:
        """As it is, or in wrapped pieces that the peer's buffer holds."""
        if self.layer is None:
            self._outgoing += data
            return
        for at in range(0, len(data), self.layer.chunk):
            token = self.layer.wrap(data[at : at + self.layer.chunk])
            self._send_sasl(rpc_pb2.RpcSaslProto(state=rpc_pb2.RpcSaslProto.WRAP, token=token))

    def _expect(self, state: SessionState) -> None:
        if self.state is not state:
            raise ProtocolError(f"the session is {self.state.value}, not {state.value}")


def _sasl_message(reply: frames.Reply) -> rpc_pb2.RpcSaslProto:
    if reply.error is not None:
        raise ProtocolError("sent an unprotected error though protection was agreed")
    if reply.call_id != frames.CALL_SASL:
        raise ProtocolError(f"sent the call id {reply.call_id} where a SASL message was due")
    return frames.parsed(rpc_pb2.RpcSaslProto, reply.body)


def _unless_fatal(reply: frames.Reply) -> frames.Reply:
    """A fatal answer concerns the connection, whatever call id it bears."""
    if reply.error is not None and (reply.error.fatal or reply.call_id < 0):
        raise reply.error
    return reply
