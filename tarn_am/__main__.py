"""`tarn-am`: an Application Master by its environment alone, as a service or a container starts it.

`tarn local` is the same for a person: flags, a progress bar, and a printed address.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from tarn_am import daemon
from tarn_am.cluster import triton_wheel
from tarn_am.cluster.local import LocalCluster
from tarn_am.ports import ClusterError
from tarn_am.settings import AmSettings
from tarn_am.state import StateDir, StateError
from tarn_common import logs
from tarn_common.endpoint import Rendezvous
from tarn_common.settings import SettingsError, load, setting

log = structlog.get_logger(__name__)

USAGE = 2


@dataclass(frozen=True)
class HomeSettings:
    """Where this Application Master keeps what its successor needs."""

    state_dir: str = setting(doc="directory of the application's state and of its containers", env="TARN_STATE_DIR")
    cache_dir: str = setting("", doc="directory for what can be made again; empty: ~/.cache/tarn", env="TARN_CACHE_DIR")


def main() -> None:
    sys.exit(start(os.environ))


def start(environ: Mapping[str, str]) -> int:
    """Runs on the local cluster until it is shut down; returns the exit status."""
    try:
        settings, home = load(AmSettings, environ), load(HomeSettings, environ)
        logs.configure(settings.log_level)
        cache = Path(home.cache_dir) if home.cache_dir else Path.home() / ".cache" / "tarn"
        state = StateDir(Path(home.state_dir))
        cluster = LocalCluster(state.path, state.application_id, triton_wheel.prepare(cache).environ)
        return asyncio.run(daemon.run(settings, cluster, state, _tell))
    except (SettingsError, StateError, ClusterError, daemon.StartError) as error:
        print(f"tarn-am: {error}", file=sys.stderr)
        return USAGE if isinstance(error, SettingsError) else 1


def _tell(record: Rendezvous) -> None:
    log.info("application_master_answers", http=record.http, agents=str(record.agents))


if __name__ == "__main__":
    main()
