"""supervisord's configuration of one container, as text. What is quoted how is all that is hard about it.

supervisord reads the file with interpolation (`%` is special), cuts a value at white space followed by `;`, expands a log's
path twice and everything else once, and splits a command as a POSIX shell does. Paths are the user's and may hold any of these.
"""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from tarn_agent.run_dir import RunDir
from tarn_agent.settings import AgentSettings

AGENT = "agent"
LOG_DIR = "TARN_INIT_LOG_DIR"
"""The name under which supervisord's interpolation finds the log directory: a value that it takes as it is."""
RUN_DIR = "TARN_INIT_RUN_DIR"
_STOP_MARGIN_S = 20.0
"""Beyond the drain itself: the grace, Triton's own end, and what ZooKeeper and the AM are told."""

_TEMPLATE = """\
; Written at the container's start by tarn_agent.init, and read once.

[unix_http_server]
file=%(ENV_{run_dir})s/{socket}
chmod=0700

[supervisord]
nodaemon=true
silent=true
nocleanup=true
logfile=%(ENV_{log_dir})s/supervisord.log
logfile_maxbytes=10MB
logfile_backups=2
pidfile=%(ENV_{run_dir})s/supervisord.pid
childlogdir=%(ENV_{run_dir})s

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

; The agent starts Triton and decides about its restarts. startsecs=0: an early end is an end, not a reason to try again.
[program:triton]
command={triton}
priority=10
autostart=false
autorestart=false
startsecs=0
startretries=0
stopwaitsecs=5
redirect_stderr=true
stdout_logfile=%%(ENV_{log_dir})s/triton.log
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=3

; startsecs=5: supervisord looks once a second, and below 3 it takes a crash for a start that succeeded.
[program:agent]
command={agent}
priority=100
autostart=true
autorestart=true
startsecs=5
startretries=4
stopwaitsecs={stop_s}
redirect_stderr=true
stdout_logfile=%%(ENV_{log_dir})s/agent.log
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=3
"""


def text(settings: AgentSettings, agent_command: Sequence[str] | None = None) -> str:
    """The file's whole text. `agent_command` None: the agent of this package."""
    run_dir = RunDir(settings.run_dir)
    return _TEMPLATE.format(
        log_dir=LOG_DIR,
        run_dir=RUN_DIR,
        socket=run_dir.socket.name,
        triton=command([sys.executable, "-IS", str(Path(__file__).with_name("exec_triton.py")), str(run_dir.launch)]),
        agent=command(agent_command or [sys.executable, "-m", "tarn_agent"]),
        stop_s=math.ceil(settings.drain_s + settings.drain_grace_s + _STOP_MARGIN_S),
    )


def command(argv: Sequence[str]) -> str:
    """`argv` so that supervisord makes the same `argv` of it. Raises ValueError for a line break, which no file of lines can hold."""
    if any(character in argument for argument in argv for character in "\r\n\0"):
        raise ValueError(f"a command may hold no line break: {list(argv)!r}")
    # White space and comment sign are parted by closing the quotes and opening them again.
    return re.sub(r"(\s)([;#])", r"\1''\2", shlex.join(argv)).replace("%", "%%")
