"""An Application Master in a container of YARN, as a program: keeps two instances running, and writes down what it found.

Its first process keeps a second one, which does the work, and starts it anew when it ends: the attempt goes on. Notes are
`<attempt>-<process>.json` in TARN_OUT.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tarn_am.cluster.yarn import attempt
from tarn_am.cluster.yarn.cluster import YarnCluster
from tarn_am.ports import Allocated, ClusterEvent
from tarn_common.hadoop_conf import read
from tests.rigs.yarn_masters import settings, spec

WANTED = 2
OUT = Path(os.environ["TARN_OUT"])


def note(name: str, **values: Any) -> None:
    temporary = OUT / f"{name}.tmp"
    temporary.write_text(json.dumps(values))
    temporary.replace(OUT / f"{name}.json")


async def master(process: int) -> None:
    conf = read(Path(os.environ["HADOOP_CONF_DIR"]), os.environ)
    charter = attempt.read(os.environ, conf)
    events: asyncio.Queue[ClusterEvent] = asyncio.Queue()
    cluster = YarnCluster(
        settings(),
        conf,
        charter.login,
        charter.attempt.application_id,
        charter.attempt.number,
        client_login=charter.client,
        memory=Path("attempt.json").absolute(),
    )
    found = [running.container_id for running in await cluster.start(events.put_nowait)]
    for number in range(WANTED - len(found)):
        await cluster.request(f"{process}-{number}")
    running = list(found)
    while len(running) < WANTED:
        event = await events.get()
        if isinstance(event, Allocated):
            await cluster.launch(event.container_id, spec(OUT))
            running.append(event.container_id)
    # A container of an earlier attempt or process is stopped, and another takes its place: the tokens work.
    if found:
        await cluster.stop(found[0])
        await cluster.request(f"{process}-again")
        while not isinstance(event := await events.get(), Allocated):
            pass
        await cluster.launch(event.container_id, spec(OUT))
        running = [*found[1:], event.container_id]
    note(f"{charter.attempt.number}-{process}", pid=os.getpid(), parent=os.getppid(), found=found, running=running)
    await asyncio.Event().wait()


def main() -> None:
    if len(sys.argv) > 1:
        asyncio.run(master(int(sys.argv[1])))
        return
    process = 0
    while True:
        process += 1
        subprocess.run([sys.executable, "-m", "tests.rigs.yarn_master_program", str(process)], check=False)


if __name__ == "__main__":
    main()
