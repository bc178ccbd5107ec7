"""The container's first process: supervisord inside it, and an exit status that YARN and people can read.

Guarantees: a TERM is heard from the first line on; a FATAL agent ends the container; the status is one of
`tarn_common.exits` (100-119), or 143 where a TERM from outside ended it and nobody had written another; never one below 100,
since 22 and 24 make a node unhealthy and 0 is reported half a minute late. It also adopts orphans as PID 1 does, so that on
a bare machine nothing of a container outlives it unseen.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

_TERMED = 143


def _at_once(signum: int, frame: FrameType | None) -> None:
    os._exit(_TERMED)


# Before anything that takes time: the kernel drops a TERM for which PID 1 has no handler.
signal.signal(signal.SIGTERM, _at_once)
signal.signal(signal.SIGINT, _at_once)

import contextlib  # noqa: E402
import ctypes  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from supervisor import events  # noqa: E402
from supervisor.medusa import asyncore_25 as asyncore  # noqa: E402
from supervisor.options import ServerOptions  # noqa: E402
from supervisor.states import SupervisorStates  # noqa: E402
from supervisor.supervisord import Supervisor  # noqa: E402

from tarn_agent.settings import AgentSettings  # noqa: E402
from tarn_common.exits import Exit  # noqa: E402
from tarn_common.settings import SettingsError, load  # noqa: E402

PR_SET_CHILD_SUBREAPER = 36
EXIT_STATUS = "exit-status"
SOCKET = "supervisor.sock"
AGENT_COMMAND = (sys.executable, "-m", "tarn_agent")


class Container(Supervisor):  # type: ignore[misc]  # supervisor has no types
    """supervisord, listening to its own events: they are cleared at its start, so the subscription comes after that."""

    def __init__(self, options: Any, run_dir: Path) -> None:
        super().__init__(options)
        self._run_dir = run_dir
        self.termed = False

    def runforever(self) -> None:
        events.subscribe(events.ProcessStateFatalEvent, self._on_fatal)
        events.subscribe(events.SupervisorStoppingEvent, self._on_stopping)
        with contextlib.suppress(asyncore.ExitNow):
            super().runforever()

    def _on_fatal(self, event: Any) -> None:
        if event.process.config.name == "agent":
            write_exit_status(self._run_dir, Exit.SUPERVISION)
            self.options.mood = SupervisorStates.SHUTDOWN

    def _on_stopping(self, _event: Any) -> None:
        self.termed = read_exit_status(self._run_dir) is None


def write_exit_status(run_dir: Path, status: Exit) -> None:
    """What `init` will end with. The first cause stays: a later one is only its echo."""
    path = run_dir / EXIT_STATUS
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        temporary.write_text(str(int(status)))
        temporary.replace(path)


def read_exit_status(run_dir: Path) -> int | None:
    """The number that was written, or None where there is none or it is not one of ours."""
    try:
        return int(Exit(int((run_dir / EXIT_STATUS).read_text())))
    except (OSError, ValueError):
        return None


def configuration(settings: AgentSettings, agent_command: tuple[str, ...] = AGENT_COMMAND) -> str:
    """supervisord's configuration. Only the agent starts by itself; the agent starts and restarts Triton."""
    run, logs = _escaped(settings.run_dir), _escaped(settings.log_dir)
    launcher = (sys.executable, "-IS", str(Path(__file__).with_name("exec_triton.py")), f"{settings.run_dir}/triton.json")
    return f"""\
[unix_http_server]
file={run}/{SOCKET}
chmod=0700

[supervisord]
nodaemon=true
silent=true
logfile={logs}/supervisord.log
logfile_maxbytes=10MB
logfile_backups=2
loglevel=info
pidfile={run}/supervisord.pid
childlogdir={logs}
nocleanup=true
strip_ansi=false

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[program:triton]
command={_command(launcher)}
priority=10
autostart=false
autorestart=false
startsecs=0
startretries=0
stopwaitsecs=10
redirect_stderr=true
stdout_logfile={logs}/triton.log
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=3

[program:agent]
command={_command(agent_command)}
priority=100
autostart=true
autorestart=true
startsecs=5
startretries=5
stopwaitsecs={int(settings.drain_s + settings.drain_grace_s + 15)}
redirect_stderr=true
stdout_logfile={logs}/agent.log
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=3
"""


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _command(argv: tuple[str, ...]) -> str:
    """Quoted for supervisord, which splits as a POSIX shell does and takes '%' for its own."""
    return _escaped(" ".join("'" + part.replace("'", "'\"'\"'") + "'" for part in argv))


def run(settings: AgentSettings, agent_command: tuple[str, ...] = AGENT_COMMAND) -> int:
    """Runs the container until supervisord ends; returns the status to end with."""
    run_dir = Path(settings.run_dir)
    try:
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        Path(settings.log_dir).mkdir(parents=True, exist_ok=True)
        for stale in (EXIT_STATUS, SOCKET):
            (run_dir / stale).unlink(missing_ok=True)
        config = run_dir / "supervisord.conf"
        config.unlink(missing_ok=True)
        descriptor = os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(configuration(settings, agent_command))
    except OSError as error:
        _last_words(f"cannot prepare {error.filename or run_dir}: {error.strerror}; TARN_RUN_DIR and TARN_LOG_DIR must be writable")
        return Exit.SETTINGS
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    options = ServerOptions()
    options.realize(["-n", "-c", str(config)])
    options.first, options.test = True, False
    container = Container(options, run_dir)
    container.main()
    status = read_exit_status(run_dir)
    if status is None:
        return _TERMED if container.termed else Exit.INTERNAL
    if Exit(status).is_failure:
        _last_words(Exit(status).meaning)
    return status


def _last_words(sentence: str) -> None:
    """YARN shows the end of `stderr` in its diagnostics, so the reason stands there last."""
    print(f"tarn: {sentence}", file=sys.stderr, flush=True)


def main() -> None:
    try:
        settings = load(AgentSettings, os.environ)
    except SettingsError as error:
        _last_words(str(error))
        os._exit(Exit.SETTINGS)
    status = int(Exit.INTERNAL)
    try:
        status = run(settings)
    except BaseException as error:  # noqa: BLE001  whatever happens, the status must not fall below 100
        _last_words(f"supervisord could not run: {error!r}")
    os._exit(status)


if __name__ == "__main__":
    main()
