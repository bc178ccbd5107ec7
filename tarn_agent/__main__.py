"""`python -m tarn_agent`: the agent under supervisord. Configured by its environment and the credentials file alone."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping

from tarn_agent.run_dir import RunDir
from tarn_agent.settings import AgentSettings
from tarn_common import logs
from tarn_common.credentials import CredentialsError
from tarn_common.exits import Exit
from tarn_common.settings import SettingsError, load

# grpc's core writes lines of its own to stderr for every address that does not answer; ours say it once.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def main() -> None:
    """Ends the process: 0 after an ordered end, else a status of `tarn_common.exits`."""
    try:
        status = run(os.environ)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tarn"):
            raise
        status = _misconfigured(os.environ.get("TARN_RUN_DIR", ""), f"the package {error.name} is missing: pip install 'tarn[agent]'")
    sys.exit(status)


def run(environ: Mapping[str, str]) -> int:
    # Imported after the line above, which grpc reads when it is imported.
    from tarn_agent import daemon

    try:
        settings = load(AgentSettings, environ)
        logs.configure(settings.log_level, container_id=settings.container_id, application_id=settings.application_id)
        credentials = daemon.read_secrets(settings)
    except (SettingsError, CredentialsError) as error:
        return _misconfigured(environ.get("TARN_RUN_DIR", ""), str(error))
    if RunDir(settings.run_dir).read_exit() is not None:
        # An agent before this one had ended the instance: the container ends as soon as this process has.
        return 0
    return asyncio.run(daemon.run(settings, credentials))


def _misconfigured(run_dir: str, reason: str) -> int:
    """One line, and the status: another try would meet the same settings."""
    print(f"tarn-agent: {reason}", file=sys.stderr, flush=True)
    if run_dir:
        try:
            RunDir(run_dir).write_exit(Exit.SETTINGS, reason)
        except OSError as error:
            print(f"tarn-agent: the exit status cannot be written: {error.strerror}", file=sys.stderr, flush=True)
    return int(Exit.SETTINGS)


if __name__ == "__main__":
    main()
