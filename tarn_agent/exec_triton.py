"""Becomes tritonserver: reads its command line and environment from the file that the agent wrote, and execs it under the same pid.

Run by supervisord as `python -IS exec_triton.py <run_dir>/triton.json`, which must cost nothing: standard library only, and
nothing of TARN's. The models and ports are not known when supervisord reads its configuration; here they are. tritonserver gets
the container's environment without what is TARN's alone, and over it the user's variables.
"""

import json
import os
import sys

CANNOT_START = 105
"""`tarn_common.exits.Exit.TRITON`: no program of ours in a container ends with a status below 100."""


def main() -> None:
    try:
        with open(sys.argv[1], encoding="utf-8") as file:
            launch = json.load(file)
        argv, hidden = launch["argv"], tuple(launch["hidden"])
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        # Python's caches of the models' code do not belong into a repository that is used in place. A back end whose interpreter
        # is isolated from the environment (that of the wheel nvidia-pytriton 0.7) writes them all the same.
        environ = {"PYTHONDONTWRITEBYTECODE": "1", **inherited, **launch["environ"]}
    except (IndexError, OSError, ValueError, KeyError, TypeError) as error:
        end(f"its launch cannot be read: {error!r}")
    try:
        os.execvpe(argv[0], argv, environ)  # noqa: S606
    except OSError as error:
        end(f"{argv[0]} cannot be run: {error.strerror}; set TARN_TRITON_BIN to the tritonserver program")


def end(reason: str) -> None:
    print(f"tritonserver was not started: {reason}", flush=True)
    sys.exit(CANNOT_START)


if __name__ == "__main__":
    main()
