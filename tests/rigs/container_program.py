"""The program of a test container: says what it was given, then waits for a TERM, or ends as TARN_DOES tells it.

Run by its path, alone: it imports nothing of the project, as a container without it would not.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import sys

out = pathlib.Path(os.environ["TARN_OUT"])
own = os.environ["CONTAINER_ID"]
tokens = os.environ["HADOOP_TOKEN_FILE_LOCATION"]
say = {
    "pid": os.getpid(),
    "argv": sys.argv[1:],
    "cwd": str(pathlib.Path.cwd()),
    "environ": dict(os.environ),
    "credentials": pathlib.Path(tokens).read_bytes().hex(),
    "mode": pathlib.Path(tokens).stat().st_mode & 0o777,
}
signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
whole = out / f"{own}.tmp"
whole.write_text(json.dumps(say))
whole.replace(out / f"{own}.json")

does = os.environ.get("TARN_DOES", "")
if does.startswith("exit-"):
    print("the last words of a container", file=sys.stderr)
    os._exit(int(does.removeprefix("exit-")))
if os.environ.get("TARN_FAIL_ON") == os.environ["NM_HOST"]:
    os._exit(105)
while True:
    signal.pause()
