"""The Application Master as a whole: build, start, wait, stop in reverse.

The order of the start is the order of trust: the state directory's lock (one AM), the agents' port, the containers that run
already, the loop, the HTTP API, and last the beacon, so that agents and people find an AM that can answer. A start that fails
takes down what it had put up. The end of this process is never the end of the fleet, unless the end was ordered.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import secrets
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import structlog

from tarn_am.agents import AgentServer, AgentServerError, Terms
from tarn_am.api.server import ApiServer
from tarn_am.beacon import Beacon
from tarn_am.core import launch
from tarn_am.core.roster import FleetPolicy
from tarn_am.ports import Cluster, ClusterError, LaunchSpec
from tarn_am.settings import AmSettings
from tarn_am.state import StateDir, StateError
from tarn_am.supervisor import Charge, Supervisor
from tarn_common import credentials, logs
from tarn_common.clock import SystemClock
from tarn_common.endpoint import EndpointError, HostPort, Rendezvous
from tarn_common.tasks import TaskEnded, TaskGroup
from tarn_common.zk_login import Login, LoginError, parse_login

log = structlog.get_logger(__name__)

GATHER_S = 5.0
"""A restarted AM answers questions when the agents that it found running have spoken, or so much later."""
_ORDERS = (signal.SIGTERM, signal.SIGINT)
_SECRET_BYTES = 1 << 16


class StartError(Exception):
    """The Application Master could not be started; one sentence with the cause and the fix."""


async def run(settings: AmSettings, cluster: Cluster, state: StateDir, on_up: Callable[[Rendezvous], None]) -> int:
    """Runs one application until it is shut down; returns the process's exit status. Raises StartError.

    `on_up` is called once, when everything answers. SIGTERM and SIGINT order the shutdown; a second one hurries it.
    """
    async with contextlib.AsyncExitStack() as undo:
        try:
            return await _run(settings, cluster, state, on_up, undo)
        except (StateError, ClusterError, AgentServerError, launch.LaunchError, EndpointError) as error:
            raise StartError(str(error)) from error


async def _run(
    settings: AmSettings, cluster: Cluster, state: StateDir, on_up: Callable[[Rendezvous], None], undo: contextlib.AsyncExitStack
) -> int:
    clock = SystemClock()
    orders = _signal_orders(undo)
    _raise_file_limit()
    _check_port(settings)
    token, login = _token(settings), _zookeeper_login(settings)

    state.lock()
    undo.callback(state.unlock)
    secret, identity = state.secret(), state.identity()
    logs.secrets.add([secret, token or "", *((login.pair, login.password) if login is not None else ())])
    application = state.begin_attempt()
    incarnation = secrets.token_hex(4)

    terms = Terms(application.application_id, incarnation, settings.report_interval_s, settings.lease_s, secret)
    agents = AgentServer(terms, clock)
    undo.push_async_callback(agents.close)
    ports = [settings.agent_port] if settings.agent_port else [*filter(None, [application.agent_port]), 0]
    agent_port = agents.bind(settings.bind, ports, identity.key, identity.certificate)
    state.keep_agent_port(agent_port)
    meeting = launch.Meeting(HostPort(_reachable(settings), agent_port), state.meeting_place)
    spec = LaunchSpec(
        launch.environment(application.application_id, settings, meeting),
        _credentials(secret, identity.certificate, login),
    )

    charge = Charge(application.application_id, incarnation, policy(settings), application.target, _keeper(state))
    supervisor = Supervisor(charge, cluster, agents, spec, clock)
    undo.push_async_callback(supervisor.close)
    found = await supervisor.adopt()
    log.info("application_master_begins", application_id=application.application_id, attempt=application.attempt, found_running=found)

    tasks = TaskGroup()
    undo.push_async_callback(tasks.close)
    api = ApiServer(supervisor, settings, token, clock)
    undo.push_async_callback(api.close)
    await agents.start(supervisor)
    if found and agent_port == application.agent_port:
        # Its agents come back to the same port by themselves. Until they have, an empty list would be a lie.
        tasks.watch("supervisor", supervisor.run())
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(supervisor.heard_of_all(), GATHER_S)
        http = await _listen(api, settings)
    else:
        http = await _listen(api, settings)
        tasks.watch("supervisor", supervisor.run())

    beacon = Beacon(settings, state, login)
    undo.push_async_callback(beacon.close)
    record = Rendezvous(meeting.agents, f"http://{HostPort(_reachable(settings), http.port)}", incarnation)
    beacon.light(record)
    on_up(record)
    tasks.watch("signals", _follow_orders(orders, supervisor))
    return await _until_over(supervisor, tasks)


async def _until_over(supervisor: Supervisor, tasks: TaskGroup) -> int:
    """Until the application is finished, or something ended that should not have."""
    ends = [asyncio.ensure_future(end) for end in (supervisor.finished(), supervisor.failed(), tasks.wait())]
    try:
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if ends[0] in done:
            finish = await supervisor.finished()
            log.info("application_finished", succeeded=finish.succeeded, message=finish.message)
            return 0 if finish.succeeded else 1
        for end in done:
            end.result()
    except TaskEnded as ended:
        log.error("application_master_failed", cause=str(ended), detail=repr(ended.__cause__))
    finally:
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
    return 1


def policy(settings: AmSettings) -> FleetPolicy:
    """What the fleet keeps. An agent is not silent before it has missed some reports."""
    silent_s = max(settings.silent_s, 3.0 * settings.report_interval_s)
    return FleetPolicy(
        min_instances=settings.min_instances,
        max_instances=settings.max_instances,
        silent_s=silent_s,
        lost_s=max(settings.lost_s, silent_s),
        launch_deadline_s=settings.launch_deadline_s,
        drain_s=settings.drain_s,
        drain_grace_s=settings.drain_grace_s,
        crash_limit=settings.crash_limit,
    )


def _credentials(secret: str, certificate: bytes, login: Login | None) -> bytes:
    held = {credentials.AGENT_SECRET: secret.encode(), credentials.AM_CERTIFICATE: certificate}
    if login is not None:
        held[credentials.ZK_DIGEST] = login.pair.encode()
    return credentials.encode(credentials.Credentials(secrets=held))


def _keeper(state: StateDir) -> Callable[[int | None], None]:
    def keep(target: int | None) -> None:
        try:
            state.keep_target(target)
        except StateError as error:
            log.error("target_not_kept", target=target, error=str(error))

    return keep


async def _listen(api: ApiServer, settings: AmSettings) -> HostPort:
    try:
        return await api.start()
    except OSError as error:
        raise _port_refused(settings, error) from error


def _check_port(settings: AmSettings) -> None:
    """Before anything is begun: a port that is taken is the usual reason of a failed start."""
    if not settings.am_port:
        return
    family = socket.AF_INET6 if ":" in settings.bind else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.bind, settings.am_port))
        except OSError as error:
            raise _port_refused(settings, error) from error


def _port_refused(settings: AmSettings, error: OSError) -> StartError:
    return StartError(
        f"port {settings.am_port} on {settings.bind} cannot be had for the HTTP API ({error.strerror}): "
        "give another --am-port (0: a free one) or --bind"
    )


def _reachable(settings: AmSettings) -> str:
    """The name by which others reach this machine."""
    if settings.address:
        return settings.address
    return socket.gethostname() if settings.bind in ("0.0.0.0", "::") else settings.bind


def _token(settings: AmSettings) -> str | None:
    if not settings.token_file:
        return None
    token = _secret_file("--token-file", settings.token_file)
    if any(not 33 <= ord(character) < 127 for character in token):
        raise StartError(f"--token-file={settings.token_file}: a token is one word of ASCII letters, digits and signs")
    return token


def _zookeeper_login(settings: AmSettings) -> Login | None:
    if not settings.zk_digest_file:
        if settings.zk_auth:
            raise StartError(f"--zk-auth={settings.zk_auth} needs --zk-digest-file, a file with user:password")
        return None
    pair = _secret_file("--zk-digest-file", settings.zk_digest_file)
    try:
        return parse_login(pair, settings.zk_auth)
    except LoginError as error:
        raise StartError(f"the content of --zk-digest-file={settings.zk_digest_file} {error}") from error


def _secret_file(flag: str, path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            text, mode = file.read(_SECRET_BYTES).decode().strip(), os.fstat(file.fileno()).st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"{flag}={path} cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}") from error
    if not text:
        raise StartError(f"{flag}={path} is empty: write the secret into it, or leave the flag out")
    if stat.S_IMODE(mode) & 0o077:
        log.warning("secret_file_open_to_others", flag=flag, path=path, fix=f"chmod 600 {path}")
    return text


def _raise_file_limit() -> None:
    """Each agent and each client is a file descriptor; the soft limit is often a mere 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _signal_orders(undo: contextlib.AsyncExitStack) -> asyncio.Queue[str]:
    """Signals from the first moment on; what comes during the start is followed when there is somebody to follow it."""
    orders: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in _ORDERS:
        loop.add_signal_handler(number, orders.put_nowait, number.name)
        undo.callback(loop.remove_signal_handler, number)
    return orders


async def _follow_orders(orders: asyncio.Queue[str], supervisor: Supervisor) -> None:
    while True:
        await supervisor.shut_down(await orders.get())
