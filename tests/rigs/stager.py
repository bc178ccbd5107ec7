"""A stager in a process of its own, to be killed, or to be another user: `python -m tests.rigs.stager`, settings in the environment.

Each progress is a line of JSON on its standard output; the last line is {"staged": …} or {"error": …, "retry": …}.
"""

from __future__ import annotations

import asyncio
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


def main() -> None:
    logs.configure()
    stager = RepositoryStager(parsing.load(AgentSettings, os.environ), SystemClock())
    try:
        staged = asyncio.run(stager.stage(tell))
        say({"staged": asdict(staged)})
    except StageError as error:
        say({"error": str(error), "retry": error.retry})


if __name__ == "__main__":
    main()
