"""The state directory of one application: what its next Application Master must know, and what only one may have at a time.

    lock              held (flock) by the living AM
    application.json  the application's id, the attempt, the target, the agents' port
    secret            what agents prove themselves with            (0600)
    key.pem cert.pem  of the agents' port, self-signed             (0600)
    am.json           the rendezvous record of the living AM
    token             of the HTTP API, where `tarn` finds it       (0600)
    curl-header       the same as a header, for `curl -H @FILE`    (0600)

Every file is written whole or not at all. A file that is torn is told in one sentence with the fix, never guessed around.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tarn_common.endpoint import EndpointError, Rendezvous, decode_rendezvous
from tarn_common.ids import ApplicationId, IdError, application_id, make_application_id
from tarn_common.wire.limits import TLS_NAME


class StateError(Exception):
    """The state directory cannot be used; the text says why and what to do."""


@dataclass(frozen=True)
class Application:
    """`target` None: none was kept, or the application was shut down. `agent_port` 0: none was used yet."""

    application_id: ApplicationId
    attempt: int = 0
    target: int | None = None
    agent_port: int = 0


@dataclass(frozen=True)
class Identity:
    """The TLS identity of the agents' port, PEM."""

    key: bytes
    certificate: bytes

    def __repr__(self) -> str:
        return "Identity(…)"


class StateDir:
    """One application's directory, made when it is not there. Only `application_id` and `rendezvous` may be read without the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StateError(f"the state directory {path} cannot be made: {error.strerror}; choose another one") from error
        if not os.access(path, os.W_OK | os.X_OK):
            raise StateError(f"the state directory {path} cannot be written by this user: choose another one")

    @property
    def rendezvous_file(self) -> Path:
        return self.path / "am.json"

    @property
    def meeting_place(self) -> str:
        """The rendezvous file as agents are told it."""
        return str(self.rendezvous_file.resolve())

    @property
    def application_id(self) -> ApplicationId:
        """The id that this directory's application has; given at the first question."""
        return self.application().application_id

    def application(self) -> Application:
        """Raises StateError when the file is torn."""
        found = self._load()
        if found is not None:
            return found
        started_ms = int(time.time() * 1000)
        fresh = Application(make_application_id(started_ms, 1))
        # Of two that begin at once, the second reads what the first wrote.
        self._write("application.json", _encoded(fresh), once=True)
        return self._load() or fresh

    def lock(self) -> None:
        """Takes the directory for this process's life, if it has it not yet; raises StateError naming who has it."""
        if self._lock is not None:
            return
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(f"{self.path / 'lock'} cannot be opened: {error.strerror}; choose another --state-dir") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise StateError(
                    f"{self.path / 'lock'} cannot be locked: {error.strerror}; use a directory of a local file system"
                ) from error
            at = self.rendezvous()
            where = f" at {at.http}" if at is not None and at.http else ""
            raise StateError(
                f"an Application Master (pid {holder or 'unknown'}{where}) has the state directory {self.path}: "
                "end it with `tarn stop`, or choose another --state-dir"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def begin_attempt(self) -> Application:
        """What the last Application Master left, with this one counted."""
        found = self.application()
        found = replace(found, attempt=found.attempt + 1)
        self._keep(found)
        return found

    def keep_target(self, target: int | None) -> None:
        self._keep(replace(self.application(), target=target))

    def keep_agent_port(self, port: int) -> None:
        self._keep(replace(self.application(), agent_port=port))

    def secret(self) -> str:
        """The application's secret, made at the first start."""
        path = self.path / "secret"
        if not path.exists():
            self._write("secret", secrets.token_urlsafe(32).encode(), once=True)
        text = _text(path).strip()
        if len(text) < 16 or not text.isascii() or not text.isprintable():
            raise StateError(f"{path} holds no usable secret: stop what runs, remove the file, and start again")
        return text

    def identity(self) -> Identity:
        """Key and certificate of the agents' port, made at the first start."""
        key, certificate = self.path / "key.pem", self.path / "cert.pem"
        if not (key.exists() and certificate.exists()):
            made = make_identity()
            self._write("key.pem", made.key)
            self._write("cert.pem", made.certificate)
        found = Identity(_text(key).encode(), _text(certificate).encode())
        try:
            private = serialization.load_pem_private_key(found.key, None)
            matches = private.public_key() == x509.load_pem_x509_certificate(found.certificate).public_key()
        except (ValueError, TypeError):
            matches = False
        if not matches:
            raise StateError(f"{key} and {certificate} are torn or do not belong together: stop what runs, remove both, and start again")
        return found

    @property
    def token_file(self) -> Path:
        return self.path / "token"

    @property
    def curl_header_file(self) -> Path:
        return self.path / "curl-header"

    def make_token(self) -> None:
        """A token for the HTTP API, unless one was made or kept before."""
        if not self.token_file.exists():
            self.keep_token(secrets.token_urlsafe(24))

    def keep_token(self, token: str) -> None:
        self._write("token", f"{token}\n".encode())

    def forget_token(self) -> None:
        """No token of an earlier start is sent to an API that has none."""
        for path in (self.token_file, self.curl_header_file):
            path.unlink(missing_ok=True)

    def write_curl_header(self, token: str) -> None:
        """For people: what is on curl's command line is seen by everyone who can list processes."""
        self._write("curl-header", f"X-TARN-Token: {token}\n".encode())

    def rendezvous(self) -> Rendezvous | None:
        """The record of the AM that lives, or lived last without an orderly end."""
        try:
            return decode_rendezvous(self.rendezvous_file.read_bytes())
        except (OSError, EndpointError):
            return None

    def write_rendezvous(self, record: Rendezvous) -> None:
        self._write("am.json", record.encode())

    def remove_rendezvous(self) -> None:
        self.rendezvous_file.unlink(missing_ok=True)

    def _load(self) -> Application | None:
        path = self.path / "application.json"
        if not path.exists():
            return None
        try:
            values = json.loads(_text(path))
            target = values["target"]
            return Application(
                application_id(values["application_id"]),
                _within("attempt", values["attempt"]),
                None if target is None else _within("target", target),
                _within("agent_port", values["agent_port"], 65535),
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError, IdError) as error:
            raise StateError(
                f"{path} is torn ({error}): remove it to begin a new application; containers that still run then end themselves"
            ) from error

    def _keep(self, application: Application) -> None:
        self._write("application.json", _encoded(application))

    def _write(self, name: str, data: bytes, *, once: bool = False) -> None:
        """Mode 0600, whole or not at all. `once`: what is there already stays."""
        path = self.path / name
        temporary = self.path / f".{name}.{os.getpid()}.{secrets.token_hex(4)}"
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if once:
                with contextlib.suppress(FileExistsError):
                    os.link(temporary, path)
            else:
                temporary.replace(path)
        except OSError as error:
            raise StateError(f"{path} cannot be written: {error.strerror}; make room, or choose another --state-dir") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def make_identity() -> Identity:
    """A key and a self-signed certificate for the name that agents check (tarn_common.wire.limits.TLS_NAME)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, TLS_NAME)])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(TLS_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Identity(private, certificate.public_bytes(serialization.Encoding.PEM))


def _within(name: str, value: Any, high: int = 1 << 53) -> int:
    number = int(value)
    if not 0 <= number <= high:
        raise ValueError(f"{name} is {number}")
    return number


def _encoded(application: Application) -> bytes:
    values: dict[str, Any] = asdict(application)
    return json.dumps(values, sort_keys=True).encode()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise StateError(f"{path} cannot be read: {error.strerror}") from error
