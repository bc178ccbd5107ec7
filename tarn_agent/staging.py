"""The model repository made present on this machine: the adapter of the Stager port.

A mounted repository is used where it is. One in HDFS is copied to <data_dir>/models, which is complete or absent. What an
earlier run left there and is still right is kept. Whatever time may mend (a NameNode that restarts, a DataNode that dies, a
file that is replaced under way) is tried again until nothing has moved for `stage_stall_s`; everything else ends the staging
at once with one sentence.

Room is left for more: the journal names the checksum of each piece, so that a later run can resume within a file, and the
tree below `data_dir` may come to be hard links into a cache of the node.
"""

from __future__ import annotations

import asyncio
import io
import random
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import structlog

from tarn_agent.core import plan as planning
from tarn_agent.core.manifest import Entry
from tarn_agent.core.model import FileStatus, Progress
from tarn_agent.core.plan import Plan, PlanError
from tarn_agent.ports import Staged, StageError, Store
from tarn_agent.settings import AgentSettings, ModelFailure
from tarn_agent.stores.by_url import open_store
from tarn_agent.stores.hdfs_errors import Changed
from tarn_agent.stores.local_tree import LocalTree
from tarn_agent.stores.meter import Meter
from tarn_agent.stores.mounted import MountedStore
from tarn_agent.stores.transfer import BACKOFF, STREAMS, Transfer, in_thread
from tarn_common.clock import Clock

log = structlog.get_logger(__name__)

T = TypeVar("T")
_LISTING_S = 30.0
_ROUNDS = 8
_TELL_S = 0.5
_CONFIG_BYTES = 1 << 20


