"""YARN behind the Cluster port: joins the conversation with the ResourceManager, the NodeManagers and the ledger.

It asks and launches as the fleet says, and tells what came of it. Nothing is started or stopped while the ResourceManager does
not answer: there may be a younger attempt, and two never both act.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import structlog

from tarn_am.cluster.yarn import convert, launch
from tarn_am.cluster.yarn.attempt import Attempt, connected
from tarn_am.cluster.yarn.books import Held, Stage
from tarn_am.cluster.yarn.convert import Size
from tarn_am.cluster.yarn.heart import Heart
from tarn_am.cluster.yarn.inventory import Inventory
from tarn_am.cluster.yarn.ledger import Ledger
from tarn_am.cluster.yarn.memory import Memory, remembered
from tarn_am.cluster.yarn.nm import NodeError, NodeManagers
from tarn_am.cluster.yarn.nodes import NodePolicy
from tarn_am.cluster.yarn.offer import why_never, why_unknown
from tarn_am.cluster.yarn.placement import Wish
from tarn_am.cluster.yarn.rm import Deposed, MasterService, Presence
from tarn_am.cluster.yarn.settings import YarnSettings
from tarn_am.cluster.yarn.view import YarnView, view
from tarn_am.core.launch import LaunchError
from tarn_am.hadoop.ipc.sasl import Login
from tarn_am.hadoop.pb import yarn_services_pb2
from tarn_am.ports import Appeared, ClusterError, ClusterEvent, ClusterSink, LaunchSpec, LostCharge, Running
from tarn_common.clock import Clock, SystemClock
from tarn_common.hadoop_conf import HadoopConf
from tarn_common.ids import ApplicationId, ContainerId
from tarn_common.tasks import TaskEnded, TaskGroup

log = structlog.get_logger(__name__)

LOOK_S = 5.0
"""Between two looks at the cluster's nodes while asks wait."""
LOOK_DEADLINE_S = 3.0
FINISH_S = 40.0
RESTOP_S = 5.0
"""A stop that is ordered again sooner changes nothing."""


