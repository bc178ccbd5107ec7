"""The cluster that is this one machine: each 'container' is a directory and a session of processes.

A container gets exactly what a YARN container gets: the environment of its LaunchSpec and what a NodeManager sets, a
credentials file, a log directory; nothing of the Application Master's own environment. It runs in a session of its own and
outlives this process; the next Application Master finds it by its directory, pid and start time, and takes it up again.

    <root>/containers/<container id>/   logs/  data/  container_tokens  launch.json
    /tmp/tarn-<uid>/<short name>/       its run directory (sockets need short paths)
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from tarn_am.cluster.places import Place, Record, private_directory
from tarn_am.ports import Allocated, AskRefused, ClusterError, ClusterSink, Completed, LaunchSpec, Running
from tarn_common import process
from tarn_common.clock import Clock, SystemClock
from tarn_common.ids import ApplicationId, ContainerId, IdError, container_id, make_container_id
from tarn_common.process import Process

log = structlog.get_logger(__name__)

ENDED_KEPT = 10
"""Directories of ended containers that are kept for their logs."""
SWEEP_S = 3.0
"""What is left of a container whose init is dead gets so long after TERM."""
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class _Container:
    place: Place
    record: Record
    child: subprocess.Popen[bytes] | None
    stopping: bool = False

    @property
    def process(self) -> Process:
        return self.record.process


class LocalCluster:
    """Implements ports.Cluster. `command` is what runs in a container; `node` is the address that instances bind and are known by."""

    def __init__(
        self,
        root: Path,
        application_id: ApplicationId,
        runtime_environ: Mapping[str, str],
        *,
        command: Sequence[str] = (sys.executable, "-m", "tarn_agent.init"),
        node: str = "127.0.0.1",
        stop_s: float = 15.0,
        clock: Clock | None = None,
    ) -> None:
        self._root, self._application = root, application_id
        self._runtime, self._command, self._node, self._stop_s = dict(runtime_environ), tuple(command), node, stop_s
        self._clock = clock or SystemClock()
        self._sink: ClusterSink | None = None
        self._asks: set[str] = set()
        self._allocated: set[ContainerId] = set()
        self._running: dict[ContainerId, _Container] = {}
        self._watches: set[asyncio.Task[None]] = set()
        self._work: set[asyncio.Task[None]] = set()
        self._last_number = 0

    # --- ports.Cluster

    async def start(self, sink: ClusterSink) -> list[Running]:
        self._sink = sink
        try:
            private_directory(self._run_root)
            self._containers.mkdir(parents=True, exist_ok=True, mode=0o700)
            places = await asyncio.to_thread(self._places)
        except OSError as error:
            raise ClusterError(f"{self._containers} cannot be used: {error.strerror}", retry=False) from error
        self._last_number = max([self._read_last(), *(place.number for place in places)])
        for place in places:
            self._take_up(place)
        return [Running(c.place.container_id, self._node, c.record.launched_at) for c in self._running.values()]

    async def request(self, ask_id: str) -> None:
        self._asks.add(ask_id)
        asyncio.get_running_loop().call_soon(self._allocate, ask_id)

    async def cancel(self, ask_id: str) -> None:
        self._asks.discard(ask_id)

    async def launch(self, container_id: ContainerId, spec: LaunchSpec) -> None:
        if container_id in self._running:
            return
        if container_id not in self._allocated:
            raise ClusterError(f"{container_id} was not allocated", retry=False)
        place = self._place(container_id)
        try:
            container = await asyncio.to_thread(self._spawn, place, spec)
        except OSError as error:
            await asyncio.to_thread(self._remove, place)
            raise ClusterError(f"{self._command[0]} could not be started in {place.directory}: {error.strerror}") from error
        self._allocated.discard(container_id)
        self._running[container_id] = container
        self._follow(container)
        log.info("container_started", container_id=container_id, pid=container.process.pid, directory=str(place.directory))

    async def stop(self, container_id: ContainerId) -> None:
        container = self._running.get(container_id)
        if container is None or container.stopping:
            return
        container.stopping = True
        self._spawn_work(f"stop {container_id}", self._end(container))

    async def release(self, container_id: ContainerId) -> None:
        self._allocated.discard(container_id)
        await self.stop(container_id)

    async def finish(self, succeeded: bool, message: str) -> None:
        """Lets go of what runs; waits for the stops and the tidying that were begun."""
        if self._work:
            await asyncio.wait(self._work, timeout=self._stop_s + 2 * SWEEP_S)
        for watch in self._watches:
            watch.cancel()
        for container in self._running.values():
            if container.child is not None:
                # It outlives us, as it should: subprocess need not warn that it was not waited for.
                container.child.returncode = 0
        log.info("cluster_finished", succeeded=succeeded, message=message, left_running=len(self._running))

    # --- allocation

    def _allocate(self, ask_id: str) -> None:
        if ask_id not in self._asks:
            return
        self._asks.discard(ask_id)
        assert self._sink is not None
        self._last_number += 1
        try:
            # Written before it is used: an id is never given twice, whoever dies when.
            (self._root / "last-container.tmp").write_text(f"{self._last_number}\n")
            (self._root / "last-container.tmp").replace(self._root / "last-container")
        except OSError as error:
            self._sink(AskRefused(ask_id, f"{self._root} cannot be written: {error.strerror}", retry=True))
            return
        container = make_container_id(self._application, 1, self._last_number)
        self._allocated.add(container)
        self._sink(Allocated(ask_id, container, self._node))

    def _read_last(self) -> int:
        try:
            return int((self._root / "last-container").read_text())
        except (OSError, ValueError):
            return 1

    # --- starting

    def _spawn(self, place: Place, spec: LaunchSpec) -> _Container:
        place.create(spec.credentials)
        with place.log("stdout") as out, place.log("stderr") as err:
            child = subprocess.Popen(
                self._command,
                cwd=place.directory,
                env=self._environ(place, spec),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                umask=0o077,
            )
        found = process.identify(child.pid)
        assert found is not None, "an own child is there until it is waited for"
        record = Record(found, self._clock.wall())
        try:
            place.write(record)
        except OSError:
            # Without its record no later Application Master would find it.
            child.kill()
            child.wait()
            raise
        return _Container(place, record, child)

    def _environ(self, place: Place, spec: LaunchSpec) -> dict[str, str]:
        user = _user()
        return {
            "PATH": _DEFAULT_PATH,
            "TARN_BIND": self._node,
            **self._runtime,
            **spec.environ,
            "USER": user,
            "LOGNAME": user,
            "HOME": str(place.directory),
            "PWD": str(place.directory),
            "CONTAINER_ID": place.container_id,
            "NM_HOST": self._node,
            "LOCAL_DIRS": str(place.directory),
            "LOG_DIRS": str(place.logs),
            "HADOOP_TOKEN_FILE_LOCATION": str(place.tokens),
            "TARN_LOG_DIR": str(place.logs),
            "TARN_RUN_DIR": str(place.run),
            "TARN_DATA_DIR": str(place.data),
        }

    # --- taking up again, and watching

    def _take_up(self, place: Place) -> None:
        record = place.read()
        if record is not None and record.process.runs:
            container = _Container(place, record, None)
            self._running[place.container_id] = container
            self._follow(container)
            log.info("container_found_running", container_id=place.container_id, pid=record.process.pid)
        elif place.is_open:
            # It ended while nobody watched, and may have left something behind.
            self._spawn_work(f"tidy {place.container_id}", self._tidy(place, record.process if record else None))

    def _follow(self, container: _Container) -> None:
        task = asyncio.get_running_loop().create_task(self._watch(container), name=f"watch {container.place.container_id}")
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)

    async def _watch(self, container: _Container) -> None:
        await self._end_of(container.process)
        place = container.place
        status = container.child.wait() if container.child is not None else place.exit_status()
        if status is not None and status < 0:
            status = 128 - status  # as a shell, and YARN, tell a signal
        del self._running[place.container_id]
        log.info("container_ended", container_id=place.container_id, exit_status=status)
        # Told first: clients must not be sent to it a moment longer.
        assert self._sink is not None
        self._sink(Completed(place.container_id, status, place.last_words()))
        self._spawn_work(f"tidy {place.container_id}", self._tidy(place, container.process))

    async def _end_of(self, one: Process) -> None:
        while True:
            try:
                await one.ended()
                return
            except OSError as error:
                # No file descriptor is free just now. The container must be watched all the same.
                log.warning("container_watch_failed", pid=one.pid, error=error.strerror)
                await asyncio.sleep(1.0)

    # --- ending

    async def _end(self, container: _Container) -> None:
        """TERM to init, which ends its container in order; after the deadline KILL to all that it ever had."""
        try:
            known = await asyncio.to_thread(process.family, container.process)
            container.process.send(signal.SIGTERM)
            if await process.all_ended([container.process], self._stop_s):
                return
            log.warning("container_killed", container_id=container.place.container_id, after_s=self._stop_s)
            known += await asyncio.to_thread(process.family, container.process)
            for one in [container.process, *known]:
                one.send(signal.SIGKILL)
        finally:
            container.stopping = False

    async def _tidy(self, place: Place, init: Process | None) -> None:
        left = await asyncio.to_thread(process.family, init) if init is not None else []
        if left:
            log.warning("processes_left_behind", container_id=place.container_id, pids=[one.pid for one in left])
        for number in (signal.SIGTERM, signal.SIGKILL):
            for one in left:
                one.send(number)
            if await process.all_ended(left, SWEEP_S):
                break
        await asyncio.to_thread(self._close, place)

    def _close(self, place: Place) -> None:
        place.close()
        ended = sorted((other for other in self._places() if not other.is_open), key=lambda other: other.number)
        for old in ended[:-ENDED_KEPT]:
            self._remove(old)

    def _remove(self, place: Place) -> None:
        place.close()
        shutil.rmtree(place.directory, ignore_errors=True)

    def _spawn_work(self, name: str, body: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(body, name=name)
        self._work.add(task)
        task.add_done_callback(self._worked)

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("local_cluster_work_failed", task=task.get_name(), error=repr(error))

    # --- places

    @property
    def _containers(self) -> Path:
        return self._root / "containers"

    @property
    def _run_root(self) -> Path:
        return Path(f"/tmp/tarn-{os.geteuid()}")  # noqa: S108 - made 0700 and checked to be ours; sockets need it short

    def _place(self, container_id: ContainerId) -> Place:
        short = hashlib.sha256(f"{self._root.resolve()}/{container_id}".encode()).hexdigest()[:12]
        return Place(container_id, self._containers / container_id, self._run_root / short)

    def _places(self) -> list[Place]:
        found = []
        for entry in sorted(self._containers.iterdir()):
            with contextlib.suppress(IdError):
                found.append(self._place(container_id(entry.name)))
        return found


def _user() -> str:
    """The name of this process's user; the number where the user database has none, as in many containers."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
