"""`tarn local --detach`: the same command again, in a session of its own, until its Application Master answers."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import click

from tarn_am.cli.find import RENDEZVOUS_FILE
from tarn_am.cli.outcome import CommandError, Outcome
from tarn_common.endpoint import EndpointError, Rendezvous, decode_rendezvous

_PATIENCE_S = 60.0
_LOOK_S = 0.05


def start(directory: Path) -> int:
    """Starts it and says where it is; what it says itself goes to `logs/local.out`. Raises CommandError with its last words."""
    (directory / "logs").mkdir(mode=0o700, parents=True, exist_ok=True)
    output = directory / "logs" / "local.out"
    before = _record(directory)
    command = [sys.executable, "-m", "tarn_am.cli.main", *(word for word in sys.argv[1:] if word != "--detach")]
    with output.open("wb") as file:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    deadline = time.monotonic() + _PATIENCE_S
    while (record := _record(directory)) is None or record == before:
        if child.poll() is not None:
            said = output.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise CommandError(
                Outcome(child.returncode) if child.returncode in set(Outcome) else Outcome.FAILED, said[-1].removeprefix("tarn local: ")
            )
        if time.monotonic() > deadline:
            raise CommandError(
                Outcome.TIMED_OUT, f"the Application Master (pid {child.pid}) does not answer after {_PATIENCE_S:g} s", f"see {output}"
            )
        time.sleep(_LOOK_S)
    click.echo(f"tarn local: runs in the background (pid {child.pid}); `tarn stop --state-dir {directory}` ends it")
    click.echo(f"  dashboard: {record.http.rstrip('/')}/dashboard")
    return Outcome.OK


def _record(directory: Path) -> Rendezvous | None:
    try:
        return decode_rendezvous((directory / RENDEZVOUS_FILE).read_bytes())
    except (OSError, EndpointError):
        return None
