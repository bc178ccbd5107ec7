"""The agent's process: its parts built, its tasks started, and, at the end, everything told, written and closed in reverse.

When a task ends that should not, the process ends and supervisord starts it anew; Triton serves on, the znode stands on its
session, and the next agent takes both up.
"""

from __future__ import annotations

import asyncio
import platform
import secrets
import signal
from pathlib import Path
from typing import Any

import structlog

import tarn_common
from tarn_agent.core import events as ev
from tarn_agent.core.instance import Policy, Triton
from tarn_agent.core.restarts import RestartPolicy
from tarn_agent.finder import Finder
from tarn_agent.gpu import NvmlReader
from tarn_agent.keeper import Keeper, Means
from tarn_agent.memory import MemoryFile
from tarn_agent.orders import Orders
from tarn_agent.ports import Presence, TritonError
from tarn_agent.presence import NoPresence, ZooKeeperPresence, open_zookeeper, zookeeper_login
from tarn_agent.prober import Prober
from tarn_agent.remote_record import RemoteRecord
from tarn_agent.reporter import Reporter
from tarn_agent.run_dir import RunDir
from tarn_agent.settings import AgentSettings, ModelFailure
from tarn_agent.staging import RepositoryStager
from tarn_agent.triton import SupervisedTriton
from tarn_agent.uplink import Proof, Uplink
from tarn_agent.voice import Voice
from tarn_agent.wire import Identity
from tarn_common import credentials as hadoop
from tarn_common.backoff import Backoff
from tarn_common.clock import SystemClock
from tarn_common.credentials import AGENT_SECRET, AM_CERTIFICATE, ZK_DIGEST, Credentials, CredentialsError
from tarn_common.exits import Exit
from tarn_common.logs import secrets as known_secrets
from tarn_common.tasks import TaskEnded, TaskGroup
from tarn_common.zookeeper import ZooKeeper

log = structlog.get_logger(__name__)

_FAREWELL_S = 2.0
_PROGRESS_S = 0.5
_SECRET_NAMES = ("SECRET", "PASSWORD", "PASSWD", "TOKEN", "KEY", "CREDENTIAL")


def read_secrets(settings: AgentSettings) -> Credentials:
    """The credentials file, with what it must hold; from now on no log shows any of it. Raises CredentialsError."""
    found = hadoop.read(Path(settings.credentials))
    for name in (AGENT_SECRET, AM_CERTIFICATE, *((ZK_DIGEST,) if settings.zk_auth else ())):
        if not found.secrets.get(name):
            raise CredentialsError(f"{settings.credentials} holds no secret {name!r}: whoever launches the container must put it there")
    zookeeper_login(settings, found)
    users = [value for name, value in settings.user_environment.items() if any(word in name.upper() for word in _SECRET_NAMES)]
    private = [value.decode(errors="replace") for name, value in found.secrets.items() if name != AM_CERTIFICATE]
    known_secrets.add([*private, *(text.partition(":")[2] for text in private), *users])
    return found


def policy_of(settings: AgentSettings) -> Policy:
    return Policy(
        strict=settings.model_failure is ModelFailure.STRICT,
        accept_s=settings.accept_s,
        lease_s=settings.lease_s,
        load_stall_s=settings.load_stall_s,
        hang_s=settings.hang_s,
        drain_s=settings.drain_s,
        drain_grace_s=settings.drain_grace_s,
        probe_interval_s=settings.probe_interval_s,
        restarts=RestartPolicy(settings.triton_restart_limit, settings.triton_restart_window_s, Backoff(first_s=0.2, limit_s=30.0)),
    )


def _identity(settings: AgentSettings) -> Identity:
    versions = {"agent": tarn_common.__version__, "python": platform.python_version()}
    return Identity(settings.application_id, settings.container_id, settings.node, secrets.token_hex(8), versions)


def _presence(settings: AgentSettings, zookeeper: ZooKeeper | None) -> Presence:
    return NoPresence() if zookeeper is None else ZooKeeperPresence(settings, zookeeper)


