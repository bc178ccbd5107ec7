"""Where one local container lives on disk: its directory, its run directory, and the record by which it is found again."""

from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import structlog

from tarn_am.ports import ClusterError
from tarn_common.ids import ContainerId
from tarn_common.process import Process

log = structlog.get_logger(__name__)

_LAST_WORDS_BYTES = 2_000


def private_directory(path: Path) -> None:
    """Makes a directory that is ours alone; raises ClusterError when somebody else's stands there."""
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ClusterError(f"{path} is not a directory of this user: remove it", retry=False)
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise ClusterError(f"{path} is open to other users: chmod 700 {path}", retry=False)


@dataclass(frozen=True)
class Record:
    """What `launch.json` holds: the container's first process, and when it was started."""

    process: Process
    launched_at: float


@dataclass(frozen=True)
class Place:
    """The paths of one container. It is open from its creation until what it needs to run has been taken away."""

    container_id: ContainerId
    directory: Path
    run: Path

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def tokens(self) -> Path:
        return self.directory / "container_tokens"

    @property
    def number(self) -> int:
        return int(self.container_id.rpartition("_")[2])

    @property
    def is_open(self) -> bool:
        return self.tokens.exists()

    def create(self, credentials: bytes) -> None:
        """Directories and the credentials file; raises OSError, and ClusterError for a run directory that is not ours."""
        for directory in (self.directory, self.logs, self.data):
            directory.mkdir(mode=0o700, exist_ok=True)
        private_directory(self.run)
        self.tokens.unlink(missing_ok=True)
        with os.fdopen(os.open(self.tokens, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(credentials)

    def log(self, name: str) -> BinaryIO:
        return (self.logs / name).open("ab")

    def write(self, record: Record) -> None:
        values = {
            "pid": record.process.pid,
            "start_ticks": record.process.start_ticks,
            "boot": record.process.boot,
            "launched_at": record.launched_at,
        }
        temporary = self.directory / "launch.json.tmp"
        temporary.write_text(json.dumps(values))
        temporary.replace(self.directory / "launch.json")

    def read(self) -> Record | None:
        """None where nothing was launched, or what stands there is no record (its container is then ended by its own agent)."""
        try:
            values = json.loads((self.directory / "launch.json").read_text())
            found = Process(int(values["pid"]), int(values["start_ticks"]), str(values["boot"]))
            return Record(found, float(values["launched_at"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("launch_record_unreadable", directory=str(self.directory), error=str(error))
            return None

    def exit_status(self) -> int | None:
        """What the container's init wrote down, for those who are not its parent."""
        try:
            status = int((self.run / "exit-status").read_text())
        except (OSError, ValueError):
            return None
        return status if 0 <= status < 256 else None

    def last_words(self) -> str:
        """The end of its stderr, as YARN puts it into a container's diagnostics."""
        try:
            with (self.logs / "stderr").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return " | ".join("".join(c for c in line if c.isprintable()).strip() for line in lines[-3:] if line.strip())

    def close(self) -> None:
        """Takes away what only a running container needs: its secret, sockets and models. The logs stay."""
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.rmtree(self.data, ignore_errors=True)
        self.tokens.unlink(missing_ok=True)
