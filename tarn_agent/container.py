"""One container from its first process's point of view: supervisord in this very process, and a status that people can read.

Guarantees:
- The status is one of `tarn_common.exits` (100-119), or 143 when a TERM from outside ended the container before anything else
  did. Never one below 100: YARN takes 22 and 24 for a broken node, and reports 0 half a minute late.
- The last line on stderr is the reason: YARN and the local cluster show the end of it.
- An agent that dies again and again ends the container; supervisord alone would sit there with it FATAL.
- Nothing outlives the container unseen. As PID 1 of a container the kernel sees to that. On a bare machine this process makes
  itself the reaper of orphans (prctl(2), PR_SET_CHILD_SUBREAPER), and its children ask to be signalled when it dies, even by
  KILL (PR_SET_PDEATHSIG): the agent with TERM, so that it takes its znode away and stops Triton; Triton with KILL, which is what
  a container's end is to it. That request is tied to the thread that forked: supervisord's only one, which lives as long as we do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from supervisor import events
from supervisor.medusa import asyncore_25 as asyncore
from supervisor.options import ServerOptions
from supervisor.states import SupervisorStates
from supervisor.supervisord import Supervisor

from tarn_agent import supervisord_conf
from tarn_agent.log_tail import last_lines
from tarn_agent.run_dir import RunDir
from tarn_agent.settings import AgentSettings
from tarn_common.exits import Exit
from tarn_common.settings import SettingsError, load

TERMED = 143
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LAST_WORDS_CHARACTERS = 300
_libc = ctypes.CDLL(None)


class ContainerError(Exception):
    """supervisord could not be run; one sentence with the cause and the fix."""


def run_to_status(environ: Mapping[str, str], agent_command: Sequence[str] | None = None) -> int:
    """Runs the container to its end, and says the reason on stderr. Returns the status; raises nothing."""
    settings: AgentSettings | None = None
    try:
        settings = load(AgentSettings, environ)
        status, reason = run(settings, agent_command)
    except SettingsError as error:
        status, reason = int(Exit.SETTINGS), str(error)
    except ContainerError as error:
        status, reason = int(Exit.SUPERVISION), str(error)
    except BaseException as error:  # noqa: BLE001  (the outermost guard: whatever it was, the status must not fall below 100)
        status, reason = int(Exit.INTERNAL), f"supervisord failed: {error!r}"
    if settings is not None:
        _leave(RunDir(settings.run_dir), status, settings.keep_run_dir)
    print(f"tarn: {' '.join(reason.split())}", file=sys.stderr, flush=True)
    return status


def run(settings: AgentSettings, agent_command: Sequence[str] | None = None) -> tuple[int, str]:
    """Runs supervisord until it ends; returns the status to end with and the reason. Raises ContainerError."""
    run_dir = RunDir(settings.run_dir)
    _prepare(settings, run_dir, agent_command)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # supervisord asks for a temporary directory that it never uses, and fails where there is none.
    tempfile.tempdir = settings.run_dir
    options = _Options(settings)
    options.realize(["-n", "-c", str(run_dir.configuration)])
    options.first, options.test = True, False
    container = _Container(options, run_dir, Path(settings.log_dir))
    with contextlib.suppress(asyncore.ExitNow):
        container.main()
    written = run_dir.read_exit()
    if written is not None:
        return int(written[0]), f"{written[0].code}: {written[1]}"
    if options.termed:
        return TERMED, f"{Exit.TERMINATED.code}: {Exit.TERMINATED.meaning}"
    return int(Exit.SUPERVISION), f"{Exit.SUPERVISION.code}: supervisord ended, and nobody wrote down why"


def _prepare(settings: AgentSettings, run_dir: RunDir, agent_command: Sequence[str] | None) -> None:
    if not run_dir.fits_socket:
        raise SettingsError(f"TARN_RUN_DIR={settings.run_dir!r} is too long for the UNIX socket in it: give one of less than 80 bytes")
    try:
        run_dir.begin()
        Path(settings.log_dir).mkdir(parents=True, exist_ok=True)
        run_dir.write(run_dir.configuration, supervisord_conf.text(settings, agent_command))
    except OSError as error:
        raise SettingsError(
            f"{error.filename or settings.run_dir} cannot be used: {error.strerror}; TARN_RUN_DIR and TARN_LOG_DIR must be writable"
        ) from error
    except ValueError as error:
        raise SettingsError(f"TARN_RUN_DIR={settings.run_dir!r} cannot be used: {error}") from error


def _leave(run_dir: RunDir, status: int, keep: bool) -> None:
    """For those who are not our parent and read it from the file; where it cannot be written, the reason on stderr has told why."""
    if not keep:
        shutil.rmtree(run_dir.path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        run_dir.write_exit(status)


class _Options(ServerOptions):  # type: ignore[misc]  # supervisor has no types
    """supervisord's options, except for what a container decides: users, limits, signals, and what children are told of our death."""

    def __init__(self, settings: AgentSettings) -> None:
        super().__init__()
        self.termed = False
        self.last_signal: int | None = None
        self._pid = os.getpid()
        self._wakeup: _Wakeup | None = None
        self.environ_expansions[f"ENV_{supervisord_conf.LOG_DIR}"] = str(Path(settings.log_dir).absolute())
        self.environ_expansions[f"ENV_{supervisord_conf.RUN_DIR}"] = str(Path(settings.run_dir).absolute())

    def usage(self, msg: object) -> None:
        """supervisord ends with status 2 here."""
        raise ContainerError(f"supervisord cannot run: {msg}")

    def set_uid_or_exit(self) -> None:
        """The container runs as whoever it was started as, which may be nobody's uid."""

    def set_rlimits_or_exit(self) -> None:
        """The limits are the container's too."""

    def setsignals(self) -> None:
        super().setsignals()
        # A restart of supervisord has no meaning here. Not SIG_IGN, which the children would inherit.
        signal.signal(signal.SIGHUP, lambda _number, _frame: None)
        # Its loop sleeps up to a second through any signal; a byte in a socket wakes it, so that a TERM is passed on at once.
        self._wakeup = _Wakeup()
        signal.set_wakeup_fd(self._wakeup.writing, warn_on_full_buffer=False)
        self.get_socket_map()[self._wakeup.reading] = self._wakeup
        # The first turn waits too, and the agent is spawned at its end.
        self.turn_again()

    def get_signal(self) -> int | None:
        number: int | None = super().get_signal()
        self.last_signal = number
        self.termed = self.termed or number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
        return number

    def turn_again(self) -> None:
        """Makes the loop's next turn begin at once."""
        if self._wakeup is not None:
            self._wakeup.write()

    def execve(self, filename: str, argv: list[str], env: dict[str, str]) -> None:
        """In the child, between fork and exec."""
        death = signal.SIGTERM if env.get("SUPERVISOR_PROCESS_NAME") == supervisord_conf.AGENT else signal.SIGKILL
        _libc.prctl(_PR_SET_PDEATHSIG, int(death))
        if os.getppid() != self._pid:
            # It died before it was asked to tell.
            os._exit(int(Exit.SUPERVISION))
        super().execve(filename, argv, env)