class Agent:
    """All parts of one agent, built and joined."""

    def __init__(self, settings: AgentSettings, credentials: Credentials) -> None:
        clock, policy = SystemClock(), policy_of(settings)
        self.tasks = TaskGroup()
        self.zookeeper = open_zookeeper(settings, credentials)
        self.presence = _presence(settings, self.zookeeper)
        self.triton = SupervisedTriton(settings, clock)
        self.gpus = NvmlReader()
        self.finder = Finder(settings, self.zookeeper)
        self.remote_record = RemoteRecord(settings, self.finder) if "://" in settings.rendezvous else None
        self.voice = Voice(_identity(settings), settings.announced_host, self.presence, self.triton, clock)
        memory = MemoryFile(RunDir(settings.run_dir), settings.container_id)
        means = Means(RepositoryStager(settings, clock), self.triton, self.presence, memory, self.tasks, clock)
        self.keeper = Keeper(settings, policy, means, self.voice.changed)
        self.prober = Prober(self.keeper, self.triton, policy, settings.probe_deadline_s, clock)
        self.reporter = Reporter(self.keeper, self.triton, self.gpus, settings.stats_window_s, clock)
        secret, certificate = credentials.secrets[AGENT_SECRET].decode("ascii"), credentials.secrets[AM_CERTIFICATE]
        self.uplink = Uplink(Proof(settings.container_id, secret, certificate), self.finder, self.voice)
        orders = Orders(self.keeper, self.triton, self.uplink, settings.log_dir, self.tasks)
        self.voice.join(self.keeper, self.reporter, orders, self.uplink)

    async def begin(self) -> None:
        """What an agent before this one left is taken up, and looked at once, before anybody is told anything."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.keeper.offer, ev.Terminated())
        await self.presence.start()
        await self.keeper.resume()
        if self.keeper.state.triton is Triton.UP:
            await self.prober.look()
        self.tasks.watch("prober", self.prober.run())
        self.tasks.watch("uplink", self.uplink.run())
        if self.remote_record is not None:
            self.tasks.watch("rendezvous", self.remote_record.run(lambda: self.uplink.connected))
        self.tasks.watch("reporter", self.reporter.run(self.voice.report))
        self.tasks.spawn("progress", self._tell_progress())

    async def _tell_progress(self) -> None:
        """Oftener than the reports, while there is progress; somebody may be watching a bar."""
        while not self.keeper.state.wanted:
            await asyncio.sleep(_PROGRESS_S)
            self.voice.progressed()

    async def until_finished(self) -> ev.Finish:
        """Raises TaskEnded when a part came to an end that should not."""
        broken = asyncio.ensure_future(self.tasks.wait())
        ends: set[asyncio.Future[Any]] = {broken, self.keeper.finished}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not self.keeper.finished.done():
                broken.result()
            return self.keeper.finished.result()
        finally:
            broken.cancel()

    async def end(self, finish: ev.Finish) -> None:
        """Tells, writes, closes, and ends the container; each within its time."""
        log.info("agent_ends", status=int(finish.exit), code=finish.exit.code, reason=finish.reason)
        self.triton.write_exit_status(finish.exit, finish.reason)
        await self.uplink.finish(_FAREWELL_S)
        self.keeper.close()
        await self.presence.close()
        await self.close()
        try:
            await self.triton.shut_down_container()
        except TritonError as error:
            log.warning("container_not_shut_down", error=str(error))
        await self.triton.close()

    async def close(self) -> None:
        await self.tasks.close(_FAREWELL_S)
        self.gpus.close()


async def run(settings: AgentSettings, credentials: Credentials) -> int:
    """Until the instance has ended; returns the process's exit status."""
    agent = Agent(settings, credentials)
    try:
        await agent.begin()
        finish = await agent.until_finished()
    except TaskEnded as error:
        log.error("agent_broken", error=str(error), exc_info=error.__cause__)
        if agent.zookeeper is not None:
            agent.zookeeper.abandon()
        await agent.close()
        return int(Exit.INTERNAL)
    await agent.end(finish)
    return 0
