"""Becomes tritonserver: reads argv and environment from the file that the agent wrote, then execs, so that the pid is the same.

Standard library only, for it runs with `python -IS`. Triton must not outlive the supervisord that started it (a container's
end takes all; on a bare machine nothing else would), so the kernel is asked to KILL it when its parent is gone.
"""

import ctypes
import json
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("supervisord was gone before tritonserver began")
    with open(sys.argv[1], encoding="utf-8") as file:
        launch = json.load(file)
    try:
        os.execvpe(launch["argv"][0], launch["argv"], {**os.environ, **launch["environ"]})  # noqa: S606
    except OSError as error:
        sys.exit(f"cannot execute {launch['argv'][0]}: {error.strerror}; set TARN_TRITON_BIN to the tritonserver program")


if __name__ == "__main__":
    main()
