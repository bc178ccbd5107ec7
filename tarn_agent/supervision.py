"""supervisord over its UNIX socket, as far as the agent needs it: one program's state, start, stop, and the end of all.

Blocking; called from worker threads. Every failure is a TritonError that says what was asked and what came back.
"""

from __future__ import annotations

import http.client
import socket
import xmlrpc.client
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from tarn_agent.ports import TritonError

CALL_S = 5.0


class Fault(IntEnum):
    """supervisor's fault codes that mean something to us."""

    SHUTDOWN_STATE = 6
    BAD_NAME = 10
    NO_FILE = 20
    NOT_EXECUTABLE = 21
    SPAWN_ERROR = 50
    ALREADY_STARTED = 60
    NOT_RUNNING = 70


class SupervisorFault(TritonError):
    """supervisord answered, and the answer was no."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Program:
    """A program's state as supervisord has it: STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL or UNKNOWN."""

    state: str
    pid: int
    exit_status: int
    started_at: float

    @property
    def runs(self) -> bool:
        return self.state in ("STARTING", "RUNNING", "STOPPING") and self.pid > 0


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=CALL_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CALL_S)
        self.sock.connect(self._path)


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _Connection(self._path)


class Supervision:
    """The container's supervisord. `path` is its socket."""

    def __init__(self, path: str) -> None:
        self._path = path

    def _call(self, method: str, *args: Any) -> Any:
        with xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=_Transport(self._path)) as proxy:
            try:
                return getattr(proxy.supervisor, method)(*args)
            except xmlrpc.client.Fault as fault:
                raise SupervisorFault(f"supervisord refused {method}{args}: {fault.faultString}", fault.faultCode) from fault
            except (OSError, http.client.HTTPException, xmlrpc.client.Error, ValueError) as error:
                raise TritonError(f"supervisord did not answer {method} on {self._path}: {error}") from error

    def program(self, name: str) -> Program:
        found = self._call("getProcessInfo", name)
        return Program(found["statename"], found["pid"], found["exitstatus"], float(found["start"]))

    def start(self, name: str) -> None:
        """Returns as soon as the process was spawned. A program that runs already raises SupervisorFault(ALREADY_STARTED)."""
        self._call("startProcess", name, False)

    def stop(self, name: str) -> None:
        """Sends TERM and returns at once; what is not running is left alone."""
        try:
            self._call("stopProcess", name, False)
        except SupervisorFault as fault:
            if fault.code != Fault.NOT_RUNNING:
                raise

    def shut_down(self) -> None:
        """Ends supervisord and all its programs; one that is ending already is left to it."""
        try:
            self._call("shutdown")
        except SupervisorFault as fault:
            if fault.code != Fault.SHUTDOWN_STATE:
                raise
