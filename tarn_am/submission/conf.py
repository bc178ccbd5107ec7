"""The client's Hadoop configuration: where it lies, and what of it travels with an application to nodes that may lack it."""

from __future__ import annotations

import getpass
import io
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from gzip import GzipFile
from pathlib import Path
from xml.sax.saxutils import escape

from tarn_am.submission.errors import SubmissionError
from tarn_common import hadoop_conf
from tarn_common.hadoop_conf import SITES, HadoopConf, HadoopConfError

DEFAULT = "/etc/hadoop/conf"
_TAKEN = re.compile(r"(fs|hadoop|dfs|yarn|ipc|net|io)\..+")
# What a client must not pass on; none of it is of use to the Application Master.
_SECRET = re.compile(r"password|secret|\.keytab|private|access\.key|credential|account\.key", re.IGNORECASE)


@dataclass(frozen=True)
class ClientConf:
    """`directories` are those that were read, for the sentences of errors."""

    conf: HadoopConf
    directories: tuple[Path, ...]


def read(given: str, environ: Mapping[str, str]) -> ClientConf:
    """`given`, else HADOOP_CONF_DIR and YARN_CONF_DIR (the second overrules), else /etc/hadoop/conf. Raises SubmissionError."""
    named = [given] if given else [environ[name] for name in ("HADOOP_CONF_DIR", "YARN_CONF_DIR") if environ.get(name)]
    directories = tuple(dict.fromkeys(Path(name).absolute() for name in named or [DEFAULT]))
    if not named and not Path(DEFAULT).is_dir():
        raise SubmissionError(
            f"no Hadoop configuration was found: HADOOP_CONF_DIR is not set and {DEFAULT} is not there; set it, or give --hadoop-conf-dir"
        )
    properties: dict[str, str] = {}
    try:
        for directory in directories:
            properties.update(hadoop_conf.read(directory, environ).properties)
    except HadoopConfError as error:
        raise SubmissionError(f"{error} (or --hadoop-conf-dir)") from error
    if not properties:
        names = ", ".join(map(str, directories))
        raise SubmissionError(f"{names} has none of {', '.join(SITES)}: set HADOOP_CONF_DIR to the directory that has them")
    return ClientConf(HadoopConf(properties, environ), directories)


def user(conf: HadoopConf, environ: Mapping[str, str]) -> str:
    """Who submits, by Hadoop's short name. On a secure cluster the ticket decides; this is its first part where it can be told."""
    if not conf.secure:
        return environ.get("HADOOP_USER_NAME") or getpass.getuser()
    principal = environ.get("TARN_PRINCIPAL") or _ticket_holder()
    return re.split("[/@]", principal)[0] or getpass.getuser()


def _ticket_holder() -> str:
    try:
        import gssapi  # the optional extra [kerberos]
    except ImportError as error:
        raise SubmissionError(
            "the cluster asks for Kerberos, and this client has no GSSAPI: pip install 'tarn[client,kerberos]'"
        ) from error
    try:
        return str(gssapi.Credentials(usage="initiate").name)
    except gssapi.exceptions.GSSError as error:
        raise SubmissionError(
            "the cluster asks for Kerberos, and there is no valid ticket: kinit, or set KRB5_CLIENT_KTNAME to a keytab"
        ) from error


def packed(conf: HadoopConf) -> bytes:
    """A .tar.gz with one core-site.xml of all that a node needs to reach the cluster; secrets stay here. The same bytes for the same conf."""
    rows = []
    for name in sorted(conf.properties):
        if _TAKEN.fullmatch(name) and not _SECRET.search(name):
            rows.append(f"<property><name>{escape(name)}</name><value>{escape(conf.get(name))}</value></property>\n")
    text = "<configuration>\n" + "".join(rows) + "</configuration>\n"
    raw = io.BytesIO()
    with GzipFile("", "wb", 9, raw, mtime=0) as squeezed, tarfile.open(fileobj=squeezed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        entry = tarfile.TarInfo("core-site.xml")
        data = text.encode()
        entry.size, entry.mode = len(data), 0o600
        tar.addfile(entry, io.BytesIO(data))
    return raw.getvalue()
