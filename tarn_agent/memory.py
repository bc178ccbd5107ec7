"""What an agent leaves for the next one in the same container, in `<run_dir>/agent-state.json`.

Without it an agent that was killed and started anew would load models that were ordered away, count tritonserver's ends from
nought, or announce an instance whose drain had begun.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import structlog

from tarn_agent.core.instance import State
from tarn_agent.run_dir import RunDir
from tarn_common.exits import Exit

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Memory:
    """Of one container. Times are monotonic, which on one machine go on through a process's end. `exit` 0: no end has begun."""

    container_id: str
    accepted: bool = False
    wanted: tuple[str, ...] = ()
    deaths: tuple[float, ...] = ()
    restarts: int = 0
    pid: int = 0
    served: bool = False
    exit: int = 0
    exit_reason: str = ""
    stop_at: float = 0.0


def of(container_id: str, state: State) -> Memory:
    memory = Memory(container_id, state.accepted, state.wanted, state.deaths, state.restarts, state.pid, state.served)
    if state.ending is None:
        return memory
    return dataclasses.replace(memory, exit=int(state.ending.exit), exit_reason=state.ending.reason, stop_at=state.ending.stop_at)


class MemoryFile:
    """Written when something in it changes, and only then."""

    def __init__(self, run_dir: RunDir, container_id: str) -> None:
        self._run_dir, self._container_id = run_dir, container_id
        self._path = run_dir.agent_state
        self._kept: Memory | None = None

    def read(self) -> Memory:
        """What the agent before left; an empty memory where there was none, or it cannot be read, or is another container's."""
        try:
            found = _decoded(json.loads(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            found = None
        if found is None or found.container_id != self._container_id:
            found = Memory(self._container_id)
        self._kept = found
        return found

    def keep(self, state: State) -> None:
        memory = of(self._container_id, state)
        if memory == self._kept:
            return
        self._kept = memory
        try:
            self._run_dir.write(self._path, json.dumps(dataclasses.asdict(memory)))
        except OSError as error:
            log.warning("agent_state_not_kept", path=str(self._path), error=error.strerror)


def _decoded(record: dict[str, Any]) -> Memory:
    memory = Memory(
        container_id=str(record["container_id"]),
        accepted=bool(record["accepted"]),
        wanted=tuple(str(name) for name in record["wanted"]),
        deaths=tuple(float(at) for at in record["deaths"]),
        restarts=int(record["restarts"]),
        pid=int(record["pid"]),
        served=bool(record["served"]),
        exit=int(record["exit"]),
        exit_reason=str(record["exit_reason"]),
        stop_at=float(record["stop_at"]),
    )
    if memory.exit:
        Exit(memory.exit)
    return memory