class _Wakeup:
    """In supervisord's loop, the reading end of the socket that signals write to."""

    def __init__(self) -> None:
        self._ends = socket.socketpair()
        for end in self._ends:
            end.setblocking(False)
        self.reading, self.writing = (end.fileno() for end in self._ends)

    def write(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._ends[1].send(b"\0")

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._ends[0].recv(4096)

    def handle_error(self) -> None:
        """Nothing is lost: without it the loop turns once a second."""


class _Container(Supervisor):  # type: ignore[misc]
    """supervisord, listening to its own events. It clears all subscriptions when it starts, so ours come after that."""

    def __init__(self, options: _Options, run_dir: RunDir, log_dir: Path) -> None:
        super().__init__(options)
        self._run_dir, self._log_dir = run_dir, log_dir

    def runforever(self) -> None:
        events.subscribe(events.ProcessStateFatalEvent, self._on_fatal)
        for ended in (events.ProcessStateExitedEvent, events.ProcessStateBackoffEvent):
            events.subscribe(ended, self._on_ended)
        super().runforever()

    def handle_signal(self) -> None:
        """All that came, not one a turn; and where a child ended, what follows from that comes with the next turn, which begins at once."""
        while True:
            super().handle_signal()
            if self.options.last_signal is None:
                return
            if self.options.last_signal == signal.SIGCHLD:
                self.options.turn_again()

    def _on_ended(self, event: Any) -> None:
        # An agent that wrote down how the container ends has ended it, even if its word to us was lost.
        if event.process.config.name == supervisord_conf.AGENT and self._run_dir.read_exit() is not None:
            self.options.mood = SupervisorStates.SHUTDOWN

    def _on_fatal(self, event: Any) -> None:
        if event.process.config.name != supervisord_conf.AGENT:
            return
        said = " ".join(" ".join(last_lines(self._log_dir / "agent.log", 1)).split())[-_LAST_WORDS_CHARACTERS:]
        last = f"; its last line: {said}" if said else ""
        self._run_dir.write_exit(Exit.SUPERVISION, f"{Exit.SUPERVISION.meaning}{last}")
        self.options.mood = SupervisorStates.SHUTDOWN
