"""tritonserver's command line, and what it may not see. Pure.

TARN owns what readiness, draining and isolation stand on: the model control, the ports, and who may change what is served. An
argument of the user that would set any of these is refused by name, before Triton is started with half of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from tarn_agent.core.model import TritonLaunch

RESTRICTED_HEADER = "tarn-control"
"""The header that opens the restricted APIs. Its value is random for each start: it can be seen in the node's process list."""
RESTRICTED_APIS = ("model-repository", "shared-memory", "logging", "trace")
_OWNED = frozenset(
    {
        "--model-repository", "--model-store", "--model-control-mode", "--load-model", "--exit-on-error", "--strict-readiness",
        "--exit-timeout-secs", "--http-address", "--http-port", "--grpc-address", "--grpc-port", "--metrics-address",
        "--metrics-port", "--reuse-http-port", "--reuse-grpc-port", "--allow-http", "--allow-grpc", "--allow-metrics",
        "--backend-directory", "--repository-poll-secs",
    }
)  # fmt: skip
HIDDEN = ("TARN_", "SUPERVISOR_", "HADOOP_TOKEN_FILE_LOCATION")
"""Variables that begin so are not Triton's to see."""


class CommandError(ValueError):
    """A launch that cannot be turned into a command line; names the value and the fix."""


def argv(launch: TritonLaunch, program: str, backends: str) -> list[str]:
    """The whole command line. Raises CommandError."""
    _check(launch)
    address = str(ip_address(launch.bind))
    opened_by = f"{','.join(RESTRICTED_APIS)}:{RESTRICTED_HEADER}={launch.restricted_value}"
    return [
        program,
        f"--model-repository={launch.repository}",
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in launch.models),
        # A model that fails must not take the others along; the index says which failed, and why.
        "--exit-on-error=false",
        "--strict-readiness=true",
        f"--exit-timeout-secs={launch.exit_timeout_s}",
        *(f"--{name}-address={address}" for name in ("http", "grpc", "metrics")),
        f"--http-port={launch.ports.http}",
        f"--grpc-port={launch.ports.grpc}",
        f"--metrics-port={launch.ports.metrics}",
        # Two servers on one port would share its requests, silently.
        "--reuse-http-port=false",
        "--reuse-grpc-port=false",
        f"--http-restricted-api={opened_by}",
        f"--grpc-restricted-protocol={opened_by}",
        *([f"--backend-directory={backends}"] if backends else []),
        *([] if _given(launch.extra_args, "--allow-gpu-metrics") else ["--allow-gpu-metrics=true"]),
        *launch.extra_args,
    ]


def _check(launch: TritonLaunch) -> None:
    try:
        # Given a host name, Triton binds 255.255.255.255 and says that it started.
        ip_address(launch.bind)
    except ValueError as error:
        raise CommandError(
            f"TARN_BIND={launch.bind!r} is not an IP address, and Triton takes no names: give one such as 0.0.0.0"
        ) from error
    for argument in launch.extra_args:
        option = _option(argument)
        if option in _OWNED:
            raise CommandError(f"the argument {option} cannot be given to tritonserver: TARN sets it itself; leave it out")
        if "\0" in argument:
            raise CommandError(f"the argument {argument!r} for tritonserver holds a NUL: leave it out")
    for name, value in launch.environ:
        if not name or "=" in name or "\0" in name + value:
            raise CommandError(f"{name!r} is not the name of an environment variable, or its value holds a NUL: give NAME=VALUE")


def _option(argument: str) -> str:
    return argument.partition("=")[0].strip()


def _given(arguments: Sequence[str], option: str) -> bool:
    return any(_option(argument) == option for argument in arguments)
