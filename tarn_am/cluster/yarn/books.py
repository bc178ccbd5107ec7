"""The containers that are this application's now, from the allocation to the end. Pure.

A container is in one of four stages. What was given back is forgotten, so that whatever YARN says of it later changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from tarn_am.hadoop.pb import security_pb2
from tarn_common.endpoint import HostPort
from tarn_common.ids import ContainerId


class Stage(Enum):
    ALLOCATED = "allocated"
    LAUNCHING = "launching"
    RUNNING = "running"
    STOPPING = "stopping"


@dataclass
class Held:
    """One container. `since` is by the wall clock: the allocation, then the launch. `token` is what its start must show."""

    name: ContainerId
    node: HostPort
    stage: Stage
    since: float
    token: security_pb2.TokenProto | None = field(default=None, repr=False)
    stopped_at: float = 0.0

    @property
    def launched(self) -> bool:
        return self.stage is not Stage.ALLOCATED


class Books:
    """All of them, by id."""

    def __init__(self) -> None:
        self._held: dict[ContainerId, Held] = {}

    def put(self, held: Held) -> None:
        self._held[held.name] = held

    def get(self, name: ContainerId) -> Held | None:
        return self._held.get(name)

    def remove(self, name: ContainerId) -> Held | None:
        return self._held.pop(name, None)

    def on(self, host: str) -> list[Held]:
        return [held for held in self._held.values() if held.node.host == host]

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._held.values()))

    def __len__(self) -> int:
        return len(self._held)

    def count(self, *stages: Stage) -> int:
        return sum(held.stage in stages for held in self._held.values())
