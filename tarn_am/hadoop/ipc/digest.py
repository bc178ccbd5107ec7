"""DIGEST-MD5 (RFC 2831, md5-sess) as Hadoop uses it for tokens: authentication, integrity and privacy. Pure.

The client nonce is an argument. MD5, RC4 and DES are Hadoop's choice, not ours: Java's DIGEST-MD5 offers nothing better (no
AES), and the Application Master's port takes nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.decrepit.ciphers.algorithms import ARC4, TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.modes import CBC

from tarn_am.hadoop.errors import AuthenticationError, ProtocolError
from tarn_am.hadoop.ipc.protection import STRONGEST_FIRST, Layer, Protection

_MAC, _TRAILER = 10, 16
_VERSION = b"\x00\x01"
_SIGN = {True: b"client-to-server", False: b"server-to-client"}


@dataclass(frozen=True)
class _CipherRow:
    """`key_bytes` of H(A1) enter the sealing key; `block` is 1 for a stream."""

    key_bytes: int
    block: int
    make: Callable[[bytes], Cipher[CBC] | Cipher[None]]


def _rc4(key: bytes) -> Cipher[None]:
    return Cipher(ARC4(key), None)


def _triple_des(key: bytes) -> Cipher[CBC]:
    first, second = _des_key(key[:7]), _des_key(key[7:14])
    return Cipher(TripleDES(first + second + first), CBC(key[8:16]))


def _single_des(key: bytes) -> Cipher[CBC]:
    return Cipher(TripleDES(_des_key(key[:7]) * 3), CBC(key[8:16]))


def _des_key(seven: bytes) -> bytes:
    """56 bits spread over 8 bytes, each with odd parity."""
    bits = int.from_bytes(seven, "big")
    out = bytearray()
    for shift in range(49, -1, -7):
        byte = (bits >> shift & 0x7F) << 1
        out.append(byte | (bin(byte).count("1") + 1) % 2)
    return bytes(out)


CIPHERS: Mapping[str, _CipherRow] = {
    "rc4": _CipherRow(16, 1, _rc4),
    "3des": _CipherRow(16, 8, _triple_des),
    "rc4-56": _CipherRow(7, 1, _rc4),
    "des": _CipherRow(16, 8, _single_des),
    "rc4-40": _CipherRow(5, 1, _rc4),
}
"""In the order of our preference."""


class _Sealer(Protocol):
    def update(self, data: bytes) -> bytes: ...


class DigestMd5:
    """One exchange; `user` and `password` are a token's identifier and password in base64 (`of_token`)."""

    def __init__(
        self,
        user: str,
        password: str,
        uri: str,
        cnonce: str,
        allowed: Sequence[Protection] = STRONGEST_FIRST,
        ciphers: Sequence[str] = tuple(CIPHERS),
    ) -> None:
        self._user, self._password, self._uri, self._cnonce = user, password, uri, cnonce
        self._allowed, self._ciphers = allowed, ciphers
        self._session_key = b""
        self._nonce = ""
        self._protection = Protection.AUTHENTICATION
        self._cipher = ""
        self._peer_buffer = 65536

    @classmethod
    def of_token(
        cls,
        identifier: bytes,
        password: bytes,
        uri: str,
        cnonce: str,
        allowed: Sequence[Protection] = STRONGEST_FIRST,
        ciphers: Sequence[str] = tuple(CIPHERS),
    ) -> DigestMd5:
        return cls(base64.b64encode(identifier).decode(), base64.b64encode(password).decode(), uri, cnonce, allowed, ciphers)

    def start(self, challenge: bytes) -> bytes:
        return self.respond(challenge) if challenge else b""

    def respond(self, challenge: bytes) -> bytes:
        """The digest response. Raises AuthenticationError when nothing that the server offers is allowed here."""
        if self._session_key:
            raise AuthenticationError("the server sent a second DIGEST-MD5 challenge")
        offer = parse_directives(challenge)
        realm, self._nonce = offer.get("realm", ""), offer.get("nonce", "")
        if not self._nonce or offer.get("algorithm") != "md5-sess":
            raise AuthenticationError("the server's DIGEST-MD5 challenge lacks its nonce or asks for another algorithm than md5-sess")
        self._protection = self._choose_protection(_words(offer.get("qop", "auth")))
        self._peer_buffer = _buffer_size(offer.get("maxbuf", ""))
        self._session_key = _md5(_md5(f"{self._user}:{realm}:{self._password}".encode()) + f":{self._nonce}:{self._cnonce}".encode())
        fields = [
            "charset=utf-8",
            f'username="{self._user}"',
            f'realm="{_quoted(realm)}"',
            f'nonce="{_quoted(self._nonce)}"',
            "nc=00000001",
            f'cnonce="{self._cnonce}"',
            f'digest-uri="{self._uri}"',
            "maxbuf=65536",
            f"response={self._proof('AUTHENTICATE')}",
            f"qop={self._protection.value}",
        ]
        if self._protection is Protection.PRIVACY:
            self._cipher = self._choose_cipher(_words(offer.get("cipher", "")))
            fields.append(f'cipher="{self._cipher}"')
        return ",".join(fields).encode()

    def finish(self, token: bytes) -> Layer | None:
        """Checks `rspauth`, which only a server that knows the password can make."""
        proof = parse_directives(token).get("rspauth", "")
        if not self._session_key or not hmac.compare_digest(proof.encode(), self._proof("").encode()):
            raise AuthenticationError("the server did not prove that it knows the token's password")
        if self._protection is Protection.AUTHENTICATION:
            return None
        row = CIPHERS[self._cipher] if self._cipher else None
        return DigestLayer(self._session_key, row, chunk=max(1024, self._peer_buffer - 64))

    def _choose_protection(self, offered: Sequence[str]) -> Protection:
        for protection in self._allowed:
            if protection.value in offered:
                return protection
        wanted = ", ".join(p.value for p in self._allowed)
        raise AuthenticationError(
            f"the server protects by {', '.join(offered)}, here {wanted} is allowed; see hadoop.rpc.protection on both sides"
        )

    def _choose_cipher(self, offered: Sequence[str]) -> str:
        for name in self._ciphers:
            if name in offered and _works(CIPHERS[name]):
                return name
        raise AuthenticationError(
            f"no cipher of the server's ({', '.join(offered) or 'none'}) is known here and allowed by this machine's OpenSSL"
        )

    def _proof(self, method: str) -> str:
        a2 = f"{method}:{self._uri}" + ("" if self._protection is Protection.AUTHENTICATION else ":" + "0" * 32)
        middle = f"{self._nonce}:00000001:{self._cnonce}:{self._protection.value}"
        return _md5(f"{self._session_key.hex()}:{middle}:{_md5(a2.encode()).hex()}".encode()).hex()


