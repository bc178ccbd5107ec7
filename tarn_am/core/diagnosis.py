"""Why a container ended: one table of causes, by exit status and by what the cluster wrote, each with what it means and the fix.

The sentences decide before the numbers: YARN's executor, Docker and the programs inside share the numbers below 85. For each
cause it says whether it counts against the application, and whether it speaks against the node.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tarn_common.exits import Exit, by_status


@dataclass(frozen=True)
class Cause:
    """A row: it matches an exit status of `statuses` (empty: any) whose diagnostics have `text` (empty: any text).

    `failure`: an end of this kind that nobody ordered counts against the application. `node`: it speaks against the node.
    `told`: `meaning` says all; the cluster's text would add nothing.
    """

    code: str
    meaning: str
    statuses: tuple[int, ...] = ()
    text: str = ""
    failure: bool = True
    node: bool = False
    told: bool = False

    def matches(self, exit_status: int, diagnostics: str) -> bool:
        return (not self.statuses or exit_status in self.statuses) and re.search(self.text, diagnostics) is not None


CAUSES = (
    # What YARN says with numbers of its own.
    Cause("released", "it was given back to the cluster", (-100,), "released by application", failure=False, told=True),
    Cause(
        "node_lost", "its node is lost to the cluster; whatever still runs there ends itself", (-100,), r"\*?lost\*? node", failure=False
    ),
    Cause("aborted", "the cluster took it back before it ran", (-100,), failure=False),
    Cause("disks_failed", "the disks of its node failed; the node's NodeManager log names them", (-101,), failure=False, node=True),
    Cause("preempted", "another queue claimed its room", (-102,), failure=False, told=True),
    Cause("out_of_memory", "it used more virtual memory than it had; give more with --memory-mb", (-103,)),
    Cause("out_of_memory", "it used more memory than it had; give more with --memory-mb", (-104,)),
    Cause("stopped", "it was stopped as ordered", (-105,), failure=False, told=True),
    Cause("killed_by_cluster", "the ResourceManager ended it", (-106,), failure=False),
    Cause("application_over", "it was ended with its application", (-107,), failure=False, told=True),
    Cause("displaced", "its node needed the room for another container", (-108,), failure=False),
    Cause("excess_logs", "it wrote more logs than the cluster allows", (-109,)),
    # Before a program ran: files.
    Cause("archive_changed", "the agent's archive is not the one that was submitted; submit again", text="changed on src filesystem"),
    Cause(
        "archive_refused",
        "its node had no proof for the file system, so its files could not be fetched; submit with the file system's token",
        (-1000,),
        "Client cannot authenticate via",
    ),
    Cause("archive_missing", "a file that it needs is not there; submit again", (-1000,), "FileNotFoundException|File does not exist"),
    Cause("localization", "its files could not be fetched to its node", (-1000,), node=True),
    # Before a program ran: Docker.
    Cause(
        "image_missing",
        "its image could not be had; check --image and that the nodes may pull it",
        (7,),
        "Unable to find image|pull access denied|manifest unknown|manifest for .* not found",
    ),
    Cause("image_without_bash", "its image has no bash, which YARN needs in it", (7, 126, 127), r'exec: "bash"'),
    Cause(
        "image_untrusted",
        "its image is not trusted on that node: add its prefix to docker.trusted.registries in container-executor.cfg",
        text="is not trusted",
    ),
    Cause("image_name", "YARN does not take that image name; it has no blanks and no capitals", text="doesn't match docker image name"),
    Cause("network_refused", "its node does not allow that Docker network", text="Disallowed network"),
    Cause(
        "mount_refused",
        "its node does not allow a mount: add it to docker.allowed.ro-mounts or rw-mounts in container-executor.cfg",
        text="Configuration does not allow mount",
    ),
    Cause("docker_down", "Docker does not answer on its node", text="Cannot connect to the Docker daemon", node=True),
    Cause("docker_failed", "Docker could not start it on its node", (7, 29), "docker", node=True),
    Cause(
        "runtime_refused",
        "its node does not offer that runtime: allow it in yarn.nodemanager.runtime.linux.allowed-runtimes",
        text="is not an allowed runtime|[Rr]untime type .* not (allowed|supported)|Requested runtime not allowed",
    ),
    Cause("executor_broken", "the container executor of its node is not set up; the node is out until it is mended", (22, 24), node=True),
    Cause("launch_failed", "its node could not launch it", (-1,), node=True),
    Cause("lost_track", "it ended while its NodeManager was down, so its exit status is unknown", (154,)),
    # What shells and signals say.
    Cause("status_0", "it ended with status 0, which no program of TARN does", (0,), told=True),
    Cause("status_126", "its command could not be executed (status 126)", (126,), node=True),
    Cause("status_127", "its command was not found (status 127)", (127,), node=True),
    Cause("status_130", "it was interrupted (SIGINT, status 130)", (130,)),
    Cause("status_134", "it aborted (SIGABRT, status 134)", (134,)),
    Cause("status_137", "it was killed (SIGKILL, status 137): by the kernel when memory ran out, or by hand", (137,)),
    Cause("status_139", "it crashed (SIGSEGV, status 139)", (139,)),
    Cause("status_143", "it was ended by a TERM signal from outside (status 143)", (143,), failure=False),
)
"""The first row that matches, from above, is the cause."""
_OF_THE_NODE = frozenset({Exit.TRITON, Exit.SUPERVISION, Exit.GPU, Exit.INTERNAL})
"""Ends of TARN's own programs that another node may not repeat; a wrong setting or model fails everywhere."""


def cause(exit_status: int, diagnostics: str) -> Cause:
    """The row of the table; for a status that no row knows, one that says only the number."""
    ours = by_status(exit_status)
    if ours is not None:
        return Cause(ours.code, f"{ours.meaning} (status {int(ours)})", failure=ours.is_failure, node=ours in _OF_THE_NODE, told=True)
    found = next((row for row in CAUSES if row.matches(exit_status, diagnostics)), None)
    return found or Cause(f"status_{exit_status}", f"it ended with status {exit_status}", node=True)


def is_failure(exit_status: int | None, diagnostics: str = "") -> bool:
    """Whether an end that nobody ordered counts against the application."""
    return exit_status is None or cause(exit_status, diagnostics).failure


def blames_node(exit_status: int | None, diagnostics: str = "") -> bool:
    """Whether an early end of this kind speaks against the node that it happened on."""
    return exit_status is not None and cause(exit_status, diagnostics).node


def code(exit_status: int | None, diagnostics: str = "") -> str:
    return "" if exit_status is None else cause(exit_status, diagnostics).code


def sentence(exit_status: int | None, diagnostics: str, said: str) -> str:
    """`said` is the reason that the agent gave before it ended, and wins over numbers."""
    if said:
        return said
    if exit_status is None:
        return "; ".join(part for part in ("it ended unseen, so its exit status is unknown", diagnostics.strip()) if part)
    found = cause(exit_status, diagnostics)
    return "; ".join(part for part in (found.meaning, "" if found.told else diagnostics.strip()) if part)
