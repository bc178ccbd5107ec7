"""What scripts/quickstart --yarn runs: a real Hadoop on loopback, `tarn submit` on it, an inference, and nothing left afterwards.

The nodes have Triton as a bare node would have it: a program `tritonserver` on a PATH (here the one of the wheel), no Docker.
TARN itself travels to them in its archive.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.firstrun import MODEL, MODELS, Failed, infer, table, tarn
from tarn_am.cluster import triton_wheel
from tarn_am.ports import ClusterError
from tests.rigs.cluster import HadoopCluster, belonging
from tests.rigs.hadoop import RigError
from tests.rigs.submitted import triton_directory

NODES = 2
_SUBMIT_S = 300.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/quickstart --yarn")
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--began", type=float, default=time.time())
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = Path(tempfile.mkdtemp(prefix="tarn-quickstart-yarn-"))
    status = 1
    cluster: HadoopCluster | None = None
    try:
        cluster = HadoopCluster(directory / "hadoop", nodes=NODES, gpus=1)
        run(cluster, directory, arguments.began, once=arguments.once)
        status = 0
    except (Failed, RigError, ClusterError) as error:
        print(f"scripts/quickstart: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        status = 130
    finally:
        if cluster is not None:
            cluster.close()
            left = belonging(cluster.scratch)
            status = 1 if left and status == 0 else status
        if status in (0, 130):
            shutil.rmtree(directory, ignore_errors=True)
        else:
            print(f"scripts/quickstart: logs are in {directory}", file=sys.stderr)
    return status


def run(cluster: HadoopCluster, directory: Path, began: float, *, once: bool) -> None:
    steps = []
    cluster.start()
    steps.append((f"Hadoop up: {len(cluster.daemons)} daemons, {NODES} nodes", time.time() - began))
    print(f"a Hadoop runs here: ResourceManager http://{cluster.yarn.web}, NameNode http://{cluster.hdfs.http}", flush=True)
    files = {str(path.relative_to(MODELS / MODEL)): path.read_bytes() for path in (MODELS / MODEL).rglob("*.p*") if path.is_file()}
    url = cluster.hdfs.put_tree(f"/models/{MODEL}", {name: data for name, data in files.items() if "__pycache__" not in name})
    steps.append((f"model in HDFS: {url}", time.time() - began))

    environ = _environment(cluster, directory)
    # Where the archive is built is found again by the next quickstart.
    triton = triton_wheel.prepare(Path.home() / ".cache" / "tarn")
    options = [
        "--model-repository", "hdfs:///models", "--min-instances", str(NODES), "--max-instances", str(NODES),
        "--runtime", "process", "--path", f"{triton_directory(directory / 'bin', triton.environ)}:/usr/bin:/bin",
        "--memory-mb", "512", "--vcores", "1", "--gpus", "0", "--drain-grace-s", "0", "--python", sys.executable,
    ]  # fmt: skip
    print(f"tarn submit {' '.join(options)}", flush=True)
    application = _submit(options, environ)
    steps.append((f"{NODES} instances READY", time.time() - began))
    offered = json.loads(_tarn(environ, "--application", application, "instances", "--json"))["instances"]
    if len({one["node"] for one in offered}) != NODES:
        raise Failed(f"{NODES} instances run on {[one['node'] for one in offered]}: not on nodes of their own")
    for one in offered:
        print(f"{MODEL} on node {one['node']} answered {infer(one['host'], one['http_port'])}", flush=True)
    steps.append(("an answer of each", time.time() - began))
    if not once:
        _wait(cluster, application)
    print(_tarn(environ, "--application", application, "stop").strip())
    steps.append(("drained, stopped, unregistered", time.time() - began))
    print(table(steps), flush=True)


def _environment(cluster: HadoopCluster, directory: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TARN_", "HADOOP_", "YARN_"))}
    return {**kept, "HADOOP_CONF_DIR": str(cluster.conf), "TARN_HOME": str(directory / "tarn")}


def _submit(options: list[str], environ: dict[str, str]) -> str:
    """Its progress goes to this terminal; returns the application's id."""
    command = [tarn(), "submit", *options, "--json"]
    ran = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=False, timeout=_SUBMIT_S)
    if ran.returncode != 0:
        raise Failed("tarn submit did not bring the instances up; its own line is above")
    return str(json.loads(ran.stdout)["application_id"])


def _tarn(environ: dict[str, str], *arguments: str) -> str:
    ran = subprocess.run([tarn(), *arguments], env=environ, capture_output=True, text=True, check=False, timeout=_SUBMIT_S)
    if ran.returncode != 0:
        raise Failed(ran.stderr.strip() or f"tarn {' '.join(arguments)} ended with {ran.returncode}")
    return ran.stdout


def _wait(cluster: HadoopCluster, application: str) -> None:
    """Until Ctrl-C, which reaches only this: what runs below is of other sessions."""
    print(f"\nfrom another terminal:\n  export HADOOP_CONF_DIR={cluster.conf}")
    print(f"  {tarn()} --application {application} status\n  Ctrl-C stops everything", flush=True)
    stopped: Any = None
    while stopped is None:
        try:
            time.sleep(3600)
        except KeyboardInterrupt:
            stopped = True


if __name__ == "__main__":
    sys.exit(main())