class DigestLayer:
    """Integrity, and privacy where a cipher was agreed; `client=False` is the server's end (for tests of both directions)."""

    def __init__(self, session_key: bytes, row: _CipherRow | None, *, chunk: int = 65472, client: bool = True) -> None:
        self.chunk = chunk
        self._block = row.block if row else 1
        self._sent = self._received = 0
        self._out_key, self._in_key = _signing_key(session_key, client), _signing_key(session_key, not client)
        self._seal: _Sealer | None = None
        self._open: _Sealer | None = None
        if row:
            self._seal = row.make(_sealing_key(session_key, row, client)).encryptor()
            self._open = row.make(_sealing_key(session_key, row, not client)).decryptor()

    def wrap(self, message: bytes) -> bytes:
        sequence = self._sent.to_bytes(4, "big")
        self._sent = self._sent + 1 & 0xFFFFFFFF
        mac = hmac.digest(self._out_key, sequence + message, "md5")[:_MAC]
        if self._seal is not None:
            message = self._seal.update(message + self._padding(len(message)) + mac)
            mac = b""
        return message + mac + _VERSION + sequence

    def unwrap(self, data: bytes) -> bytes:
        sequence = self._received.to_bytes(4, "big")
        if len(data) < _TRAILER or data[-6:-4] != _VERSION or data[-4:] != sequence:
            raise ProtocolError("sent a protected message that is torn, repeated or out of order")
        self._received = self._received + 1 & 0xFFFFFFFF
        sealed = data[:-6]
        if self._open is not None:
            if len(sealed) % self._block:
                raise ProtocolError("sent a protected message whose length fits no block of the cipher")
            sealed = self._open.update(sealed)
        message, mac = sealed[:-_MAC], sealed[-_MAC:]
        if self._block > 1:
            message = message[: -message[-1]] if message and 0 < message[-1] <= self._block else b""
        if not hmac.compare_digest(mac, hmac.digest(self._in_key, sequence + message, "md5")[:_MAC]):
            raise ProtocolError("sent a protected message with a wrong proof of origin")
        return message

    def _padding(self, length: int) -> bytes:
        if self._block == 1:
            return b""
        count = self._block - (length + _MAC) % self._block
        return bytes([count]) * count


def parse_directives(text: bytes) -> dict[str, str]:
    """`key=value,key="quoted, value"` as RFC 2831 has it; a repeated key keeps its first value. Raises AuthenticationError."""
    found: dict[str, str] = {}
    rest = text.decode("utf-8", errors="replace").strip(" ,\t")
    while rest:
        key, equals, rest = rest.partition("=")
        if not equals:
            raise AuthenticationError(f"the server's DIGEST-MD5 message cannot be read at {key[:40]!r}")
        value, rest = _take_value(rest.lstrip())
        found.setdefault(key.strip().lower(), value)
        rest = rest.lstrip(" ,\t")
    return found


def _take_value(text: str) -> tuple[str, str]:
    if not text.startswith('"'):
        value, _, rest = text.partition(",")
        return value.strip(), rest
    out, at = [], 1
    while at < len(text) and text[at] != '"':
        at += text[at] == "\\"
        out.append(text[at : at + 1])
        at += 1
    if at >= len(text):
        raise AuthenticationError("the server's DIGEST-MD5 message ends inside a quoted value")
    return "".join(out), text[at + 1 :]


def _buffer_size(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 65536


def _words(text: str) -> list[str]:
    return [word.strip().lower() for word in text.split(",") if word.strip()]


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _works(row: _CipherRow) -> bool:
    try:
        row.make(bytes(16)[: max(row.key_bytes, 5)] if row.block == 1 else bytes(range(16))).encryptor()
    except (UnsupportedAlgorithm, ValueError):
        return False
    return True


def _signing_key(session_key: bytes, client: bool) -> bytes:
    return _md5(session_key + b"Digest session key to " + _SIGN[client] + b" signing key magic constant")


def _sealing_key(session_key: bytes, row: _CipherRow, client: bool) -> bytes:
    return _md5(session_key[: row.key_bytes] + b"Digest H(A1) to " + _SIGN[client] + b" sealing key magic constant")


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