class RepositoryStager:
    """One for the life of the agent; `stage` may be called again, and then copies only what is another."""

    def __init__(self, settings: AgentSettings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock

    async def stage(self, on_progress: Callable[[Progress], None], *, again: bool = False) -> Staged:
        store = await in_thread(lambda: open_store(self._settings))
        meter = Meter(self._clock, on_progress)
        telling = asyncio.ensure_future(_tell(meter))
        try:
            if isinstance(store, MountedStore):
                return await self._in_place(store, meter, again)
            return await _Copy(self._settings, store, meter).run()
        except PlanError as error:
            raise StageError(str(error), retry=error.retry) from error
        finally:
            telling.cancel()
            store.close()

    async def has(self, path: str, models: Sequence[str]) -> bool:
        """A file system that hangs has nothing."""

        def look() -> bool:
            root = Path(path)
            return root.is_dir() and (not models or any((root / model).is_dir() for model in models))

        try:
            return await asyncio.wait_for(in_thread(look), _patience(self._settings))
        except asyncio.TimeoutError:
            return False

    async def _in_place(self, store: MountedStore, meter: Meter, again: bool) -> Staged:
        models = await _until_stalled(meter, self._settings.stage_stall_s, lambda: self._present(store, again))
        log.info("repository_in_place", path=store.path, models=len(models))
        return Staged(store.path, models, True, Progress(started_at=self._clock.wall()))

    async def _present(self, store: MountedStore, again: bool) -> tuple[str, ...]:
        try:
            return await self._listed(store)
        except (StageError, PlanError) as error:
            # What was there once may be mounted again: a missing path is then no mistake of the user's.
            raise StageError(str(error), retry=again or error.retry) from error

    async def _listed(self, store: MountedStore) -> tuple[str, ...]:
        listing = await in_thread(lambda: store.listing(_patience(self._settings)))
        models = _chosen(self._settings, listing, store.location)
        for name in await _composing(store, listing, models) if self._settings.models else ():
            planning.check_name(name)
        return models


async def _tell(meter: Meter) -> None:
    """While nothing moves too: then the rate falls, and what failed is told."""
    while True:
        await asyncio.sleep(_TELL_S)
        meter.report()


def _patience(settings: AgentSettings) -> float:
    return min(_LISTING_S, settings.stage_stall_s)


def _chosen(settings: AgentSettings, listing: Sequence[FileStatus], location: str) -> tuple[str, ...]:
    return planning.choose(listing, settings.models, location, strict=settings.model_failure is ModelFailure.STRICT)


async def _until_stalled(meter: Meter, stall_s: float, attempt: Callable[[], Awaitable[T]]) -> T:
    """Tries again with back-off what time may mend, until nothing has moved for `stall_s`."""
    failures = 0
    while True:
        try:
            result = await attempt()
        except (StageError, PlanError) as error:
            if not error.retry:
                raise
            failures += 1
            meter.failed(str(error))
            if meter.still_s > stall_s:
                raise StageError(f"{error}; given up after {stall_s:g} s", retry=True) from error
            (log.warning if failures == 1 else log.debug)("stage_retry", failures=failures, error=str(error))
            await asyncio.sleep(BACKOFF.delay_s(failures, random.random()))  # noqa: S311
        else:
            meter.moved()
            return result


async def _composing(store: Store, listing: Sequence[FileStatus], models: Sequence[str]) -> set[str]:
    """The models that the wanted ensembles run, theirs too, as far as the repository has them."""
    configs = {
        entry.path.partition("/")[0]: entry for entry in listing if entry.path.endswith("/config.pbtxt") and entry.path.count("/") == 1
    }
    found: set[str] = set()
    waiting = list(models)
    while waiting:
        config = configs.get(waiting.pop())
        if config is None or config.length > _CONFIG_BYTES:
            continue
        parts = set(planning.composing(await _text(store, config))) & set(configs) - found
        found |= parts
        waiting += parts
    return found - set(models)


async def _text(store: Store, file: FileStatus) -> str:
    into = io.BytesIO()
    await in_thread(lambda: store.read(file, 0, file.length, into, lambda _count: None))
    return into.getvalue().decode(errors="replace")


class _Copy:
    """One staging of a remote repository."""

    def __init__(self, settings: AgentSettings, store: Store, meter: Meter) -> None:
        self._settings, self._store, self._meter = settings, store, meter
        self._tree = LocalTree(Path(settings.data_dir))

    async def run(self) -> Staged:
        await in_thread(self._tree.begin)
        try:
            plan = await self._complete()
            await in_thread(lambda: self._tree.commit(plan))
        except BaseException as error:
            # Cancelled, or given up for good: nothing half-done stays. What time may mend keeps its finished files.
            if not (isinstance(error, StageError) and error.retry):
                await asyncio.shield(in_thread(self._tree.discard))
            raise
        finally:
            self._tree.close()
        progress = self._meter.last()
        log.info(
            "repository_staged",
            location=plan.location,
            path=str(self._tree.final),
            bytes=progress.bytes_total,
            reused=progress.bytes_reused,
        )
        return Staged(str(self._tree.final), plan.models, False, progress)

    async def _complete(self) -> Plan:
        """Copies until a listing taken afterwards says that what was copied is what there is."""
        plan = await self._planned()
        for number in range(_ROUNDS):
            try:
                await self._bring(plan)
                reason = ""
            except Changed as error:
                reason = str(error)
            newer = await self._planned()
            different = planning.changed(plan, newer)
            if not reason and not different:
                return newer
            log.warning("repository_changed", reason=reason, files=list(different[:10]), round=number + 1)
            plan = newer
            await asyncio.sleep(BACKOFF.delay_s(number + 1, random.random()))  # noqa: S311
        raise StageError(
            f"{plan.location} changed {_ROUNDS} times while it was copied ({reason or planning.named(different)}): let it rest", retry=True
        )

    async def _planned(self) -> Plan:
        plan = await _until_stalled(self._meter, self._settings.stage_stall_s, self._plan)
        if plan.ignored:
            log.debug("not_staged", names=list(plan.ignored))
        return plan

    async def _plan(self) -> Plan:
        listing = await in_thread(lambda: self._store.listing(_patience(self._settings)))
        models = _chosen(self._settings, listing, self._store.location)
        also = await _composing(self._store, listing, models) if self._settings.models else set()
        return planning.make_plan(listing, models, self._store.location, also)

    async def _bring(self, plan: Plan) -> None:
        """Makes the growing tree hold all that is planned."""
        self._meter.plan(plan)
        self._meter.report()
        kept = await self._verified(plan)
        have = await in_thread(lambda: self._tree.prepare(plan, kept))
        for file in have:
            self._meter.reused(file.length)
        missing = [file for file in plan.files if file not in have]
        disk = await in_thread(self._tree.disk)
        planning.check_disk(disk, missing, 0 if have else len(plan.directories), self._settings.disk_reserve_bytes)
        log.info("staging", location=plan.location, files=len(missing), bytes=sum(file.length for file in missing), kept=len(have))
        await Transfer(self._store, self._tree, missing, self._meter, self._settings.stage_stall_s).run()

    async def _verified(self, plan: Plan) -> dict[FileStatus, tuple[Path, Entry]]:
        """What an earlier run left and is still right, every byte read again."""
        claims = await in_thread(lambda: self._tree.candidates(plan))
        waiting = list(claims.items())
        right: dict[FileStatus, tuple[Path, Entry]] = {}
        stopped = threading.Event()

        def check() -> None:
            while waiting and not stopped.is_set():
                try:
                    file, (path, entry) = waiting.pop()
                except IndexError:
                    return
                if self._tree.right(path, entry):
                    right[file] = (path, entry)
                else:
                    log.warning("local_file_not_right", file=file.path)

        try:
            await asyncio.gather(*(in_thread(check) for _ in range(STREAMS if waiting else 0)))
        finally:
            stopped.set()
        return right
