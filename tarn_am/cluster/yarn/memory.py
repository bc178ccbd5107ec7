"""What a second process of the same attempt must know, in one file of the AM's container: nobody tells it again.

YARN hands out a node's token once an attempt and lists running containers to a new attempt only. The file is written whole or
not at all, with mode 0600, for it holds the nodes' tokens; one of another attempt says nothing and is ignored.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from tarn_common.credentials import Token
from tarn_common.endpoint import HostPort, parse_host_port
from tarn_common.ids import ContainerId, container_id

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Remembered:
    """`containers`: where each is, whether it was launched, and since when."""

    containers: Mapping[ContainerId, tuple[HostPort, bool, float]] = field(default_factory=dict)
    tokens: Mapping[HostPort, Token] = field(default_factory=dict, repr=False)


class Memory:
    """The file of one attempt. `path` None: nothing is kept."""

    def __init__(self, path: Path | None, attempt: str) -> None:
        self._path, self._attempt = path, attempt
        self._written = b""

    def keep(self, remembered: Remembered) -> None:
        """Writes when anything changed. A disk that fails is told and borne: only a second process would miss it."""
        if self._path is None:
            return
        data = json.dumps(self._encoded(remembered), sort_keys=True).encode()
        if data == self._written:
            return
        temporary = self._path.with_name(self._path.name + ".tmp")
        try:
            temporary.unlink(missing_ok=True)
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
            temporary.replace(self._path)
        except OSError as error:
            log.warning("attempt_memory_not_written", path=str(self._path), reason=error.strerror)
        else:
            self._written = data

    def recall(self) -> Remembered | None:
        """None when there is nothing of this attempt, or nothing that can be read."""
        if self._path is None:
            return None
        try:
            values = json.loads(self._path.read_bytes())
            return self._decoded(values) if values["attempt"] == self._attempt else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
            log.warning("attempt_memory_unreadable", path=str(self._path), reason=str(error))
            return None

    def _encoded(self, remembered: Remembered) -> dict[str, Any]:
        containers = {name: [str(node), launched, since] for name, (node, launched, since) in remembered.containers.items()}
        tokens = {
            str(node): [token.kind, token.service, _text(token.identifier), _text(token.password)]
            for node, token in remembered.tokens.items()
        }
        return {"attempt": self._attempt, "containers": containers, "tokens": tokens}

    @staticmethod
    def _decoded(values: Mapping[str, Any]) -> Remembered:
        containers = {
            container_id(name): (parse_host_port(node), bool(launched), float(since))
            for name, (node, launched, since) in values["containers"].items()
        }
        tokens = {
            parse_host_port(node): Token(str(kind), str(service), _bytes(identifier), _bytes(password))
            for node, (kind, service, identifier, password) in values["tokens"].items()
        }
        return Remembered(containers, tokens)


def remembered(containers: Iterable[tuple[ContainerId, HostPort, bool, float]], tokens: Mapping[HostPort, Token]) -> Remembered:
    return Remembered({name: (node, launched, since) for name, node, launched, since in containers}, dict(tokens))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
