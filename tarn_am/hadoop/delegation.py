"""Delegation tokens of the ResourceManager and of HDFS: fetched, renewed, cancelled, and read.

Both daemons have the same three calls; which one is asked is a matter of the client and the protocol given.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from tarn_am.hadoop.credentials import HDFS_DELEGATION, RM_DELEGATION, proto_of, token_of
from tarn_am.hadoop.errors import HadoopError, ProtocolError
from tarn_am.hadoop.ipc.client import HadoopClient
from tarn_am.hadoop.pb import security_pb2, yarn_pb2
from tarn_am.hadoop.protocols import RpcProtocol
from tarn_common.credentials import CredentialsError, Token, WritableReader


class TokenRefused(HadoopError):
    """The daemon does not give a delegation token to this connection."""


class TokenIssuer:
    """`protocol` is APPLICATION_CLIENT or CLIENT_NAMENODE; `service` is what a daemon's clients look their token up by.

    The daemons leave the service empty, so it is set here: `ip:port`, a list of them, or `ha-hdfs:<nameservice>`.
    """

    def __init__(self, client: HadoopClient, protocol: RpcProtocol, service: str) -> None:
        self._client, self._protocol, self._service = client, protocol, service

    async def fetch(self, renewer: str) -> Token:
        """A new token that `renewer` may renew (for a submission: the ResourceManager's short name). Raises TokenRefused."""
        answer = await self._client.call(
            self._protocol,
            "getDelegationToken",
            security_pb2.GetDelegationTokenRequestProto(renewer=renewer),
            security_pb2.GetDelegationTokenResponseProto,
        )
        if not answer.HasField("token"):
            raise TokenRefused(f"{self._client.address} gives no delegation tokens: security is off there")
        token = token_of(answer.token)
        return Token(token.kind, self._service, token.identifier, token.password)

    async def renew(self, token: Token) -> float:
        """Only the renewer may. Returns the new end in seconds since the epoch."""
        answer = await self._client.call(
            self._protocol,
            "renewDelegationToken",
            security_pb2.RenewDelegationTokenRequestProto(token=proto_of(token)),
            security_pb2.RenewDelegationTokenResponseProto,
        )
        return answer.newExpiryTime / 1000.0

    async def cancel(self, token: Token) -> None:
        """The token opens no further connection."""
        await self._client.call(
            self._protocol,
            "cancelDelegationToken",
            security_pb2.CancelDelegationTokenRequestProto(token=proto_of(token)),
            security_pb2.CancelDelegationTokenResponseProto,
        )


@dataclass(frozen=True)
class TokenFacts:
    """What a delegation token says of itself; times in seconds since the epoch. Beyond `ends_at` no renewal helps."""

    owner: str
    renewer: str
    issued_at: float
    ends_at: float
    sequence: int


def facts(token: Token) -> TokenFacts:
    """Reads the identifier of an RM or HDFS delegation token; raises ProtocolError for any other."""
    try:
        if token.kind == HDFS_DELEGATION:
            return _hdfs_facts(WritableReader(token.identifier, 1))
        if token.kind == RM_DELEGATION:
            found = yarn_pb2.YARNDelegationTokenIdentifierProto.FromString(token.identifier)
            return TokenFacts(found.owner, found.renewer, found.issueDate / 1000, found.maxDate / 1000, found.sequenceNumber)
    except (CredentialsError, DecodeError) as error:
        raise ProtocolError(f"the {token.kind} has an identifier that cannot be read") from error
    raise ProtocolError(f"a {token.kind} is no delegation token of the ResourceManager or of HDFS")


def _hdfs_facts(reader: WritableReader) -> TokenFacts:
    owner, renewer, _real_user = reader.text(), reader.text(), reader.text()
    return TokenFacts(owner, renewer, reader.count() / 1000, reader.count() / 1000, reader.count())
