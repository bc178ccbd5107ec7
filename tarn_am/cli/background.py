"""`tarn local --detach`: the same command again, in a session of its own, until its Application Master answers."""

from __future__ import annotations

import os
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
# Not `-m`: that, and `-c` alone, would import what lies in the current directory.
_PROGRAM = "import sys; sys.path[:] = filter(None, sys.path); from tarn_am.cli import main; main()"


def start(directory: Path) -> int:
    """Starts it and says where it is; what it says itself goes to `logs/local.out`. Raises CommandError with its last words."""
    logs = directory / "logs"
    # Not local.out yet: that may be the one of an Application Master that runs, and then this start is refused.
    said, output = logs / f".local.out.{os.getpid()}", logs / "local.out"
    before = _record(directory)
    command = [sys.executable, "-c", _PROGRAM, *(word for word in sys.argv[1:] if word != "--detach")]
    try:
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    except OSError as error:
        raise CommandError(
            Outcome.FAILED, f"the state directory {directory} cannot be used ({error.strerror})", "choose another --state-dir"
        ) from error
    try:
        return _until_it_answers(child, directory, before, said, output)
    finally:
        if child.poll() is None:
            said.replace(output)
        else:
            said.unlink(missing_ok=True)


def _until_it_answers(child: subprocess.Popen[bytes], directory: Path, before: Rendezvous | None, said: Path, output: Path) -> int:
    deadline = time.monotonic() + _PATIENCE_S
    while (record := _record(directory)) is None or record == before:
        if child.poll() is not None:
            last = said.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise CommandError(
                Outcome(child.returncode) if child.returncode in set(Outcome) else Outcome.FAILED, last[0].removeprefix("tarn local: ")
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
