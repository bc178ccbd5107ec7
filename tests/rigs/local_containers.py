"""Small programs that stand in a local container where the agent's init would, and the cluster that runs them."""

from __future__ import annotations

import sys
from pathlib import Path

from tarn_am.cluster.local import LocalCluster
from tarn_am.ports import ClusterEvent, ClusterSink
from tarn_common.ids import ApplicationId

APPLICATION = ApplicationId("application_1700000000000_0001")

_COMMON = """
import json, os, pathlib, signal, subprocess, sys, time
run = pathlib.Path(os.environ["TARN_RUN_DIR"])
def say(name, value):
    (run / (name + ".tmp")).write_text(value); (run / (name + ".tmp")).replace(run / name)
"""

POLITE = (
    _COMMON
    + """
def end(*_):
    say("exit-status", "143"); os._exit(143)
signal.signal(signal.SIGTERM, end)
say("environ", json.dumps(dict(os.environ)))
say("up", str(os.getpid()))
while True: signal.pause()
"""
)

STUBBORN = (
    _COMMON
    + """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import os,signal,time; os.setpgrp(); signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
say("child", str(child.pid))
say("up", str(os.getpid()))
while True: signal.pause()
"""
)

SHORT = _COMMON + 'print("models: permission denied", file=sys.stderr); sys.exit(104)'


def local_cluster(root: Path, program: str = POLITE, stop_s: float = 10.0, runtime: dict[str, str] | None = None) -> LocalCluster:
    return LocalCluster(root, APPLICATION, runtime or {}, command=(sys.executable, "-c", program), stop_s=stop_s)


class Heard:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.events: list[ClusterEvent] = []

    @property
    def sink(self) -> ClusterSink:
        return self.events.append
