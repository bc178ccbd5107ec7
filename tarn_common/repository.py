"""What may be given as a model repository, and which paths Triton can have: the same rules where it is given and where it is used.

Triton's Python back end starts each model by `bash -c "exec <stub> <repository>/<model>/<version>/model.py …"`, and YARN's
launch script expands what it finds. So a path with anything but plain characters is taken apart, or executed.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

_FORMS = "hdfs://namenode:8020/path, webhdfs://namenode:9870/path, file:/path or /path"
_SCHEMES = ("file", "hdfs", "webhdfs", "swebhdfs")
_PLAIN = "letters, digits and _./:=,@%+-"
_UNSAFE = re.compile(r"[^A-Za-z0-9_./:=,@%+-]")


class RepositoryError(ValueError):
    """What is wrong with the text and what to do, as the end of a sentence that has named it."""


@dataclass(frozen=True)
class Place:
    """A repository's URL in its parts; `authority` is empty for the default file system."""

    location: str
    scheme: str
    authority: str
    path: str


def parse(text: str) -> Place:
    """Raises RepositoryError for what is no repository."""
    if text.startswith("/"):
        return Place(text, "file", "", os.path.normpath(text))
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise RepositoryError(f"it is no URL ({error}): give {_FORMS}") from error
    if "@" in parts.netloc:
        raise RepositoryError("it has a user in its address: leave it out, names come from the credentials")
    # '?', '#' and '%' are ordinary characters of a path in HDFS, and Hadoop takes them so.
    path = text.removeprefix(f"{text.partition(':')[0]}:").removeprefix("//").removeprefix(parts.netloc)
    if parts.scheme not in _SCHEMES or not path.startswith("/"):
        raise RepositoryError(f"it cannot be staged: give {_FORMS}")
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise RepositoryError(f"it names a host: give {_FORMS}")
    return Place(text, parts.scheme, parts.netloc, os.path.normpath(unquote(path) if parts.scheme == "file" else path))


def check_plain(path: str) -> None:
    """Raises RepositoryError for a path that a shell would not take as it is."""
    if found := _UNSAFE.search(path):
        raise RepositoryError(
            f"it holds {found[0]!r}, and Triton's Python back end hands the path to a shell: use a path of {_PLAIN} only (a link will do)"
        )


def check_repository(text: str) -> None:
    """For the settings: refused before anything is started for it. A path that is not absolute is left to whoever knows from where."""
    if ":" in text.partition("/")[0] or text.startswith("/"):
        place = parse(text)
        check_plain(place.path if place.scheme == "file" else "")
    check_launched(text)


def check_launched(text: str) -> None:
    """Raises RepositoryError for a text that a container's launch script would not take as it is."""
    if found := _UNSAFE.search(text):
        raise RepositoryError(f"it holds {found[0]!r}, and a container's launch script may execute it: use {_PLAIN} only")
