"""What happens to an instance, and what is done about it: the words between `lifecycle`, which decides, and `keeper`, which acts."""

from __future__ import annotations

from dataclasses import dataclass, field

from tarn_agent.core.model import ModelState
from tarn_common.exits import Exit

# --- what happens


@dataclass(frozen=True)
class Accepted:
    """An Application Master knows this container; its stream stands."""


@dataclass(frozen=True)
class Refused:
    reason: str


@dataclass(frozen=True)
class LinkLost:
    """No Application Master is heard any more."""


@dataclass(frozen=True)
class Adopted:
    """A tritonserver runs already, started by an agent before this one. `served`: it was READY once."""

    pid: int
    served: bool


@dataclass(frozen=True)
class Resumed:
    """This container was accepted before its agent was started anew, and no tritonserver runs."""


@dataclass(frozen=True)
class Interrupted:
    """An agent before this one had begun to end the instance; `left_s` of its deadline are left."""

    exit: Exit
    reason: str
    left_s: float


@dataclass(frozen=True)
class Staged:
    models: tuple[str, ...]


@dataclass(frozen=True)
class StageFailed:
    reason: str


@dataclass(frozen=True)
class Waiting:
    """What keeps the staging, or the repository before a start, from going forward; empty: nothing any more."""

    reason: str


@dataclass(frozen=True)
class Started:
    pid: int


@dataclass(frozen=True)
class StartFailed:
    """`uniform` (0..1) is the random number of the delay before the next try."""

    reason: str
    uniform: float = 1.0


@dataclass(frozen=True)
class Probed:
    """One look at the tritonserver `pid`, begun at `asked_at`. Not `answered`: nothing came within the probe's deadline."""

    pid: int
    asked_at: float
    answered: bool
    live: bool = False
    ready: bool = False
    models: tuple[ModelState, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Gone:
    """The tritonserver `pid` has ended; `last_lines` are the end of its log."""

    pid: int
    last_lines: tuple[str, ...] = ()
    uniform: float = 1.0


@dataclass(frozen=True)
class Wanted:
    """From now on `model` counts for readiness, or no longer."""

    model: str
    wanted: bool


@dataclass(frozen=True)
class Changing:
    """An order about models is begun (+1) or over (-1): meanwhile tritonserver may say that it is not ready, or be slow to answer."""

    by: int


@dataclass(frozen=True)
class DrainOrdered:
    deadline_s: float
    grace_s: float
    reason: str


@dataclass(frozen=True)
class StopOrdered:
    reason: str


@dataclass(frozen=True)
class Terminated:
    """A TERM from outside."""


@dataclass(frozen=True)
class Withdrawn:
    """The znode is gone, or ZooKeeper is."""


@dataclass(frozen=True)
class Unloaded:
    """Every model was asked to unload."""


@dataclass(frozen=True)
class Stopped:
    """No tritonserver runs any more, and none is being started."""


@dataclass(frozen=True)
class Tick:
    """Time has passed: `lifecycle.next_deadline` has come."""


Event = (
    Accepted | Refused | LinkLost | Adopted | Resumed | Interrupted | Staged | StageFailed | Waiting | Started | StartFailed | Probed | Gone
    | Wanted | Changing | DrainOrdered | StopOrdered | Terminated | Withdrawn | Unloaded | Stopped | Tick
)  # fmt: skip

# --- what is done


@dataclass(frozen=True)
class Stage:
    """Make the repository present; Staged or StageFailed follows."""


@dataclass(frozen=True)
class Start:
    """Start tritonserver with these models; Started or StartFailed follows, or StageFailed where its repository is gone for good."""

    models: tuple[str, ...]


@dataclass(frozen=True)
class Kill:
    """KILL to a tritonserver that hangs; Gone follows."""


@dataclass(frozen=True)
class Announce:
    """The znode must stand from now on."""


@dataclass(frozen=True)
class Withdraw:
    """The znode must not stand from now on; Withdrawn follows."""


@dataclass(frozen=True)
class Unload:
    """Ask tritonserver to unload these models; Unloaded follows."""

    models: tuple[str, ...]


@dataclass(frozen=True)
class Stop:
    """End tritonserver and whatever is being done to start one; Stopped follows."""


@dataclass(frozen=True)
class Finish:
    """Nothing is left to be done: tell the Application Master, write the status, end the container."""

    exit: Exit
    reason: str = field(default="")


Action = Stage | Start | Kill | Announce | Withdraw | Unload | Stop | Finish
