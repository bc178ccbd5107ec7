"""What scripts/cluster runs: starts the rig's Hadoop and leaves it running, tells how it is, ends it.

Nothing but the directory connects two calls: what belongs to it is found among the processes (tests/rigs/cluster.py).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.rigs.cluster import HadoopCluster, belonging, sweep
from tests.rigs.hadoop import RigError

RECORD = "cluster.json"
NOT_RUNNING = 3


class Refused(Exception):
    """What was asked for cannot be done; one sentence."""


def main() -> int:
    arguments = _arguments()
    directory = Path(arguments.dir).absolute()
    try:
        return int({"start": start, "status": status, "stop": stop}[arguments.verb](directory, arguments))
    except Refused as error:
        print(f"scripts/cluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _arguments() -> argparse.Namespace:
    default = os.environ.get("TARN_CLUSTER_DIR") or ".cache/cluster"
    parser = argparse.ArgumentParser(prog="scripts/cluster")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("start", "status", "stop"):
        of_verb = verbs.add_parser(verb)
        of_verb.add_argument("--dir", default=default)
        if verb == "start":
            of_verb.add_argument("--nodes", type=int, default=2)
            of_verb.add_argument("--gpus", type=int, default=0)
            of_verb.add_argument("--version", default="")
            of_verb.add_argument("--placement", default="", choices=("", "disabled", "scheduler", "placement-processor"))
    return parser.parse_args()


def start(directory: Path, arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.nodes <= 50 or not 0 <= arguments.gpus <= 64:
        raise Refused("--nodes is a number from 1 to 50, --gpus one from 0 to 64")
    if arguments.version and not re.fullmatch(r"\d+\.\d+\.\d+", arguments.version):
        raise Refused(f"--version {arguments.version!r} is no Hadoop version such as 3.4.2")
    if belonging(directory):
        raise Refused(f"a cluster runs in {directory}: scripts/cluster stop, or choose another --dir")
    _remove(directory)
    directory.mkdir(parents=True)
    (directory / RECORD).write_text("{}")
    began = time.monotonic()
    site = {"yarn.resourcemanager.placement-constraints.handler": arguments.placement} if arguments.placement else {}
    try:
        rig = HadoopCluster(directory, nodes=arguments.nodes, version=arguments.version, gpus=arguments.gpus, site=site)
        rig.start()
    except BaseException as error:  # whatever it is, nothing may be left running behind it
        sweep(directory)
        if isinstance(error, RigError):
            raise Refused(f"{error}\n(logs are in {directory})") from error
        raise
    record = {
        "daemons": {daemon.name: daemon.pid for daemon in rig.daemons},
        "namenode": rig.hdfs.url,
        "namenode_web": f"http://{rig.hdfs.http}",
        "resourcemanager_web": f"http://{rig.yarn.web}",
        "conf": str(rig.conf),
    }
    (directory / RECORD).write_text(json.dumps(record, indent=2))
    print(f"up after {time.monotonic() - began:.1f} s: {len(rig.daemons)} daemons, {arguments.nodes} nodes")
    _tell(record)
    return 0


def _tell(record: dict[str, Any]) -> None:
    print(f"  export HADOOP_CONF_DIR={record['conf']}")
    print(f"  HDFS {record['namenode']} ({record['namenode_web']}), ResourceManager {record['resourcemanager_web']}")


def status(directory: Path, _: argparse.Namespace) -> int:
    record = _record(directory)
    alive = {process.pid for process in belonging(directory)}
    daemons: dict[str, int] = record.get("daemons", {})
    if not alive:
        print(f"no cluster runs in {directory}")
        return NOT_RUNNING
    for name, pid in daemons.items():
        print(f"  {name:<16} {f'pid {pid}' if pid in alive else 'not running'}")
    metrics = _metrics(record.get("resourcemanager_web", ""))
    if metrics:
        print(f"  {metrics['activeNodes']} nodes, {metrics['appsRunning']} applications, {metrics['containersAllocated']} containers")
    _tell(record)
    return 0 if set(daemons.values()) <= alive else 1


def _metrics(web: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"{web}/ws/v1/cluster/metrics", timeout=5) as answer:
            return dict(json.load(answer)["clusterMetrics"])
    except (OSError, ValueError, KeyError):
        return {}


def stop(directory: Path, _: argparse.Namespace) -> int:
    ended = sweep(directory)
    _remove(directory)
    print(f"ended {ended} processes; {directory} is removed" if ended else f"no cluster ran in {directory}")
    return 0


def _record(directory: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((directory / RECORD).read_text()))
    except (OSError, ValueError):
        return {}


def _remove(directory: Path) -> None:
    """Only what scripts/cluster made: another directory is refused, so that a wrong --dir costs nobody anything."""
    if not directory.exists():
        return
    if any(directory.iterdir()) and not (directory / RECORD).exists():
        raise Refused(f"{directory} holds something else than a cluster: choose another --dir")
    shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())
