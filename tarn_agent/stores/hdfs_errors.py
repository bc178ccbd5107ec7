"""HDFS's exceptions in one sentence each, the same over WebHDFS and native RPC, with the answer to: may time mend it?"""

from __future__ import annotations

import re

from tarn_agent.ports import StageError

_LONGEST = 300
_PATH = re.compile(r"(/.*?)(?: does not exist| not found)?$")


class Changed(StageError):
    """A file is no longer what was listed: trying it again cannot help, a new listing can."""

    def __init__(self, text: str) -> None:
        super().__init__(text, retry=True)


def translated(exception: str, message: str, location: str) -> StageError:
    """`exception` is the Java class, with or without its package; `message` may carry a stack, which is cut off."""
    name = exception.rpartition(".")[2]
    text = message.replace("\\n", "\n").replace('\\"', '"').partition("\n")[0].strip().rstrip(".")[:_LONGEST]
    if name in ("FileNotFoundException", "FileNotFoundError", "UnresolvedPathException"):
        path = _PATH.search(text)
        return StageError(f"HDFS has no {path[1] if path else location}: correct --model-repository, now {location}", retry=False)
    if name == "AccessControlException":
        return StageError(f"HDFS refuses to let the repository {location} be read: {text}; grant that user read access", retry=False)
    if name in ("InvalidToken", "SecurityException", "AuthorizationException", "AuthenticationException"):
        return StageError(f"HDFS does not accept the container's credentials for {location}: {text}", retry=False)
    if name in ("IllegalArgumentException", "InvalidPathException"):
        return StageError(f"HDFS does not accept the path of {location}: {text}; correct --model-repository", retry=False)
    if name in ("SafeModeException", "StandbyException", "RetriableException"):
        return StageError(f"HDFS is not ready to serve {location}: {text}", retry=True)
    return StageError(f"HDFS failed on {location}: {name}: {text}" if name else f"HDFS failed on {location}: {text}", retry=True)
