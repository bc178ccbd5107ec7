"""What scripts/quickstart runs: `tarn local` on the example models in a directory of its own, and nothing left afterwards.

The Application Master is a child that gets a TERM when this process dies in any way, and a TERM makes it end its instances.
Whatever is left then, because something hung, is found by the directory's name in its environment and killed.
"""

from __future__ import annotations

import argparse
import ctypes
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tarn_am.cli import example, fleet
from tarn_am.cli.client import AmClient
from tarn_am.cli.find import Where, am_client
from tarn_am.cli.outcome import CommandError

MODELS = Path(__file__).parents[1] / "examples" / "models"
MODEL = "identity"
PATIENCE_S = 180.0
STOP_S = 60.0
LOOK_S = 0.02
_PR_SET_PDEATHSIG = 1


class Failed(Exception):
    """The quickstart cannot go on; the text says why."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/quickstart")
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--began", type=float, default=time.time())
    parser.add_argument("--installed", type=float, default=time.time())
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = Path(tempfile.mkdtemp(prefix="tarn-quickstart-"))
    child: subprocess.Popen[bytes] | None = None
    status = 1
    try:
        if arguments.once:
            child = start(directory, (directory / "tarn-local.out").open("wb"))
            once(child, directory, arguments.began, arguments.installed)
            status = 0
        else:
            print(f"from another terminal: {tarn()} --state-dir {directory} status", flush=True)
            child = start(directory, None)
            status = wait_for(child)
    except Failed as error:
        print(f"scripts/quickstart: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        status = 130
    finally:
        clean = end(child, directory)
        status = status if clean or status else 1
        if status in (0, 130):
            shutil.rmtree(directory, ignore_errors=True)
        else:
            print(f"scripts/quickstart: logs and state are in {directory}", file=sys.stderr)
    return status


def tarn() -> str:
    return str(Path(sys.executable).with_name("tarn"))


def start(directory: Path, output: Any) -> subprocess.Popen[bytes]:
    """`tarn local`, with ports that nobody else has and no balancer to wait for."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TARN_")}
    options = ["--models", MODEL, "--max-instances", "4", "--am-port", "0", "--drain-grace-s", "0", "--state-dir", str(directory)]
    command = [tarn(), "local", "--model-repository", str(MODELS), *options]
    parent = os.getpid()
    return subprocess.Popen(command, env=environ, stdout=output, stderr=output, preexec_fn=lambda: _die_with(parent))


def _die_with(parent: int) -> None:
    """In the child: a TERM when the parent is gone, also when it went before this call."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:
        os._exit(1)


def wait_for(child: subprocess.Popen[bytes]) -> int:
    """Until the Application Master ends: Ctrl-C reaches it too, as it is of the same terminal."""
    while True:
        try:
            status = child.wait()
            return 0 if status == 0 else 130 if status in (130, -signal.SIGINT) else 1
        except KeyboardInterrupt:
            continue


def once(child: subprocess.Popen[bytes], directory: Path, began: float, installed: float) -> None:
    """Waits for READY, sends one inference, checks its answer, ends everything, prints the times."""
    steps = [("virtual environment ready", max(0.0, installed - began))]
    client = wait_until(lambda: _client(directory), child, directory, "the Application Master to answer")
    steps.append(("Application Master up", time.time() - began))
    endpoint = wait_until(lambda: _endpoint(client), child, directory, "Triton to be started")
    wait_until(lambda: _answers(endpoint, "/v2/health/live"), child, directory, "Triton to be live")
    live = time.time() - began
    offered = wait_until(lambda: client.instances()["instances"], child, directory, "the instance to be READY")[0]
    answer = infer(offered["host"], offered["http_port"])
    answered = time.time() - began
    phases = client.status()["instances"][0]["phases"]
    steps += [
        ("container launched", phases["LAUNCHED"] - began),
        ("agent accepted", phases.get("STAGING", phases["READY"]) - began),
        ("models staged", phases.get("STARTING", phases["READY"]) - began),
        ("Triton live", min(live, phases["READY"] - began)),
        ("model loaded, instance READY", phases["READY"] - began),
        ("first answer", answered),
    ]
    stop(child, directory)
    steps.append(("everything stopped, nothing left running", time.time() - began))
    print(f"{MODEL} at {offered['host']}:{offered['http_port']} answered {answer}")
    print(table(steps), flush=True)


def wait_until(found: Callable[[], Any], child: subprocess.Popen[bytes], directory: Path, what: str) -> Any:
    """The first true value of `found`; raises Failed with the reason when the fleet gave up, the process ended, or time is over."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := found()):
        if child.poll() is not None:
            raise Failed(f"tarn local ended with {child.returncode}: {_last_words(directory)}")
        if time.monotonic() > deadline:
            raise Failed(f"waited {PATIENCE_S:.0f} s for {what}")
        time.sleep(LOOK_S)
    return value


