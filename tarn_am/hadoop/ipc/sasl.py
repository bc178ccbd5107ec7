"""The SASL exchange of Hadoop RPC: who we are, which of the server's offers we take, and when we are done. Pure.

NEGOTIATING ──NEGOTIATE──► PROVING ──CHALLENGE──► PROVING … ──SUCCESS──► DONE
     └──SUCCESS (a server without security)──► DONE, as SIMPLE
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from tarn_am.hadoop.errors import AuthenticationError, ProtocolError
from tarn_am.hadoop.ipc.digest import CIPHERS, DigestMd5
from tarn_am.hadoop.ipc.gss import Gss
from tarn_am.hadoop.ipc.protection import STRONGEST_FIRST, Layer, Mechanism, Protection
from tarn_am.hadoop.pb import rpc_pb2
from tarn_common.credentials import Token

_Wire = rpc_pb2.RpcSaslProto


@dataclass(frozen=True)
class Login:
    """Who a connection acts as, by what proof.

    `user` is the name that a server without security believes. `token` and `principal` (the server's, as configured: `_HOST`
    stands for its host name, `*` for anything) are proofs; a login with neither is SIMPLE. `simple_too` allows a login with proofs to fall back to SIMPLE where
    the server wants none: never on a cluster known to be secure, for anyone on the path could then ask for it. `allowed`
    and `ciphers` (of DIGEST-MD5) stand in the order of preference.
    """

    user: str
    token: Token | None = field(default=None, repr=False)
    principal: str = ""
    simple_too: bool = False
    allowed: Sequence[Protection] = STRONGEST_FIRST
    ciphers: Sequence[str] = tuple(CIPHERS)

    @property
    def needs_sasl(self) -> bool:
        return self.token is not None or bool(self.principal)

    @property
    def takes_simple(self) -> bool:
        return self.simple_too or not self.needs_sasl


class SaslState(Enum):
    NEGOTIATING = "negotiating"
    PROVING = "proving"
    DONE = "done"


class Sasl:
    """One exchange. `begin` gives the first message; `receive` takes the server's and gives ours, or None when nothing is to send.

    `names` are the server's host names in lower case, for `_HOST`. After DONE, `method` is SIMPLE, TOKEN or KERBEROS, and `layer` what protects every later byte (None: nothing).
    """

    def __init__(self, login: Login, names: Sequence[str], nonce: Callable[[], str]) -> None:
        self._login, self._names, self._nonce = login, names, nonce
        self._mechanism: Mechanism | None = None
        self.state = SaslState.NEGOTIATING
        self.method = ""
        self.layer: Layer | None = None

    @staticmethod
    def begin() -> _Wire:
        return _Wire(state=_Wire.NEGOTIATE)

    def receive(self, message: _Wire) -> _Wire | None:
        """Raises AuthenticationError, or ProtocolError for a message that does not belong here."""
        step = _STEPS.get((self.state, message.state))
        if step is None:
            name = _Wire.SaslState.Name(message.state)
            raise ProtocolError(f"sent {name} while the SASL exchange was {self.state.value}")
        return step(self, message)

    def _unsecured(self, _: _Wire) -> None:
        if not self._login.takes_simple:
            raise AuthenticationError(
                "the server asks for no proof of identity, but this client was told that the cluster is secure; see hadoop.security.authentication on both sides"
            )
        self._done("SIMPLE", None)

    def _choose(self, message: _Wire) -> _Wire:
        for offer in message.auths:
            started = self._start(offer)
            if started is not None:
                chosen = _Wire.SaslAuth()
                chosen.CopyFrom(offer)
                chosen.ClearField("challenge")
                if self.state is SaslState.DONE:
                    return _Wire(state=_Wire.INITIATE, auths=[chosen])
                return _Wire(state=_Wire.INITIATE, token=started, auths=[chosen])
        raise AuthenticationError(self._no_method([(offer.method, offer.mechanism) for offer in message.auths]))

    def _start(self, offer: _Wire.SaslAuth) -> bytes | None:
        """The first token for an offer, or None where it is not for us."""
        if offer.method == "SIMPLE" and self._login.takes_simple:
            self._done("SIMPLE", None)
            return b""
        if offer.method == "TOKEN" and offer.mechanism == "DIGEST-MD5" and self._login.token is not None:
            token, uri = self._login.token, f"{offer.protocol}/{offer.serverId}"
            self._mechanism = DigestMd5.of_token(
                token.identifier, token.password, uri, self._nonce(), self._login.allowed, self._login.ciphers
            )
        elif offer.method == "KERBEROS" and offer.mechanism == "GSSAPI" and self._login.principal:
            self._mechanism = Gss(self._target(offer.protocol, offer.serverId), self._login.allowed)
        else:
            return None
        self.method, self.state = offer.method, SaslState.PROVING
        return self._mechanism.start(offer.challenge)

    def _target(self, service: str, host: str) -> str:
        """The principal we insist on: the server's own word is believed only where it agrees with the configuration."""
        offered = f"{service}/{host}"
        for name in self._names:
            primary, at, realm = self._login.principal.replace("_HOST", name).partition("@")
            if "/" not in primary and "*" not in primary:
                return self._login.principal
            if fnmatch.fnmatchcase(offered, primary):
                return offered + (at + realm if "*" not in realm else "")
        raise AuthenticationError(
            f"the server calls itself {offered}, expected is {self._login.principal} for the host {' or '.join(self._names)};"
            " see the *.principal keys and the host names on both sides"
        )

    def _answer(self, message: _Wire) -> _Wire:
        assert self._mechanism is not None
        return _Wire(state=_Wire.RESPONSE, token=self._mechanism.respond(message.token))

    def _finish(self, message: _Wire) -> None:
        assert self._mechanism is not None
        self._done(self.method, self._mechanism.finish(message.token))

    def _done(self, method: str, layer: Layer | None) -> None:
        self.method, self.layer, self.state = method, layer, SaslState.DONE

    def _no_method(self, offered: Sequence[tuple[str, str]]) -> str:
        names = ", ".join(f"{method} by {mechanism}" if mechanism else method for method, mechanism in offered) or "nothing"
        held = [
            name
            for name, has in (("a token", self._login.token), ("Kerberos", self._login.principal), ("SIMPLE", self._login.takes_simple))
            if has
        ]
        return f"the server accepts {names}; this client has {' and '.join(held) or 'nothing'} to offer"


_STEPS: dict[tuple[SaslState, int], Callable[[Sasl, _Wire], _Wire | None]] = {
    (SaslState.NEGOTIATING, _Wire.SUCCESS): Sasl._unsecured,
    (SaslState.NEGOTIATING, _Wire.NEGOTIATE): Sasl._choose,
    (SaslState.PROVING, _Wire.CHALLENGE): Sasl._answer,
    (SaslState.PROVING, _Wire.SUCCESS): Sasl._finish,
}
"""The whole exchange; what is not here is a ProtocolError."""
