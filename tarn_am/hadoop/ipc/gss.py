"""Kerberos through the system's GSSAPI library (RFC 4752), as Hadoop uses it. An optional extra: `pip install "tarn[kerberos]"`.

Where the ticket comes from (ticket cache, or KRB5_CLIENT_KTNAME) is the library's affair. `start` and `respond` may wait for
the KDC, so the connection calls them off its event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tarn_am.hadoop.errors import AuthenticationError, ProtocolError
from tarn_am.hadoop.ipc.protection import STRONGEST_FIRST, Layer, Protection

if TYPE_CHECKING:
    import gssapi

_BITS = {Protection.AUTHENTICATION: 1, Protection.INTEGRITY: 2, Protection.PRIVACY: 4}
_CHUNK = 65536 - 512
"""Room for what GSSAPI adds, within the 64 KiB that we announce and that Java's side announces."""
T = TypeVar("T")


class Gss:
    """One exchange with the service principal `target` (`rm/host.example.com@REALM`)."""

    def __init__(self, target: str, allowed: Sequence[Protection] = STRONGEST_FIRST) -> None:
        self._target, self._allowed = target, allowed
        self._context: gssapi.SecurityContext | None = None
        self._established = False
        self._protection: Protection | None = None

    def start(self, challenge: bytes) -> bytes:
        try:
            # Imported here because the package needs the Kerberos libraries of the system, which a cluster without Kerberos lacks.
            import gssapi
        except (ImportError, OSError) as error:
            raise AuthenticationError(
                f'the cluster asks for Kerberos and the gssapi package cannot be loaded ({error}); pip install "tarn[kerberos]"'
            ) from error
        flags = gssapi.RequirementFlag
        wanted = (
            flags.mutual_authentication | flags.integrity | flags.confidentiality | flags.replay_detection | flags.out_of_sequence_detection
        )
        name = gssapi.Name(self._target, gssapi.NameType.kerberos_principal)
        self._context = self._ask(lambda: gssapi.SecurityContext(name=name, mech=gssapi.MechType.kerberos, flags=wanted, usage="initiate"))
        return self._step(challenge or None)

    def respond(self, challenge: bytes) -> bytes:
        if self._context is None:
            raise AuthenticationError("the server sent a Kerberos challenge before we began")
        return self._agree(challenge) if self._established else self._step(challenge)

    def finish(self, token: bytes) -> Layer | None:
        if token and not self._established:
            self._step(token)
        if self._context is None or not self._established or self._protection is None:
            raise AuthenticationError("the server said success before it had proved itself by Kerberos")
        if self._protection is Protection.AUTHENTICATION:
            return None
        return GssLayer(self._context, secret=self._protection is Protection.PRIVACY)

    def _step(self, token: bytes | None) -> bytes:
        context = self._context
        assert context is not None
        answer: bytes | None = self._ask(lambda: context.step(token))
        self._established = bool(context.complete)
        return answer or b""

    def _agree(self, challenge: bytes) -> bytes:
        """The server offers protections as bits with its buffer size; we answer with one bit and ours."""
        context = self._context
        assert context is not None
        offer: bytes = self._ask(lambda: bytes(context.unwrap(challenge).message))
        if len(offer) != 4 or self._protection is not None:
            raise AuthenticationError("the server's offer of protections cannot be read")
        for protection in self._allowed:
            if offer[0] & _BITS[protection]:
                break
        else:
            raise AuthenticationError(
                f"the server protects by mask {offer[0]}, here {', '.join(p.value for p in self._allowed)} is allowed;"
                " see hadoop.rpc.protection on both sides"
            )
        self._protection = protection
        size = b"\x00\x00\x00" if protection is Protection.AUTHENTICATION else (65536).to_bytes(3, "big")
        answer = bytes([_BITS[protection]]) + size
        return self._ask(lambda: bytes(context.wrap(answer, False).message))

    def _ask(self, step: Callable[[], T]) -> T:
        import gssapi  # here for the reason given in start

        try:
            return step()
        except gssapi.exceptions.GSSError as error:
            raise AuthenticationError(
                f"Kerberos cannot prove us to {self._target}: {_plain(error)}; get a ticket with kinit, or name a keytab in KRB5_CLIENT_KTNAME"
            ) from error


class GssLayer:
    """Integrity or privacy by the established context."""

    chunk = _CHUNK

    def __init__(self, context: gssapi.SecurityContext, *, secret: bool) -> None:
        self._context, self._secret = context, secret

    def wrap(self, message: bytes) -> bytes:
        return self._guard(lambda: bytes(self._context.wrap(message, self._secret).message))

    def unwrap(self, data: bytes) -> bytes:
        def opened() -> bytes:
            result = self._context.unwrap(data)
            if self._secret and not result.encrypted:
                raise ProtocolError("sent a message in the clear though privacy was agreed")
            return bytes(result.message)

        return self._guard(opened)

    def _guard(self, step: Callable[[], bytes]) -> bytes:
        import gssapi  # here for the reason given in Gss.start

        try:
            return step()
        except gssapi.exceptions.GSSError as error:
            raise ProtocolError(f"sent a protected message that Kerberos refuses: {_plain(error)}") from error


def _plain(error: Any) -> str:
    """The library's own words on one line."""
    try:
        parts = [*error.get_all_statuses(error.maj_code, True), *error.get_all_statuses(error.min_code, False)]
    except (AttributeError, TypeError, ValueError):
        parts = [str(error)]
    return "; ".join(part for part in (" ".join(str(p).split()) for p in parts) if part) or "no reason given"
