"""The container's supervisord, as the agent speaks to it: XML-RPC over its UNIX socket, each call within a deadline.

API: http://supervisord.org/api.html. Every failure is a TritonError, because Triton is what the agent has supervisord for; one
that tells which refusal it was is a SupervisionRefused.
"""

from __future__ import annotations

import xmlrpc.client
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from tarn_agent.http_client import HttpClient, HttpError, unix
from tarn_agent.ports import TritonError

CALL_S = 5.0
_REACHES = frozenset({"STARTING", "RUNNING", "STOPPING"})


class Fault(IntEnum):
    """supervisor's fault codes that mean something to us (supervisor.xmlrpc.Faults)."""

    SHUTDOWN_STATE = 6
    ALREADY_STARTED = 60


class SupervisionRefused(TritonError):
    """supervisord answered, and the answer was no."""

    def __init__(self, text: str, fault: int) -> None:
        super().__init__(text)
        self.fault = fault


@dataclass(frozen=True)
class Program:
    """A program as supervisord has it; `pid` is 0 when it has no process. It may lag behind the process by a moment."""

    state: str
    pid: int

    @property
    def has_process(self) -> bool:
        return self.state in _REACHES and self.pid > 0


class Supervision:
    """The supervisord behind one socket."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def program(self, name: str) -> Program:
        found = await self._call("getProcessInfo", name)
        try:
            return Program(str(found["statename"]), int(found["pid"]))
        except (KeyError, TypeError, ValueError) as error:
            raise TritonError(f"supervisord says of {name} what is not understood: {found!r}") from error

    async def start(self, name: str) -> None:
        """Returns when the process was spawned; it may have died since."""
        await self._call("startProcess", name, False)

    async def shut_down(self) -> None:
        """Ends supervisord and all its programs; one that is ending already is left to it."""
        try:
            await self._call("shutdown")
        except SupervisionRefused as refused:
            if refused.fault != Fault.SHUTDOWN_STATE:
                raise

    async def _call(self, method: str, *arguments: Any) -> Any:
        # A connection a call: they are seconds apart, and each holds a slot of supervisord's loop.
        client = HttpClient(unix(str(self._socket)), {"Content-Type": "text/xml"}, keep=False)
        body = xmlrpc.client.dumps(arguments, f"supervisor.{method}").encode()
        try:
            answer = await client.ask("POST", "/RPC2", CALL_S, body)
            if answer.status != 200:
                raise TritonError(f"supervisord answered {method} with HTTP status {answer.status}")
            return xmlrpc.client.loads(answer.body)[0][0]
        except HttpError as error:
            raise TritonError(f"supervisord does not answer on {self._socket}: {error}") from error
        except xmlrpc.client.Fault as fault:
            said = f"supervisord refused {method}({', '.join(map(str, arguments))}): {fault.faultString}"
            raise SupervisionRefused(said, fault.faultCode) from fault
        except (xmlrpc.client.Error, ExpatError, ValueError, IndexError) as error:
            raise TritonError(f"supervisord's answer to {method} is not XML-RPC") from error
        finally:
            client.close()