class YarnCluster:
    """Implements ports.Cluster for one attempt of one application.

    `login` proves the attempt (the AMRM token); `client_login`, where there is one, opens the ResourceManager's client port;
    `memory` is a file of the AM's own container, in which a second process of this attempt finds what nobody tells twice.
    """

    def __init__(
        self,
        settings: YarnSettings,
        conf: HadoopConf,
        login: Login,
        application_id: ApplicationId,
        attempt_id: int,
        *,
        client_login: Login | None = None,
        memory: Path | None = None,
        presence: Presence | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._settings, self._clock = settings, clock or SystemClock()
        self._attempt = Attempt(application_id, attempt_id)
        self._masters, clients = connected(conf, login, client_login, settings.call_s)
        self._nm = NodeManagers(login, settings.node_call_s)
        self._inventory = Inventory(clients, settings.node_label)
        now = self._clock.monotonic
        self._rm = MasterService(self._masters, login, presence or Presence(""), settings.call_s, now)
        # Larger than any key of an earlier process: keys count up from the start's own millisecond.
        self._ledger = Ledger(_wish(settings), int(time.time() * 1000) << 16, _node_policy(settings), settings.young_s)
        self._heart = Heart(self._rm, self._ledger.placement, self, now, fast_s=settings.ask_beat_s, rest_s=settings.rest_beat_s)
        self._memory = Memory(memory, str(self._attempt))
        self._sink: ClusterSink | None = None
        self._tasks = TaskGroup()
        self._guarding: asyncio.Task[None] | None = None
        self._maximum: Size | None = None
        self._resource_names: frozenset[str] = frozenset()
        self._over = ""

    # --- ports.Cluster

    async def start(self, sink: ClusterSink) -> list[Running]:
        self._sink = sink
        try:
            answer = await self._rm.register(self._settings.register_s)
            if answer is not None:
                self._learn(answer)
                self._ledger.appeared(answer.containers_from_previous_attempts, self._clock.wall())
            else:
                await self._resume()
        except Deposed as deposed:
            raise ClusterError(f"the ResourceManager has ended {self._attempt}: {deposed}", retry=False) from deposed
        await self._inventory.look(LOOK_DEADLINE_S)
        self._tasks.watch("yarn heartbeat", self._beat())
        self._tasks.watch("yarn nodes", self._look())
        self._guarding = asyncio.create_task(self._guard(), name="yarn guard")
        found = [Running(held.name, held.node.host, held.since) for held in self._ledger.books if held.launched]
        log.info("yarn_registered", attempt=str(self._attempt), found_running=len(found), resumed=answer is None)
        return found

    async def request(self, ask_id: str) -> None:
        self._check_charge()
        wanted = self._ledger.placement.wish.size
        if unknown := why_unknown(wanted, self._resource_names):
            raise ClusterError(unknown, retry=False)
        if why_never(wanted, self._inventory.nodes, self._maximum):
            # What was seen may be old: a larger node may have come.
            await self._inventory.look(LOOK_DEADLINE_S)
            if never := why_never(wanted, self._inventory.nodes, self._maximum):
                raise ClusterError(never)
        self._ledger.ask(ask_id, self._clock.monotonic())
        self._heart.kick()

    async def cancel(self, ask_id: str) -> None:
        self._ledger.cancel(ask_id)
        self._heart.kick()

    async def launch(self, container_id: ContainerId, spec: LaunchSpec) -> None:
        held = self._ledger.books.get(container_id)
        if held is not None and held.launched:
            return
        if held is None or held.token is None:
            raise ClusterError(f"{container_id} was not allocated", retry=False)
        try:
            context = launch.context(self._settings, spec, container_id)
        except LaunchError as error:
            raise ClusterError(str(error), retry=False) from error
        await self._trusted()
        held.stage = Stage.LAUNCHING
        try:
            await self._nm.start(held.node, container_id, held.token, context)
        except NodeError as error:
            self._failed_on(held.node.host, str(error))
            raise ClusterError(str(error)) from error
        if held.stage is Stage.LAUNCHING:
            held.stage, held.since = Stage.RUNNING, self._clock.wall()
        log.info("container_started", container_id=container_id, node=str(held.node))

    async def stop(self, container_id: ContainerId) -> None:
        held, now = self._ledger.books.get(container_id), self._clock.monotonic()
        if held is None or not held.launched or (held.stopped_at and now - held.stopped_at < RESTOP_S):
            return
        await self._trusted()
        held.stage, held.stopped_at = Stage.STOPPING, now
        try:
            known = await self._nm.stop(held.node, container_id)
        except NodeError as error:
            log.warning("container_stopped_by_release", container_id=container_id, reason=str(error))
            known = False
        if not known and self._ledger.books.get(container_id) is not None:
            # Its node will hear it from the ResourceManager, when it can.
            self._heart.release(container_id)
        self._heart.kick()

    async def release(self, container_id: ContainerId) -> None:
        held = self._ledger.books.get(container_id)
        if held is not None and held.stage in (Stage.ALLOCATED, Stage.LAUNCHING):
            self._ledger.forget(container_id)
            self._heart.release(container_id)
        else:
            await self.stop(container_id)

    async def finish(self, succeeded: bool, message: str) -> None:
        """Unregisters: YARN then ends whatever still runs, and the application."""
        await self._rest()
        try:
            if not self._over and not await self._rm.finish(succeeded, message, FINISH_S):
                raise ClusterError(f"the ResourceManager did not confirm the end of {self._attempt.application_id}")
        except Deposed as deposed:
            raise ClusterError(f"the ResourceManager has ended {self._attempt}: {deposed}", retry=False) from deposed
        finally:
            await self.close()

    # --- beyond the port

    async def close(self) -> None:
        """Lets go without a word: what runs goes on, and the attempt can be resumed."""
        await self._rest()
        for closing in (self._nm, self._masters, self._inventory):
            await closing.close()

    def show(self, presence: Presence) -> None:
        """Where the application's pages are; the ResourceManager hears of it with the next heartbeat."""
        self._rm.show(presence)
        self._heart.kick()

    def view(self) -> YarnView:
        return view(self._ledger, str(self._attempt), self._clock.monotonic(), self._rm.heard_at, self._rm.trouble, self._over)

    def lift(self, node: str) -> bool:
        """By hand: a node that is avoided may be used again, now. False when nothing was held against it."""
        known = self._ledger.lift(node, self._clock.monotonic())
        self._heart.kick()
        return known

    def blame(self, container_id: ContainerId, reason: str) -> None:
        """Its start came to nothing, as only its agent's silence tells: that counts against its node."""
        held = self._ledger.books.get(container_id)
        if held is not None:
            self._failed_on(held.node.host, reason)

    # --- what the ResourceManager says (heart.Ears)

    def progress(self) -> float:
        there = self._ledger.books.count(Stage.RUNNING)
        return there / max(1, there + len(self._ledger.placement.waiting))

    def registered(self, answer: yarn_services_pb2.RegisterApplicationMasterResponseProto) -> None:
        self._learn(answer)
        for running in self._ledger.appeared(answer.containers_from_previous_attempts, self._clock.wall()):
            self._tell(Appeared(running))

    def refused(self, asks: list[str], reason: str) -> None:
        for event in self._ledger.refused(asks, reason):
            self._tell(event)

    def unheard(self) -> None:
        self._tell_reasons()

    def heard(self, answer: yarn_services_pb2.AllocateResponseProto) -> None:
        self._nm.know(answer.nm_tokens)
        outcome = self._ledger.heard(answer, self._clock.monotonic(), self._clock.wall())
        for gone in outcome.gone:
            self._heart.gone(gone)
        for name, reason in outcome.back:
            log.info("container_given_back", container_id=name, reason=reason)
            self._heart.release(name)
        for event in outcome.events:
            log.debug("yarn_says", what=event)
            self._tell(event)
        if outcome.soon:
            self._heart.kick()
        self._keep()
        self._tell_reasons()

    def _learn(self, answer: yarn_services_pb2.RegisterApplicationMasterResponseProto) -> None:
        self._maximum = convert.size(answer.maximumCapability) if answer.HasField("maximumCapability") else None
        self._resource_names = frozenset(kind.name for kind in answer.resource_types)
        self._nm.know(answer.nm_tokens_from_previous_attempts)

    def _tell_reasons(self) -> None:
        now, heard_at = self._clock.monotonic(), self._rm.heard_at
        for event in self._ledger.reasons(now, self._rm.trouble, now - heard_at if heard_at is not None else 0.0):
            self._tell(event)

    def _tell(self, event: ClusterEvent) -> None:
        assert self._sink is not None
        self._sink(event)

    def _failed_on(self, node: str, reason: str) -> None:
        if self._ledger.failed_on(node, reason, self._clock.monotonic()):
            log.warning("node_avoided", node=node, reason=reason)
        self._heart.kick()

    # --- tasks

    async def _beat(self) -> None:
        try:
            await self._heart.run()
        except Deposed as deposed:
            self._lose(f"the ResourceManager has ended {self._attempt}: {deposed}")
        except ClusterError as error:
            self._lose(str(error))
        await asyncio.Event().wait()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            waiting = bool(self._ledger.placement.waiting)
            if waiting:
                await self._inventory.look(LOOK_DEADLINE_S)
            self._ledger.inventory = self._inventory.nodes if waiting else None

    async def _guard(self) -> None:
        """A task of ours that ends is a defect, and this process can no longer keep its charge."""
        try:
            await self._tasks.wait()
        except TaskEnded as ended:
            log.error("yarn_task_ended", cause=str(ended), detail=repr(ended.__cause__))
            self._lose(f"a defect of TARN ended its work with YARN: {ended}")

    async def _rest(self) -> None:
        if self._guarding is not None:
            self._guarding.cancel()
        await self._tasks.close()

    def _lose(self, reason: str) -> None:
        if not self._over:
            self._over = reason
            log.error("attempt_is_over", reason=reason)
            self._tell(LostCharge(reason))

    def _check_charge(self) -> None:
        if self._over:
            raise ClusterError(self._over, retry=False)

    async def _trusted(self) -> None:
        self._check_charge()
        await self._heart.trusted(self._settings.trust_s, self._settings.node_call_s)
        self._check_charge()

    # --- a second process of the same attempt

    def _keep(self) -> None:
        rows = ((held.name, held.node, held.launched, held.since) for held in self._ledger.books)
        self._memory.keep(remembered(rows, self._nm.tokens))

    async def _resume(self) -> None:
        """Nobody tells a second process what runs: the file does, and the nodes confirm it."""
        kept = self._memory.recall()
        if kept is None:
            raise ClusterError(
                f"{self._attempt} was registered by another process, which left no memory of its containers: it cannot be resumed",
                retry=False,
            )
        for node, token in kept.tokens.items():
            self._nm.remember(node, token)
        for name, (node, launched, since) in kept.containers.items():
            self._ledger.adopt(Held(name, node, Stage.RUNNING if launched else Stage.LAUNCHING, since))
        await asyncio.gather(*(self._confirm(held) for held in self._ledger.books))
        self.heard(await self._rm.resume())

    async def _confirm(self, held: Held) -> None:
        """Whether it was launched before the process ended; a node that cannot be asked changes nothing."""
        try:
            status = await self._nm.status(held.node, held.name)
        except NodeError as error:
            log.warning("container_not_confirmed", container_id=held.name, reason=str(error))
            return
        if status is not None:
            held.stage = Stage.RUNNING
        elif held.stage is Stage.LAUNCHING:
            await self.release(held.name)


def _wish(settings: YarnSettings) -> Wish:
    others = {settings.gpu_resource: settings.gpus} if settings.gpus else {}
    size = Size(settings.memory_mb, settings.vcores, others)
    return Wish(size, settings.ask_priority, settings.per_node, settings.placement_tag, settings.node_label)


def _node_policy(settings: YarnSettings) -> NodePolicy:
    return NodePolicy(settings.bad_node_failures, settings.bad_node_window_s, settings.bad_node_s, settings.bad_node_limit_s)
