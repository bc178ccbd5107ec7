#!/opt/tarn/bin/python -I
"""The agent image's entry point: PID 1 of a Triton container.

With arguments it becomes them: YARN hands the image's entry point `bash …/launch_container.sh`, whose last line starts this program
again without any. Without arguments it is `tarn_agent.init`. Where the entry point is all that YARN starts, there is no
launch script, and what that would have told is found here.

Isolated (-I), so that nothing of the image or of the working directory is taken for one of the agent's packages. Not so Triton:
its environment is the image's.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from typing import NoReturn

from tarn_agent import init

SETTINGS = 101
"""`tarn_common.exits.Exit.SETTINGS`; a status below 100 could make the node unhealthy."""
_HELD = (signal.SIGTERM,)
"""What the image's entry point blocks before it starts us: without a handler PID 1 loses it for ever, blocked it waits."""
_CONTAINER = re.compile(r"container_(e\d+_)?\d+_\d+_\d+_\d+")


def main() -> NoReturn:
    if sys.argv[1:]:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
        become(sys.argv[1:])
    # `init` has its own handler in a moment; this one is for what came while Python was starting.
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(init.TERMED))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
    told()
    init.main([sys.executable, "-I", "-m", "tarn_agent"])
    raise AssertionError("init never returns")


def become(argv: list[str]) -> NoReturn:
    try:
        os.execvp(argv[0], argv)  # noqa: S606
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    print(f"tarn: {argv[0]!r} cannot be run in this image: {reason}; without a command the agent starts", file=sys.stderr, flush=True)
    sys.exit(SETTINGS)


def told() -> None:
    """Fills in what YARN's launch script exports: the log directory bears the container's id, and the host's name is the node's."""
    name = os.path.basename(os.environ.get("TARN_LOG_DIR", "").rstrip("/"))
    if _CONTAINER.fullmatch(name):
        os.environ.setdefault("CONTAINER_ID", name)
    os.environ.setdefault("NM_HOST", socket.gethostname())


if __name__ == "__main__":
    main()
