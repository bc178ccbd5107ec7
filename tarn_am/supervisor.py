"""The one loop: owns the fleet's state, feeds it events, carries out its actions, and publishes what it knows.

Everything else sends events and reads frozen views. Actions run as named tasks of their own, with deadlines; what came of them
is the next event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import structlog

from tarn_am.core import actions, events, fleet
from tarn_am.core.model import FleetView
from tarn_am.core.roster import FleetPolicy, FleetState, counts
from tarn_am.ports import (
    AgentLink,
    Allocated,
    Appeared,
    AskRefused,
    AskWaits,
    BadRequest,
    Cluster,
    ClusterError,
    ClusterEvent,
    Completed,
    LaunchSpec,
    Leaving,
    LostCharge,
    ModelAction,
    UnknownInstance,
)
from tarn_am.publication import Publication
from tarn_common.clock import Clock
from tarn_common.ids import ApplicationId, ContainerId
from tarn_common.tasks import TaskGroup

log = structlog.get_logger(__name__)

TICK_S = 1.0
CALL_DEADLINE_S = 60.0
"""A call to the cluster that takes longer has failed."""
LAUNCHES_AT_ONCE = 16


@dataclass(frozen=True)
class Charge:
    """What a supervisor is put in charge of. `keep_target` writes the wanted number down; it may block."""

    application_id: ApplicationId
    incarnation: str
    policy: FleetPolicy
    kept_target: int | None
    keep_target: Callable[[int | None], None]


class Supervisor:
    """Implements ports.Fleet, and the agents' Door."""

    def __init__(self, charge: Charge, cluster: Cluster, link: AgentLink, spec: LaunchSpec, clock: Clock) -> None:
        self._charge, self._cluster, self._link, self._spec, self._clock = charge, cluster, link, spec, clock
        self._state = fleet.begin(charge.policy, charge.kept_target)
        self._queue: asyncio.Queue[tuple[events.Event, asyncio.Future[None] | None]] = asyncio.Queue()
        self._tasks = TaskGroup()
        self._wall0, self._monotonic0 = clock.wall(), clock.monotonic()
        self._publication = Publication(self._built, clock)
        self._adopted = asyncio.Event()
        self._finished: asyncio.Future[actions.FinishApplication] = asyncio.get_running_loop().create_future()
        self._launching = asyncio.Semaphore(LAUNCHES_AT_ONCE)
        self._keeping = asyncio.Lock()

    # --- life

    async def adopt(self) -> int:
        """Connects to the cluster and takes up what runs; returns how many. Raises ClusterError."""
        running = await self._cluster.start(self._from_cluster)
        found = tuple(events.AdoptedContainer(one.container_id, one.node, one.launched_at) for one in running)
        if found:
            self._step(events.Adopted(found))
        self._adopted.set()
        return len(found)

    async def run(self) -> None:
        """Until it is cancelled."""
        ticker = self._tasks.watch("tick", self._tick())
        try:
            while True:
                event, done = await self._queue.get()
                self._step(event)
                if done is not None and not done.done():
                    done.set_result(None)
        finally:
            ticker.cancel()

    async def failed(self) -> None:
        """Raises as soon as an action came to an end that it should not have."""
        await self._tasks.wait()

    async def heard_of_all(self) -> None:
        """Returns when every adopted container's agent has spoken, or was given up."""
        while any(member.unheard for member in self._state.members.values()):
            await self.changed(self.view().version)

    async def finished(self) -> actions.FinishApplication:
        """Returns when the application is over and the cluster was told."""
        return await asyncio.shield(self._finished)

    async def close(self, deadline_s: float = 5.0) -> None:
        self._publication.close()
        await self._tasks.close(deadline_s)

    async def _tick(self) -> None:
        while True:
            await self.tell(events.Tick())
            await asyncio.sleep(TICK_S)

    # --- the agents' door

    async def admit(self, container: ContainerId) -> str:
        await self._adopted.wait()
        member = self._state.of(container)
        if member is None:
            return f"{container} is not one of the containers of {self._charge.application_id} that run now"
        if member.instance.phase.is_over or member.instance.stop_ordered_at:
            return f"{container} was given up: {member.instance.reason or 'it is being stopped'}"
        return ""

    async def tell(self, event: events.Event) -> None:
        """Returns when the fleet has taken the event in."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((event, done))
        await done

    def offer(self, event: events.Event) -> None:
        self._queue.put_nowait((event, None))

    def _from_cluster(self, event: ClusterEvent) -> None:
        match event:
            case Allocated():
                self.offer(events.ClusterAllocated(event.ask_id, event.container_id, event.node))
            case Completed():
                self.offer(events.ClusterCompleted(event.container_id, event.exit_status, event.diagnostics))
            case AskRefused():
                self.offer(events.ClusterAskRefused(event.ask_id, event.reason, event.retry))
            case AskWaits():
                self.offer(events.ClusterAskWaits(event.ask_id, event.reason))
            case Appeared():
                one = event.running
                self.offer(events.Adopted((events.AdoptedContainer(one.container_id, one.node, one.launched_at),)))
            case Leaving():
                self.offer(events.ClusterTakes(event.container_id, event.reason, event.within_s))
            case LostCharge():
                self._tasks.spawn("cluster", self._lost_charge(event.reason))

    async def _lost_charge(self, reason: str) -> None:
        """Ends this process through `failed`, and nothing else: what runs is another's now."""
        raise ClusterError(reason, retry=False)

    # --- the step

    def _now(self) -> float:
        """Wall time that no setting of the machine's clock makes jump."""
        return self._wall0 + (self._clock.monotonic() - self._monotonic0)

    def _step(self, event: events.Event) -> None:
        old = self._state
        self._state, todo = fleet.step(old, event, self._now())
        for action in todo:
            self._do(action)
        self._tell_log(old, self._state)
        if self._state.listing != old.listing:
            self._publication.now(listing=True)
        elif self._state.changes != old.changes:
            self._publication.soon()
        else:
            self._publication.turned()

    def _tell_log(self, old: FleetState, new: FleetState) -> None:
        fresh = new.happened - old.happened
        for happening in new.happenings[-fresh:] if fresh else ():
            tell = {"warning": log.warning, "error": log.error}.get(happening.severity, log.info)
            tell("fleet", what=happening.sentence, container_id=happening.container_id)
        if new.verdict != old.verdict:
            log.debug("verdict", verdict=new.verdict)

    # --- actions

    def _do(self, action: actions.Action) -> None:
        match action:
            case actions.SendDrain():
                self._link.drain(action.container_id, action.deadline_s, action.grace_s, action.reason)
            case actions.SendStop():
                self._link.stop(action.container_id, action.reason)
            case actions.Launch():
                self._tasks.spawn(f"launch {action.container_id}", self._launch(action.container_id))
            case actions.Request():
                self._tasks.spawn(f"request {action.ask_id}", self._request(action.ask_id))
            case actions.KeepTarget():
                self._tasks.spawn("keep target", self._keep(action.wanted))
            case actions.FinishApplication():
                self._tasks.spawn("finish", self._finish(action))
            case _:
                self._tasks.spawn(f"{type(action).__name__.lower()}", self._call(action))

    async def _request(self, ask_id: str) -> None:
        try:
            await asyncio.wait_for(self._cluster.request(ask_id), CALL_DEADLINE_S)
        except (ClusterError, asyncio.TimeoutError) as error:
            self.offer(events.ClusterAskRefused(ask_id, _why(error), getattr(error, "retry", True)))

    async def _launch(self, container: ContainerId) -> None:
        try:
            async with self._launching:
                await asyncio.wait_for(self._cluster.launch(container, self._spec), CALL_DEADLINE_S)
        except (ClusterError, asyncio.TimeoutError) as error:
            self.offer(events.LaunchFailed(container, _why(error)))
        else:
            self.offer(events.Launched(container))

    async def _call(self, action: actions.Cancel | actions.Release | actions.StopContainer) -> None:
        """The calls whose failure the fleet notices by itself: nothing changes, and it orders again."""
        try:
            match action:
                case actions.Cancel():
                    await asyncio.wait_for(self._cluster.cancel(action.ask_id), CALL_DEADLINE_S)
                case actions.Release():
                    await asyncio.wait_for(self._cluster.release(action.container_id), CALL_DEADLINE_S)
                case actions.StopContainer():
                    await asyncio.wait_for(self._cluster.stop(action.container_id), CALL_DEADLINE_S)
        except (ClusterError, asyncio.TimeoutError) as error:
            log.warning("cluster_call_failed", call=str(action), error=_why(error))

    async def _keep(self, wanted: int | None) -> None:
        async with self._keeping:
            await asyncio.to_thread(self._charge.keep_target, wanted)

    async def _finish(self, action: actions.FinishApplication) -> None:
        try:
            await asyncio.wait_for(self._cluster.finish(action.succeeded, action.message), CALL_DEADLINE_S)
        except (ClusterError, asyncio.TimeoutError) as error:
            log.warning("cluster_call_failed", call=str(action), error=_why(error))
        self._finished.set_result(action)

    # --- ports.Fleet

    def view(self) -> FleetView:
        return self._publication.view()

    def _built(self) -> FleetView:
        state, charge = self._state, self._charge
        members = sorted(state.members.values(), key=lambda member: (member.instance.container_id or "~", member.instance.asked_at))
        return FleetView(
            application_id=charge.application_id,
            incarnation=charge.incarnation,
            started_at=self._wall0,
            at=self._state.ticked_at or self._wall0,
            version=f"{charge.incarnation}-{state.changes}",
            listing_version=f"{charge.incarnation}-{state.listing}",
            min_instances=state.policy.min_instances,
            max_instances=state.policy.max_instances,
            counts=counts(state),
            instances=tuple(member.instance for member in members),
            ended=state.ended,
            happenings=state.happenings,
            verdict=state.verdict,
            halted=state.halted,
            next_ask_at=state.crashes.next_ask_at,
            shutting_down=state.shutting_down,
        )

    async def changed(self, version: str) -> FleetView:
        return await self._publication.changed(version)

    async def listing_changed(self, listing_version: str) -> FleetView:
        return await self._publication.listing_changed(listing_version)

    async def scale(self, wanted: int, who: str) -> FleetView:
        policy = self._charge.policy
        if not policy.min_instances <= wanted <= policy.max_instances:
            raise BadRequest(
                f"{wanted} instances are outside {policy.min_instances} to {policy.max_instances}: "
                "give a number between --min-instances and --max-instances"
            )
        if self._state.shutting_down:
            raise BadRequest("the application is shutting down: start it again to scale it")
        return await self._order(events.ScaleOrdered(wanted, who))

    async def drain(self, container_id: ContainerId, who: str) -> FleetView:
        self._known(container_id)
        return await self._order(events.DrainOrdered(container_id, who))

    async def shut_down(self, who: str) -> None:
        await self._order(events.ShutdownOrdered(who))

    async def model(self, container_id: ContainerId, action: ModelAction, model: str) -> None:
        self._known(container_id)
        await self._link.model(container_id, action, model)

    def tail(self, container_id: ContainerId, source: str, lines: int, follow: bool) -> AsyncIterator[str]:
        self._known(container_id)
        return self._link.tail(container_id, source, lines, follow)

    async def _order(self, event: events.Event) -> FleetView:
        await self.tell(event)
        self._publication.now()
        return self.view()

    def _known(self, container_id: ContainerId) -> None:
        if self._state.of(container_id) is None:
            known = sorted(self._state.by_container)
            more = f" and {len(known) - 20} more" if len(known) > 20 else ""
            raise UnknownInstance(f"there is no instance {container_id}; there are: {', '.join(known[:20]) or 'none'}{more}")


def _why(error: BaseException) -> str:
    return str(error) or f"no answer within {CALL_DEADLINE_S:g} s"
