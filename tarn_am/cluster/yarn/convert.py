"""Between YARN's messages and TARN's nouns: identifiers, resources, nodes. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from tarn_am.hadoop.pb import yarn_pb2
from tarn_common.endpoint import HostPort
from tarn_common.ids import ApplicationId, ContainerId, IdError

_EPOCH_BITS = 40
_CONTAINER = re.compile(r"container_(?:e(\d+)_)?(\d+)_(\d+)_(\d+)_(\d+)")
_STAMP = re.compile(r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+\]", re.MULTILINE)
MEMORY, VCORES = "memory-mb", "vcores"


def application(text: ApplicationId) -> yarn_pb2.ApplicationIdProto:
    stamp, number = text.removeprefix("application_").split("_")
    return yarn_pb2.ApplicationIdProto(id=int(number), cluster_timestamp=int(stamp))


def attempt(application_id: ApplicationId, number: int) -> yarn_pb2.ApplicationAttemptIdProto:
    return yarn_pb2.ApplicationAttemptIdProto(application_id=application(application_id), attemptId=number)


def container_name(proto: yarn_pb2.ContainerIdProto) -> ContainerId:
    """YARN's own text of a container's id; after each restart of the ResourceManager the epoch in it grows."""
    app = proto.app_attempt_id.application_id
    epoch, number = proto.id >> _EPOCH_BITS, proto.id & ((1 << _EPOCH_BITS) - 1)
    prefix = f"e{epoch:02d}_" if epoch > 0 else ""
    return ContainerId(f"container_{prefix}{app.cluster_timestamp}_{app.id:04d}_{proto.app_attempt_id.attemptId:02d}_{number:06d}")


def container(text: ContainerId) -> yarn_pb2.ContainerIdProto:
    """Raises IdError."""
    match = _CONTAINER.fullmatch(text)
    if match is None:
        raise IdError(f"{text!r} is not a container id")
    epoch, stamp, app, number, serial = match.groups()
    app_id = yarn_pb2.ApplicationIdProto(id=int(app), cluster_timestamp=int(stamp))
    return yarn_pb2.ContainerIdProto(
        app_id=app_id,
        app_attempt_id=yarn_pb2.ApplicationAttemptIdProto(application_id=app_id, attemptId=int(number)),
        id=int(epoch or 0) << _EPOCH_BITS | int(serial),
    )


def address(node: yarn_pb2.NodeIdProto) -> HostPort:
    return HostPort(node.host, node.port)


@dataclass(frozen=True)
class Size:
    """Memory in MiB, virtual cores, and countable resources by name."""

    memory_mb: int
    vcores: int
    others: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        more = "".join(f", {number} {name}" for name, number in sorted(self.others.items()) if number)
        return f"{self.memory_mb} MiB, {self.vcores} vcores{more}"

    def lacks(self, wanted: Size) -> str:
        """Of what this is less than `wanted`: the first such part as 'has of wanted', or ''."""
        mine, theirs = self.parts(), wanted.parts()
        return next((f"{mine.get(name, 0)} of {number} {name}" for name, number in theirs.items() if mine.get(name, 0) < number), "")

    def parts(self) -> dict[str, int]:
        return {MEMORY: self.memory_mb, VCORES: self.vcores, **self.others}


def size(proto: yarn_pb2.ResourceProto) -> Size:
    others = {entry.key: entry.value for entry in proto.resource_value_map if entry.key not in (MEMORY, VCORES)}
    return Size(proto.memory, proto.virtual_cores, others)


def resource(wanted: Size) -> yarn_pb2.ResourceProto:
    others = [yarn_pb2.ResourceInformationProto(key=name, value=number, units="") for name, number in sorted(wanted.others.items())]
    for entry in others:
        entry.type = yarn_pb2.COUNTABLE
    return yarn_pb2.ResourceProto(memory=wanted.memory_mb, virtual_cores=wanted.vcores, resource_value_map=others)


def largest(sizes: Iterable[Size]) -> Size | None:
    """The most of each part that any of them has; None of none."""
    merged: dict[str, int] = {}
    found = False
    for each in sizes:
        found = True
        for name, number in each.parts().items():
            merged[name] = max(merged.get(name, 0), number)
    if not found:
        return None
    return Size(merged.pop(MEMORY), merged.pop(VCORES), merged)


def created_at(proto: yarn_pb2.ContainerProto) -> float:
    """When YARN made the container, seconds since the epoch; 0 where its token does not say."""
    try:
        return yarn_pb2.ContainerTokenIdentifierProto.FromString(proto.container_token.identifier).creationTime / 1000.0
    except DecodeError:
        return 0.0


def no_control(text: str, limit: int = 4000) -> str:
    """A text of another's as one that may be shown: bounded, without control characters but line ends."""
    kept = "".join(character for character in text if character == "\n" or character.isprintable())
    return kept if len(kept) <= limit else kept[: limit // 2] + " … " + kept[-limit // 2 :]


def readable(text: str, limit: int = 4000) -> str:
    """A text of YARN's as one that may be shown, also without its time stamps."""
    return no_control(_STAMP.sub("", text), limit).strip()
