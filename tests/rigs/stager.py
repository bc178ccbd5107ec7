"""A stager in a process of its own, to be killed, or to be another user: `python -m tests.rigs.stager`, settings in the environment.
With the argument `fill` it fills its own disk in the middle.

Each progress is a line of JSON on its standard output; the last line is {"staged": …} or {"error": …, "retry": …}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tarn_agent.core.model import Progress
from tarn_agent.ports import StageError
from tarn_agent.settings import AgentSettings
from tarn_agent.staging import RepositoryStager
from tarn_common import credentials, logs
from tarn_common import settings as parsing
from tarn_common.clock import SystemClock


def environment(directory: Path, repository: str, **more: str) -> dict[str, str]:
    """The variables of an agent that stages `repository` into `directory`/data; `more` by name of variable."""
    held = directory / "credentials"
    if not held.exists():
        credentials.write(held, credentials.Credentials())
    return {
        "CONTAINER_ID": "container_1700000000000_0001_01_000002",
        "TARN_APPLICATION_ID": "application_1700000000000_0001",
        "HADOOP_TOKEN_FILE_LOCATION": str(held),
        "TARN_LOG_DIR": str(directory),
        "TARN_RUN_DIR": str(directory),
        "TARN_DATA_DIR": str(directory / "data"),
        "TARN_MODEL_REPOSITORY": repository,
        "TARN_DISK_RESERVE_BYTES": "0",
        "TARN_STAGE_STALL_S": "60",
        **more,
    }


def settings(directory: Path, repository: str, **more: str) -> AgentSettings:
    return parsing.load(AgentSettings, environment(directory, repository, **more))


def say(record: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def tell(progress: Progress) -> None:
    say(asdict(progress))


def tell_and_fill(progress: Progress) -> None:
    """Takes all the space that is left beside the copy, once its first file is there. The event loop waits for it."""
    tell(progress)
    filler = Path(os.environ["TARN_DATA_DIR"]).parent / "filler"
    if progress.files_done < 1 or filler.exists():
        return
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def main() -> None:
    logs.configure()
    stager = RepositoryStager(parsing.load(AgentSettings, os.environ), SystemClock())
    try:
        staged = asyncio.run(stager.stage(tell_and_fill if sys.argv[1:] == ["fill"] else tell))
        say({"staged": asdict(staged)})
    except StageError as error:
        say({"error": str(error), "retry": error.retry})


if __name__ == "__main__":
    main()
