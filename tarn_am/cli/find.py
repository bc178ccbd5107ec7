"""How a command finds the Application Master: `--am`, else ZooKeeper, else the state directory that `tarn local` keeps, else YARN.

YARN is asked for `--application`, and where nothing runs locally and HADOOP_CONF_DIR names a cluster.

The token comes from `--token-file`, or from the state directory when the address came from there too: a token found
beside one address is never sent to another.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tarn_am.cli.client import AmClient
from tarn_am.cli.outcome import CommandError, Outcome
from tarn_common.endpoint import DEFAULT_ZK_PATH, EndpointError, Rendezvous, check_ensemble, decode_rendezvous
from tarn_common.settings import SettingsError, setting

RENDEZVOUS_FILE = "am.json"
TOKEN_FILE = "token"  # noqa: S105


def _check_url(text: str) -> None:
    if text and not _is_base_url(text):
        raise SettingsError("not the base URL of an Application Master, such as http://127.0.0.1:8888")


def _is_base_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        host = (parts.hostname or "").encode("idna")  # as the look-up does: no label of more than 63 characters
        usable = parts.scheme in ("http", "https") and bool(host) and parts.port != 0 and parts.path.isascii()
    except ValueError:  # also a port that is no number or too high a one, or a bracket without its other
        return False
    return usable and text.isprintable() and " " not in text and not (parts.query or parts.fragment or parts.username)


@dataclass(frozen=True)
class Where:
    """Which Application Master a command speaks to."""

    am: str = setting("", doc="base URL of the Application Master", env="TARN_AM_URL", check=_check_url)
    zk_ensemble: str = setting(
        "", doc="find the Application Master in this ZooKeeper, host:port,…", env="TARN_ZK_ENSEMBLE", check=check_ensemble
    )
    zk_path: str = setting(DEFAULT_ZK_PATH, doc="znode under which instances announce themselves", env="TARN_ZK_PATH")
    application: str = setting("", doc="application id, on YARN or where ZooKeeper knows several", env="TARN_APPLICATION_ID")
    name: str = setting("tarn", doc="the application's name: its state directory is the one of that name", env="TARN_NAME")
    state_dir: str = setting("", doc="state directory of `tarn local`", env="TARN_STATE_DIR")
    token_file: str = setting("", doc="file with the API token", env="TARN_TOKEN_FILE")
    timeout_s: float = setting(10.0, doc="longest wait for one answer", env="TARN_TIMEOUT_S", unit="s", low=0.1, high=3600)


def state_directory(name: str, given: str, environ: Mapping[str, str] | None = None) -> Path:
    """The directory `given`, or that of the application `name` below $TARN_HOME, $XDG_STATE_HOME/tarn or ~/.local/state/tarn."""
    environ = os.environ if environ is None else environ
    if given:
        return expanded(given, "--state-dir")
    if not name or name in (".", "..") or "/" in name:
        raise SettingsError(f"--name={name!r} cannot be the name of a directory: use letters, digits, '-', '_' and '.'")
    if environ.get("TARN_HOME"):
        return Path(environ["TARN_HOME"]).absolute() / name
    if environ.get("XDG_STATE_HOME"):
        return Path(environ["XDG_STATE_HOME"]).absolute() / "tarn" / name
    try:
        return Path("~/.local/state").expanduser().absolute() / "tarn" / name
    except RuntimeError as error:
        raise SettingsError("this user has no home directory: give --state-dir, or set TARN_HOME") from error


def expanded(text: str, flag: str) -> Path:
    """The absolute path that a person means, with `~` and `~user`. Raises SettingsError."""
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise SettingsError(f"{flag}={text!r}: nobody of that name has a home directory here; give the path from / on") from error


def application_token(application_id: str, environ: Mapping[str, str] | None = None) -> Path:
    """Where `tarn submit` keeps the API token of an application on YARN."""
    return state_directory("yarn", "", environ) / application_id / TOKEN_FILE


def read_token(path: Path) -> str:
    """The one line of a token file. Raises CommandError that names the file, never its content."""
    try:
        with path.open("rb") as file:
            text = file.read(1 << 16).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(Outcome.USAGE, f"cannot read the token file {path} ({getattr(error, 'strerror', 'not a text')})") from error
    if not _is_token(text):
        raise CommandError(
            Outcome.USAGE, f"the token file {path} does not hold one token", "write one line of ASCII without blanks into it"
        )
    return text


def checked_token(text: str) -> str:
    """The value of --token. Raises CommandError that does not show it."""
    if not _is_token(text):
        raise CommandError(Outcome.USAGE, "--token does not hold a token", "it is one word of ASCII letters, digits and signs")
    return text


def _is_token(text: str) -> bool:
    return 0 < len(text) < (1 << 12) and all(33 <= ord(character) < 127 for character in text)


def am_client(where: Where, token: str | None = None) -> AmClient:
    """The client of the Application Master that `where` means. `token` is one given on the command line."""
    if where.token_file:
        token = read_token(expanded(where.token_file, "--token-file"))
    if where.am:
        return AmClient(where.am.rstrip("/"), token, where.timeout_s, "--am")
    if where.zk_ensemble:
        # Here and not at the top: kazoo takes longer to import than the whole command to run.
        from tarn_am.cli import ensemble

        found = ensemble.rendezvous(where)
        return AmClient(found.http.rstrip("/"), token, where.timeout_s, f"ZooKeeper {where.zk_ensemble}")
    state = state_directory(where.name, where.state_dir)
    path = state / RENDEZVOUS_FILE
    if where.application or (not where.state_dir and not os.path.exists(path)):  # Path.exists raises for some
        on_yarn = _on_yarn(where, token)
        if on_yarn is not None:
            return on_yarn
    record = _record(path)
    if token is None and os.path.exists(state / TOKEN_FILE):
        token = read_token(state / TOKEN_FILE)
    return AmClient(record.http.rstrip("/"), token, where.timeout_s, str(path), _lost(state))


def _on_yarn(where: Where, token: str | None) -> AmClient | None:
    """None where this machine knows no cluster and none was asked for."""
    # Here and not at the top: most verbs speak to an Application Master whose address is known.
    from tarn_am.cli import through_yarn

    if not where.application and not through_yarn.configured(os.environ):
        return None
    report = through_yarn.one(where.application or where.name)
    kept = application_token(report.application_id)
    if token is None and kept.exists():
        token = read_token(kept)
    lost = f"YARN starts another one; `tarn list` shows how {report.application_id} is"
    return AmClient(through_yarn.address(report), token, where.timeout_s, "the ResourceManager", lost)


def _lost(state: Path) -> str:
    return f"it died without an orderly end, or hangs: `tarn local --state-dir {state}` takes over what still runs"


def _record(path: Path) -> Rendezvous:
    try:
        with path.open("rb") as file:
            record = decode_rendezvous(file.read(1 << 16))
        if not _is_base_url(record.http):
            raise EndpointError("no base URL")
        return record
    except FileNotFoundError as error:
        raise CommandError(
            Outcome.UNREACHABLE,
            f"no Application Master runs with the state directory {path.parent}",
            "start one with `tarn local`, or name another with --am, --zk-ensemble, --name or --state-dir",
        ) from error
    except (OSError, EndpointError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is not a rendezvous record"
        raise CommandError(Outcome.UNREACHABLE, f"cannot read {path} ({cause})", "is --state-dir the directory of `tarn local`?") from error
