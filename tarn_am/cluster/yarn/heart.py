"""The heartbeat: the one task that talks to the ResourceManager. It says at once what is new, asks fast while something is
awaited and slowly at rest, and brings the conversation back after a restart.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Protocol

import structlog

from tarn_am.cluster.yarn.convert import container
from tarn_am.cluster.yarn.placement import Mode, Placement, Requests, probe
from tarn_am.cluster.yarn.refusals import Meaning, meaning
from tarn_am.cluster.yarn.rm import Deposed, MasterService
from tarn_am.hadoop.errors import HadoopError
from tarn_am.hadoop.pb import yarn_services_pb2
from tarn_am.ports import ClusterError
from tarn_common.backoff import Backoff
from tarn_common.ids import ContainerId

log = structlog.get_logger(__name__)

FAST_S = 5.0
"""So long after something was said or stopped, an answer may come at any moment."""
_WAITING_S = 0.5
_BACKOFF = Backoff(first_s=0.2, limit_s=2.0)
_REREGISTER_S = 900.0
_NOTHING = Requests()


class Ears(Protocol):
    """Who hears what the ResourceManager says."""

    def heard(self, answer: yarn_services_pb2.AllocateResponseProto) -> None: ...

    def registered(self, answer: yarn_services_pb2.RegisterApplicationMasterResponseProto) -> None: ...

    def refused(self, asks: list[str], reason: str) -> None: ...

    def unheard(self) -> None: ...

    def progress(self) -> float: ...


def pause_s(now: float, fast_until: float, waiting: bool, due_at: float | None, fast_s: float, rest_s: float) -> float:
    """Until the next heartbeat, if nothing new is to be said before. `due_at`: when there is something by the clock alone."""
    usual = fast_s if now < fast_until else min(rest_s, max(fast_s, _WAITING_S)) if waiting else rest_s
    return usual if due_at is None else max(0.0, min(usual, due_at - now))


class Heart:
    """`run` beats until it is cancelled, and raises Deposed when this attempt is over."""

    def __init__(
        self, rm: MasterService, placement: Placement, ears: Ears, now: Callable[[], float], *, fast_s: float, rest_s: float
    ) -> None:
        self._rm, self._placement, self._ears, self._now = rm, placement, ears, now
        self._fast_s, self._rest_s = fast_s, rest_s
        self._fast_until = now() + FAST_S
        self._wake = asyncio.Event()
        self._beat_done = asyncio.Condition()
        self._releases: dict[ContainerId, bool] = {}
        self._said = _NOTHING
        self._said_releases: list[ContainerId] = []
        self._failures = 0

    def kick(self) -> None:
        """There is something to say, or to be heard soon."""
        self._fast_until = self._now() + FAST_S
        self._wake.set()

    def release(self, name: ContainerId) -> None:
        """Gives a container back; said again after a restart of the ResourceManager, until `gone` was heard."""
        self._releases.setdefault(name, False)
        self.kick()

    def gone(self, name: ContainerId) -> None:
        self._releases.pop(name, None)

    async def trusted(self, within_s: float, deadline_s: float) -> None:
        """Returns once a heartbeat of the last `within_s` was answered, so that this process is still the one to act.

        Raises ClusterError after `deadline_s`: there may be a younger attempt, and two must never both act.
        """

        def fresh() -> bool:
            return self._rm.heard_at is not None and self._now() - self._rm.heard_at <= within_s

        if fresh():
            return
        self.kick()
        try:
            async with self._beat_done:
                await asyncio.wait_for(self._beat_done.wait_for(fresh), deadline_s)
        except asyncio.TimeoutError as error:
            why = self._rm.trouble or "no heartbeat was answered"
            raise ClusterError(f"nothing is started or stopped while the ResourceManager does not answer: {why}") from error

    async def run(self) -> None:
        while True:
            self._wake.clear()
            await self._turn()
            async with self._beat_done:
                self._beat_done.notify_all()
            await self._rest()

    async def _rest(self) -> None:
        if self._failures:
            await asyncio.sleep(_BACKOFF.delay_s(self._failures, random.random()))  # noqa: S311 - jitter
            return
        now = self._now()
        pause = pause_s(now, self._fast_until, bool(self._placement.waiting), self._placement.next_at(), self._fast_s, self._rest_s)
        # Not wait_for: on Python 3.10 and 3.11 it forgets a cancellation that comes together with the event.
        alarm = asyncio.get_running_loop().call_later(pause, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            alarm.cancel()

    async def _turn(self) -> None:
        request = self._rm.owes or self._composed()
        try:
            answer = await self._rm.say(request)
        except HadoopError as error:
            await self._refused(error)
            return
        self._failures = 0
        if self._placement.mode is Mode.UNKNOWN and request.scheduling_requests:
            self._probed(True)
        self._said, self._said_releases = _NOTHING, []
        self._ears.heard(answer)

    def _composed(self) -> yarn_services_pb2.AllocateRequestProto:
        request = yarn_services_pb2.AllocateRequestProto(progress=self._ears.progress())
        if self._placement.mode is Mode.UNKNOWN:
            if self._placement.wish.needs_tags:
                # Alone: where it is refused, all that stands beside it is refused too.
                request.scheduling_requests.append(probe())
                return request
            self._placement.probed(False)
        self._said = self._placement.requests(self._now())
        request.ask.extend(self._said.plain)
        request.scheduling_requests.extend(self._said.tagged)
        if self._said.add or self._said.remove:
            request.blacklist_request.blacklist_additions.extend(self._said.add)
            request.blacklist_request.blacklist_removals.extend(self._said.remove)
        self._said_releases = [name for name, said in self._releases.items() if not said]
        for name in self._said_releases:
            request.release.append(container(name))
            self._releases[name] = True
        return request

    async def _refused(self, error: HadoopError) -> None:
        """Not one of these changes what is wanted; only what is known to stand at the ResourceManager."""
        what = meaning(error)
        if what is Meaning.LATER:
            self._failures += 1
            self._ears.unheard()
            return
        log.info("resource_manager_refused", meaning=what.name, reason=str(error))
        match what:
            case Meaning.OVER:
                raise Deposed(str(error)) from error
            case Meaning.NO_TAGS if self._placement.mode is Mode.UNKNOWN:
                self._probed(False)
            case Meaning.REGISTER:
                await self._register()
            case Meaning.OTHER_ID:
                self._rm.expect(error)
                self._forget()
            case Meaning.BAD_ASK | Meaning.BAD_LIST:
                self._bad(error, what)
            case _:
                self._forget()

    async def _register(self) -> None:
        answer = await self._rm.register(_REREGISTER_S)
        self._forget()
        if answer is not None:
            log.info("registered_again")
            self._ears.registered(answer)

    def _forget(self) -> None:
        """All that stood is to be said anew."""
        self._placement.forgotten()
        self._said, self._said_releases = _NOTHING, []
        self._releases = dict.fromkeys(self._releases, False)
        self.kick()

    def _bad(self, error: HadoopError, what: Meaning) -> None:
        """Nothing of the request was applied. The part that was wrong is dropped, the rest said again."""
        said, releases = self._said, self._said_releases
        self._said, self._said_releases = _NOTHING, []
        if what is Meaning.BAD_ASK and (said.plain or said.tagged):
            self._ears.refused(self._placement.refuse(said), f"the ResourceManager refused it: {error}")
            self._placement.unsaid(Requests(add=said.add, remove=said.remove))
            self._releases.update(dict.fromkeys(releases, False))
            self.kick()
        elif said or releases:
            log.error("resource_manager_refused_blacklist_or_release", reason=str(error), releases=releases)
            self._placement.unsaid(said, asks_only=True)
            for name in releases:
                self._releases.pop(name, None)
            self.kick()
        else:
            self._failures += 1

    def _probed(self, takes_tags: bool) -> None:
        self._placement.probed(takes_tags)
        log.info("placement_chosen", mode=self._placement.mode.value)
        self.kick()
