"""The statuses with which TARN's programs in a container end, and what each tells a person.

One table, shared by the agent that exits and the Application Master that reads the status. All lie in 100-119: YARN's own
executor uses numbers below 85, a container that ends with 22 or 24 makes its node unhealthy, and 0 is reported half a minute late.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Why a container of ours ended."""

    DRAINED = 100
    SETTINGS = 101
    REFUSED = 102
    ORPHANED = 103
    STAGING = 104
    TRITON = 105
    MODEL = 106
    SUPERVISION = 107
    GPU = 108
    ORDERED = 109
    INTERNAL = 110
    TERMINATED = 111

    @property
    def code(self) -> str:
        """The name that travels as `reason_code`: lower case."""
        return self.name.lower()

    @property
    def meaning(self) -> str:
        return _MEANINGS[self]

    @property
    def is_failure(self) -> bool:
        """Whether the Application Master counts it against the application (an ordered or drained end is none)."""
        return self not in (Exit.DRAINED, Exit.ORDERED, Exit.TERMINATED)


_MEANINGS = {
    Exit.DRAINED: "drained as ordered; no request was lost",
    Exit.SETTINGS: "the agent's settings are wrong; its last log line names the setting, the value and the fix",
    Exit.REFUSED: "the Application Master does not know this container, so it took nothing and ended",
    Exit.ORPHANED: "no Application Master was heard of for longer than the lease",
    Exit.STAGING: "the model repository could not be staged",
    Exit.TRITON: "tritonserver could not be started, or died or hung too often",
    Exit.MODEL: "a wanted model failed to load",
    Exit.SUPERVISION: "the agent itself died too often under supervisord",
    Exit.GPU: "the GPUs seen are not the GPUs given",
    Exit.ORDERED: "stopped at once as ordered",
    Exit.INTERNAL: "a defect of TARN; the agent's log has the cause",
    Exit.TERMINATED: "ended by a TERM signal from outside",
}


def by_status(status: int) -> Exit | None:
    """The table's row of an exit status, or None where the number is not one of ours."""
    try:
        return Exit(status)
    except ValueError:
        return None
