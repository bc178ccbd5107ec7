"""Identifiers, in YARN's own formats: `application_<ms>_<n>` and `container_[e<epoch>_]<ms>_<n>_<attempt>_<id>`."""

from __future__ import annotations

import re
from typing import NewType

ApplicationId = NewType("ApplicationId", str)
ContainerId = NewType("ContainerId", str)

_APPLICATION = re.compile(r"application_(\d{1,19})_(\d{4,10})")
_CONTAINER = re.compile(r"container_(?:e\d{1,10}_)?(\d{1,19})_(\d{4,10})_(\d{2,10})_(\d{6,19})")


class IdError(ValueError):
    """A text that is no identifier of the kind wanted."""


def application_id(text: str) -> ApplicationId:
    """Checks `text`; raises IdError with the value and the format."""
    if not _APPLICATION.fullmatch(text):
        raise IdError(f"{text!r} is not an application id; one looks like application_1700000000000_0001")
    return ApplicationId(text)


def container_id(text: str) -> ContainerId:
    """Checks `text`; raises IdError with the value and the format."""
    if not _CONTAINER.fullmatch(text):
        raise IdError(f"{text!r} is not a container id; one looks like container_1700000000000_0001_01_000002")
    return ContainerId(text)


def make_application_id(started_ms: int, number: int) -> ApplicationId:
    return ApplicationId(f"application_{started_ms}_{number:04d}")


def make_container_id(application: ApplicationId, attempt: int, number: int) -> ContainerId:
    started_ms, sequence = application.removeprefix("application_").split("_")
    return ContainerId(f"container_{started_ms}_{sequence}_{attempt:02d}_{number:06d}")


def application_of(container: ContainerId) -> ApplicationId:
    """The application that a container belongs to."""
    match = _CONTAINER.fullmatch(container)
    if match is None:
        raise IdError(f"{container!r} is not a container id")
    return ApplicationId(f"application_{match.group(1)}_{match.group(2)}")
