"""Finds an application's Application Master in ZooKeeper: its rendezvous record stands in an ephemeral znode while it lives."""

from __future__ import annotations

import asyncio

from tarn_am.cli.find import Where
from tarn_am.cli.outcome import CommandError, Outcome
from tarn_common import logs
from tarn_common.endpoint import EndpointError, Rendezvous, am_path, decode_rendezvous, parse_ensemble
from tarn_common.ids import ApplicationId, IdError, application_id
from tarn_common.zk_session import ZooKeeperError
from tarn_common.zookeeper import ZooKeeper

_SESSION_S = 10.0


def rendezvous(where: Where) -> Rendezvous:
    """Where the Application Master that `where` means is. Raises CommandError."""
    logs.configure("CRITICAL")  # what goes wrong is said by this command in its own words
    try:
        wanted = application_id(where.application) if where.application else None
        return asyncio.run(_found(where, wanted))
    except IdError as error:
        raise CommandError(Outcome.USAGE, f"--application: {error}") from error
    except ZooKeeperError as error:
        raise CommandError(Outcome.UNREACHABLE, str(error)) from error
    except EndpointError as error:
        raise CommandError(
            Outcome.UNREACHABLE, f"the Application Master's znode in {where.zk_ensemble} holds something else ({error})"
        ) from error


async def _found(where: Where, wanted: ApplicationId | None) -> Rendezvous:
    zookeeper = ZooKeeper(parse_ensemble(where.zk_ensemble), _SESSION_S)
    directory = am_path(where.zk_path, ApplicationId("")).rstrip("/")
    seen = asyncio.Event()
    zookeeper.follow(directory, lambda _content: seen.set())
    zookeeper.start()
    try:
        await asyncio.wait_for(seen.wait(), where.timeout_s)
        application = wanted or _only(where, await zookeeper.children(directory) or [])
        data = await zookeeper.get(am_path(where.zk_path, application))
    except asyncio.TimeoutError as error:
        text = f"ZooKeeper at {where.zk_ensemble} does not answer within {where.timeout_s:g} s"
        raise CommandError(Outcome.UNREACHABLE, text, "check --zk-ensemble, or give --am") from error
    finally:
        await zookeeper.close(1.0)
    if data is None:
        raise CommandError(
            Outcome.UNREACHABLE, f"no Application Master of {application} is in ZooKeeper at {directory}", "has the application ended?"
        )
    return decode_rendezvous(data)


def _only(where: Where, names: list[str]) -> ApplicationId:
    if len(names) == 1:
        return ApplicationId(names[0])
    if not names:
        raise CommandError(
            Outcome.UNREACHABLE,
            f"no Application Master is in ZooKeeper {where.zk_ensemble} beside {where.zk_path}",
            "is --zk-path the application's?",
        )
    raise CommandError(Outcome.USAGE, f"ZooKeeper knows {len(names)} applications ({', '.join(names)})", "say which with --application")
