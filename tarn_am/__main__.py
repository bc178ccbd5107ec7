"""`tarn-am`: an Application Master by its environment alone, as a service or a container starts it.

`tarn local` is the same for a person: flags, a progress bar, and a printed address.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tarn_common.endpoint import Rendezvous
from tarn_common.settings import SettingsError, load, setting

USAGE = 2


@dataclass(frozen=True)
class HomeSettings:
    """Where this Application Master keeps what its successor needs."""

    state_dir: str = setting(doc="directory of the application's state and of its containers", env="TARN_STATE_DIR")
    cache_dir: str = setting("", doc="directory for what can be made again; empty: ~/.cache/tarn", env="TARN_CACHE_DIR")
    no_token: bool = setting(
        False, doc="without TARN_TOKEN_FILE: true leaves the API open for reading, else a token is made", env="TARN_NO_TOKEN"
    )


def main() -> None:
    try:
        status = start(os.environ)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tarn"):
            raise
        print(f"tarn-am: the package {error.name} is missing: pip install 'tarn[am]'", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:  # before the Application Master takes signals as orders
        status = 130
    sys.exit(status)


def start(environ: Mapping[str, str]) -> int:
    """Runs on the local cluster until it is shut down; returns the exit status."""
    # Here and not at the top, so that `main` can say which package is missing.
    from tarn_am import daemon
    from tarn_am.cluster import triton_wheel
    from tarn_am.cluster.local import LocalCluster
    from tarn_am.core.launch import LaunchError, user_environment
    from tarn_am.ports import ClusterError
    from tarn_am.settings import AmSettings
    from tarn_am.state import StateDir, StateError
    from tarn_common import logs

    os.umask(0o077)  # whatever is written here is this user's alone
    try:
        settings, home = load(AmSettings, environ), load(HomeSettings, environ)
        user_environment(settings.env, "TARN_ENV")
        logs.configure(settings.log_level)
        cache = _cache_directory(home)
        state = StateDir(Path(home.state_dir))
        state.lock()
        if not settings.token_file and home.no_token:
            state.forget_token()
        elif not settings.token_file:
            state.make_token()
            settings = dataclasses.replace(settings, token_file=str(state.token_file))
        cluster = LocalCluster(state.path, state.application_id, triton_wheel.prepare(cache).environ)
        return asyncio.run(daemon.run(settings, cluster, state, _tell))
    except (SettingsError, LaunchError, StateError, ClusterError, daemon.StartError) as error:
        print(f"tarn-am: {error}", file=sys.stderr)
        return USAGE if isinstance(error, SettingsError | LaunchError) else 1


def _cache_directory(home: HomeSettings) -> Path:
    try:
        return Path(home.cache_dir) if home.cache_dir else Path.home() / ".cache" / "tarn"
    except RuntimeError as error:
        raise SettingsError("this user has no home directory: set TARN_CACHE_DIR") from error


def _tell(record: Rendezvous) -> None:
    import structlog

    log = structlog.get_logger(__name__)
    log.info("application_master_answers", http=record.http, agents=str(record.agents))


if __name__ == "__main__":
    main()
