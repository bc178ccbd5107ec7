"""What an error of a call means for the next attempt. Pure, one table."""

from __future__ import annotations

from enum import Enum

from tarn_am.hadoop.errors import CallLost, CallTimeout, HadoopError, NotHadoop, ProtocolError, RemoteError, Unreachable


class Remedy(Enum):
    ELSEWHERE = "the next address, after a pause once all were tried"
    HERE = "the same address, after a pause"
    NONE = "the caller must know"


_BY_KIND = {
    # Sent by a daemon that is up but not the active one of its pair.
    "StandbyException": Remedy.ELSEWHERE,
    "ObserverRetryOnActiveException": Remedy.ELSEWHERE,
    # "Come back later": too busy, or a NameNode that starts up in safe mode with a partner.
    "RetriableException": Remedy.HERE,
    # A NodeManager that has not registered with the ResourceManager yet.
    "NMNotYetReadyException": Remedy.HERE,
}


def remedy(error: HadoopError, *, may_repeat: bool) -> Remedy:
    """`may_repeat`: whether a second execution of this call does no harm."""
    if isinstance(error, RemoteError):
        return _BY_KIND.get(error.kind, Remedy.NONE)
    if isinstance(error, (Unreachable, NotHadoop)):
        return Remedy.ELSEWHERE
    if isinstance(error, (CallLost, CallTimeout, ProtocolError)):
        return Remedy.ELSEWHERE if may_repeat else Remedy.NONE
    return Remedy.NONE


def leads_nowhere(error: HadoopError) -> bool:
    """Whether waiting cannot help: once every address has answered so, the call ends at once."""
    return isinstance(error, NotHadoop)
