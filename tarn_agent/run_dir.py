"""The files in a container's run directory: the supervisord's socket and configuration, Triton's launch, and the exit status.

All are written whole or not at all, with mode 0600, since the launch holds the user's variables.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tarn_agent.core.model import Ports, TritonLaunch
from tarn_common.exits import Exit

SOCKET_PATH_BYTES = 107
"""Longer paths do not fit a UNIX socket's address (unix(7))."""
_SUFFIX_BYTES = len(".4194304")
"""supervisord binds its socket under a name with its pid behind first."""
_REASON_BYTES = 4_000


class RunDir:
    """The run directory of one container."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    @property
    def socket(self) -> Path:
        return self.path / "supervisor.sock"

    @property
    def configuration(self) -> Path:
        return self.path / "supervisord.conf"

    @property
    def launch(self) -> Path:
        return self.path / "triton.json"

    @property
    def agent_state(self) -> Path:
        """What one agent leaves for the next in the same container."""
        return self.path / "agent-state.json"

    @property
    def fits_socket(self) -> bool:
        return len(os.fsencode(self.socket)) + _SUFFIX_BYTES <= SOCKET_PATH_BYTES

    def begin(self) -> None:
        """For a new container: what an earlier one left says nothing of this one. Raises OSError."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stale in (self.socket, self.launch, self.agent_state, self._status, self._reason):
            stale.unlink(missing_ok=True)

    def write(self, path: Path, text: str) -> None:
        """Puts `text` there, whole, readable by us alone. Raises OSError."""
        temporary = path.with_name(path.name + ".tmp")
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)

    # --- how Triton was launched

    def write_launch(self, launch: TritonLaunch, argv: Sequence[str], hidden: Sequence[str]) -> None:
        """For `exec_triton` (argv, hidden, environ) and for the next agent (launch). Raises OSError."""
        record = {"argv": argv, "hidden": hidden, "environ": dict(launch.environ), "launch": dataclasses.asdict(launch)}
        self.write(self.launch, json.dumps(record))

    def read_launch(self) -> TritonLaunch | None:
        """None where nothing was launched, or the file is not one of ours."""
        try:
            return _launch(json.loads(self.launch.read_text(encoding="utf-8"))["launch"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    # --- how the container ends

    @property
    def _status(self) -> Path:
        return self.path / "exit-status"

    @property
    def _reason(self) -> Path:
        return self.path / "exit-reason"

    def write_exit(self, status: int, reason: str = "") -> bool:
        """Whether this was written: the first cause stays, a later one is only its echo. Raises OSError."""
        if self._status.exists():
            return False
        if reason:
            self.write(self._reason, reason[:_REASON_BYTES])
        self.write(self._status, f"{int(status)}\n")
        return True

    def read_exit(self) -> tuple[Exit, str] | None:
        """The status that was written and its reason (the table's meaning where none was given); None where none of ours is there."""
        try:
            status = Exit(int(self._status.read_text()))
        except (OSError, ValueError):
            return None
        try:
            return status, self._reason.read_text(encoding="utf-8", errors="replace").strip() or status.meaning
        except OSError:
            return status, status.meaning


def _launch(kept: dict[str, Any]) -> TritonLaunch:
    return TritonLaunch(
        repository=str(kept["repository"]),
        models=tuple(str(model) for model in kept["models"]),
        ports=Ports(**{name: int(port) for name, port in kept["ports"].items()}),
        bind=str(kept["bind"]),
        exit_timeout_s=int(kept["exit_timeout_s"]),
        restricted_value=str(kept["restricted_value"]),
        extra_args=tuple(str(argument) for argument in kept["extra_args"]),
        environ=tuple((str(name), str(value)) for name, value in kept["environ"]),
    )
