"""Who an Application Master is to YARN: the attempt, its proof, and the ways to the ResourceManager."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tarn_am.hadoop import conf as hadoop_conf
from tarn_am.hadoop import credentials
from tarn_am.hadoop.conf import RM_PRINCIPAL, RmService
from tarn_am.hadoop.ipc.client import HadoopClient, Patience
from tarn_am.hadoop.ipc.connection import Limits
from tarn_am.hadoop.ipc.sasl import Login
from tarn_am.ports import ClusterError
from tarn_common.credentials import CredentialsError
from tarn_common.hadoop_conf import HadoopConf, HadoopConfError
from tarn_common.ids import ApplicationId, ContainerId, IdError, application_of, container_id

ONCE = Patience(give_up_s=0.0)
"""One attempt at each address: whoever calls repeats by rules of its own."""


@dataclass(frozen=True)
class Attempt:
    application_id: ApplicationId
    number: int

    def __str__(self) -> str:
        return f"{self.application_id.replace('application', 'appattempt', 1)}_{self.number:06d}"


@dataclass(frozen=True)
class Charter:
    """What YARN gave an AM's process: its attempt, its own container, and its proofs. `client`: for the client port, if any."""

    attempt: Attempt
    container_id: ContainerId
    login: Login
    client: Login | None


def read(environ: Mapping[str, str], conf: HadoopConf) -> Charter:
    """From the environment of an AM's container; raises ClusterError with what is missing."""
    own, tokens, user = (environ.get(name, "") for name in ("CONTAINER_ID", "HADOOP_TOKEN_FILE_LOCATION", "USER"))
    if not own or not tokens:
        raise ClusterError("this is no container of YARN: CONTAINER_ID or HADOOP_TOKEN_FILE_LOCATION is not set", retry=False)
    try:
        found = container_id(own)
        held = credentials.read(Path(tokens))
        amrm = credentials.of_kind(held, credentials.AMRM)
        if amrm is None:
            raise ClusterError(
                f"{tokens} holds no {credentials.AMRM}: YARN gives it to an Application Master's container alone", retry=False
            )
        attempt = Attempt(application_of(found), int(re.split("_", found)[-2]))
        delegation = credentials.of_kind(held, credentials.RM_DELEGATION)
        login = hadoop_conf.login(conf, user, RM_PRINCIPAL, amrm)
        reachable = delegation is not None or not conf.secure
        client = hadoop_conf.login(conf, user, RM_PRINCIPAL, delegation) if reachable else None
    except (IdError, CredentialsError, HadoopConfError) as error:
        raise ClusterError(str(error), retry=False) from error
    return Charter(attempt, found, login, client)


def connected(conf: HadoopConf, login: Login, client: Login | None, call_s: float) -> tuple[HadoopClient, HadoopClient | None]:
    """The ways to the scheduler's port and, with a proof for it, to the client port. Raises ClusterError."""
    limits = Limits(open_s=call_s, call_s=call_s)
    try:
        masters = HadoopClient(hadoop_conf.resource_managers(conf, RmService.SCHEDULER), login, limits, ONCE)
        if client is None:
            return masters, None
        return masters, HadoopClient(hadoop_conf.resource_managers(conf, RmService.CLIENT), client, limits, ONCE)
    except HadoopConfError as error:
        raise ClusterError(str(error), retry=False) from error
