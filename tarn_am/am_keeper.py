"""What runs in the Application Master's container: keeps the Application Master running inside it.

A crash of the Application Master then costs none of the attempts that YARN gives an application (two by default, in its whole
life): it is started again here, at once, and resumes its attempt. Only what cannot be mended on this node ends the container: the
application is over, the attempt was taken away, the settings are wrong, or it crashes again and again.

It imports next to nothing, so that it stays small and has little to fail with. A TERM comes from a NodeManager that ends this
container, never from a person who ends the application: the Application Master is ended without ceremony, and its successor in
another container takes over what runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from tarn_common.exits import Exit

MODULE = "tarn_am.am_process"
LIMIT = 5
WINDOW_S = 120.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_PR_SET_PDEATHSIG = 1
_MENDED_HERE = (Exit.INTERNAL,)


def pause_s(crashes: Sequence[float], now: float) -> float | None:
    """How long to wait before the next start; None: give up, another node may do better. `crashes` are the times of all crashes."""
    recent = [at for at in crashes if now - at < WINDOW_S]
    if len(recent) > LIMIT:
        return None
    return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (len(recent) - 1))


def is_final(status: int) -> bool:
    """Whether the Application Master ended on purpose: with one of TARN's statuses, but for those that a new start may mend."""
    return status in set(Exit) and status not in _MENDED_HERE


class Keeper:
    """`command` is the Application Master."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._child: subprocess.Popen[bytes] | None = None
        self._ended = False

    def run(self) -> int:
        """Until the Application Master ended on purpose; returns the container's exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        crashes: list[float] = []
        parent = os.getpid()
        while not self._told_to_end():
            # A session of its own, so that the signals to this process's group reach this process alone; it dies with it all the same.
            self._child = subprocess.Popen(self._command, start_new_session=True, preexec_fn=lambda: _die_with(parent))
            status = self._child.wait()
            if self._told_to_end():
                break
            if is_final(status):
                return status
            now = time.monotonic()
            crashes.append(now)
            pause = pause_s(crashes, now)
            told = f"signal {-status}" if status < 0 else f"status {status}"
            if pause is None:
                _say(f"the Application Master ended {len(crashes)} times, at last with {told}: this container gives up")
                return Exit.INTERNAL
            _say(f"the Application Master ended with {told}; it is started again in {pause:g} s")
            time.sleep(pause)
        return Exit.TERMINATED

    def _told_to_end(self) -> bool:
        return self._ended

    def _end(self, signum: int, frame: FrameType | None) -> None:
        self._ended = True
        if self._child is not None and self._child.poll() is None:
            self._child.kill()


def _die_with(parent: int) -> None:
    """In the child: it is killed when the keeper is gone, also when that went before this call."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def main() -> None:
    sys.exit(Keeper([sys.executable, "-m", MODULE]).run())


if __name__ == "__main__":
    main()
