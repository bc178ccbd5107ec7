"""What can go wrong between us and a Hadoop daemon, told apart by what the caller can do about it.

Every error is one sentence that names the peer (added by the connection), the value and, where there is one, the fix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

_UNAUTHORIZED = 15


class HadoopError(Exception):
    """Base of all; never raised itself."""

    def at(self, peer: object) -> Self:
        """A copy whose sentence begins with the peer's address."""
        return self._twin(f"{peer} {self}")

    def again(self) -> Self:
        """A copy, for one more task that must hear of the same error."""
        return self._twin(str(self))

    def _twin(self, text: str) -> Self:
        twin = type(self).__new__(type(self), text)
        twin.__dict__.update(self.__dict__)
        twin.args = (text,)
        return twin


class Unreachable(HadoopError):
    """No connection came about, so the call was certainly not carried out: try another address, or later."""


class CallLost(HadoopError):
    """The connection ended after the call was sent: whether it was carried out is unknown."""


class CallTimeout(HadoopError):
    """No answer within the deadline: whether the call was carried out is unknown."""


class NotHadoop(HadoopError):
    """Something else listens at the address (HTTP, TLS, SSH…): the address is wrong."""


class ProtocolError(HadoopError):
    """The peer speaks Hadoop RPC, but these bytes break its rules; the connection is of no more use."""


class TooLarge(HadoopError):
    """A message beyond the 128 MiB that Hadoop allows."""


class AuthenticationError(HadoopError):
    """We could not prove who we are, or the peer could not: no method in common, no ticket, a wrong proof."""


class RemoteError(HadoopError):
    """The daemon answered with a Java exception.

    `class_name` is the Java class; `message` its text without the stack trace; `detail` the RpcErrorCodeProto number or 0;
    `fatal` tells that the daemon closed the connection with it.
    """

    def __init__(self, class_name: str, text: str, *, detail: int = 0, fatal: bool = False) -> None:
        self.class_name = class_name
        self.message = without_trace(text)
        self.detail = detail
        self.fatal = fatal
        super().__init__(f"{self.kind}: {self.message}" if self.message else self.kind)

    @property
    def kind(self) -> str:
        """The class without package and outer class: `InvalidToken`, `StandbyException`."""
        return self.class_name.replace("$", ".").rpartition(".")[2] or "unnamed exception"

    def at(self, peer: object) -> Self:
        return self._twin(f"{peer} answered {self}")

    @property
    def unauthorized(self) -> bool:
        """Whether the daemon refused who we are, not what we asked."""
        return self.fatal and self.detail == _UNAUTHORIZED


def without_trace(text: str) -> str:
    """The message of a Java exception: what stands before the first `\\tat ` line, its class name cut off where it is repeated."""
    lines = []
    for line in text.splitlines():
        if line.startswith(("\tat ", "Caused by: ")):
            break
        lines.append(line)
    return "\n".join(lines).strip()[:4000]
