"""The container's first process: `python -m tarn_agent.init`.

As PID 1 it has no default for signals: a TERM that comes before there is a handler is lost for ever. So this module installs one
before it imports anything that takes time, and everything else is in `container`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from types import FrameType

TERMED = 143
"""128 + SIGTERM: what YARN and shells call a process that a TERM ended."""


def _end_at_once(signum: int, frame: FrameType | None) -> None:
    os._exit(TERMED)


def main(agent_command: Sequence[str] | None = None) -> None:
    """Never returns. `agent_command` None: the agent of this package."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_at_once)
    # Imported here and not above, for the handler's sake.
    from tarn_agent import container

    os._exit(container.run_to_status(os.environ, agent_command))


if __name__ == "__main__":
    main()
