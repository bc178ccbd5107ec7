"""A login as kazoo takes it: the client's options and the ACL of the znodes that it makes.

The mechanism DIGEST-MD5 is pure-sasl's. kazoo goes on asking for as long as the server says nothing, and a ZooKeeper that has no
SASL says nothing at the speed of the line: so the mechanism ends here after the few steps that it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kazoo.security import CREATOR_ALL_ACL, OPEN_ACL_UNSAFE, READ_ACL_UNSAFE, make_acl
from puresasl import SASLProtocolException, mechanisms

from tarn_common.zk_login import SASL, Login

_MECHANISM = "DIGEST-MD5"
_STEPS = 3  # nothing, the challenge, the server's own proof


class BoundedDigestMd5(mechanisms.DigestMD5Mechanism):  # type: ignore[misc]
    """DIGEST-MD5 that refuses to go on where the server does not."""

    _steps = 0

    def process(self, challenge: bytes | None = None) -> Any:
        self._steps += 1
        if self._steps > _STEPS or (self._steps > 1 and not challenge):
            raise SASLProtocolException("the server does not follow DIGEST-MD5")
        return super().process(challenge)


mechanisms.mechanisms[_MECHANISM] = BoundedDigestMd5


def options(login: Login | None) -> Mapping[str, Any]:
    """What a KazooClient is given."""
    if login is None:
        return {}
    if login.scheme == SASL:
        return {"sasl_options": {"mechanism": _MECHANISM, "username": login.user, "password": login.password}}
    return {"auth_data": [(login.scheme, login.pair)]}


def acl(login: Login | None) -> list[Any]:
    """The user may do all, the world may read; without a login, everybody all."""
    if login is None:
        return list(OPEN_ACL_UNSAFE)
    owner = [make_acl(SASL, login.user, all=True)] if login.scheme == SASL else CREATOR_ALL_ACL
    return [*owner, *READ_ACL_UNSAFE]