def _last_words(directory: Path) -> str:
    lines = (directory / "tarn-local.out").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _client(directory: Path) -> AmClient | None:
    try:
        client = am_client(Where(state_dir=str(directory)))
        client.status()
        return client
    except CommandError:
        return None


def _endpoint(client: AmClient) -> tuple[str, int] | None:
    status = client.status()
    if status["halted"] or status["counts"]["failed_total"]:
        raise Failed(status["halted"] or "; ".join(fleet.news(None, status)[-3:]))
    for one in status["instances"]:
        if one["endpoint"] and one["endpoint"]["http_port"]:
            return (one["endpoint"]["host"], one["endpoint"]["http_port"])
    return None


def _answers(endpoint: tuple[str, int], path: str) -> bool:
    try:
        return _ask(endpoint, "GET", path)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def _ask(endpoint: tuple[str, int], method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*endpoint, timeout=30)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def infer(host: str, port: int) -> Any:
    """One inference with ones; the model returns its input, so the answer is known. Raises Failed."""
    path = f"/v2/models/{MODEL}"
    request = example.body(json.loads(_ask((host, port), "GET", path)[1]))
    if request is None:
        raise Failed(f"{MODEL} does not say what it takes")
    status, answer = _ask((host, port), "POST", path + "/infer", json.dumps(request))
    if status != 200:
        raise Failed(f"{MODEL} answered {status}: {answer[:300].decode(errors='replace')}")
    given, got = [one["data"] for one in request["inputs"]], [one["data"] for one in json.loads(answer)["outputs"]]
    if given != got:
        raise Failed(f"{MODEL} was sent {given} and answered {got}")
    return got[0]


def stop(child: subprocess.Popen[bytes], directory: Path) -> None:
    """The orderly end. Raises Failed when it was none."""
    child.send_signal(signal.SIGTERM)
    try:
        status = child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        raise Failed(f"tarn local did not end within {STOP_S:.0f} s of a TERM") from None
    if status != 0:
        raise Failed(f"tarn local ended with {status}: {_last_words(directory)}")
    if left := leftovers(directory):
        raise Failed(f"still running: {', '.join(f'{pid} {name}' for pid, name in left.items())}")


def end(child: subprocess.Popen[bytes] | None, directory: Path) -> bool:
    """Ends what still runs, by force where it must be. True when nothing had to be forced."""
    if child is not None and child.poll() is None:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    left = leftovers(directory)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return not left


def leftovers(directory: Path) -> dict[int, str]:
    """Processes other than this one whose environment or command line names `directory`."""
    mark, found = str(directory).encode(), {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if mark in (entry / "environ").read_bytes() or mark in (entry / "cmdline").read_bytes():
                    found[int(entry.name)] = (entry / "comm").read_text().strip()
            except OSError:  # it is gone, or is somebody else's
                continue
    return found


def table(steps: list[tuple[str, float]]) -> str:
    """Seconds since the command, and since the step before."""
    lines, before = [f"{'':<42} {'at':>7} {'took':>7}"], 0.0
    for name, at in sorted(steps, key=lambda step: step[1]):
        lines.append(f"{name:<42} {at:>5.2f} s {at - before:>5.2f} s")
        before = at
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
