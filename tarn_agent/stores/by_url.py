"""Which store serves a repository's URL.

    /path, file:/path              the mounted file system, in place
    webhdfs://host:port/path       WebHDFS (swebhdfs:// over TLS)
    hdfs://authority/path          native RPC; WebHDFS when TARN_WEBHDFS gives its address, or when hdfs-native is not
                                   installed and the Hadoop configuration knows the NameNode's web address
    hdfs:///path                   the same, with the authority of fs.defaultFS

Guarantees: a container that holds a delegation token for this HDFS never talks to it as a mere user name, and a token is
only ever shown to the service it was made for.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from tarn_agent.ports import StageError, Store
from tarn_agent.settings import AgentSettings
from tarn_agent.stores.mounted import MountedStore
from tarn_common import credentials
from tarn_common.credentials import CredentialsError, Token
from tarn_common.hadoop_conf import HadoopConf, HadoopConfError
from tarn_common.hadoop_conf import read as read_conf
from tarn_common.repository import Place, RepositoryError, check_plain, parse

log = structlog.get_logger(__name__)

_TOKEN_KINDS = ("HDFS_DELEGATION_TOKEN", "WEBHDFS delegation", "SWEBHDFS delegation")
_CONFIG_PREFIXES = ("dfs.", "fs.", "hadoop.security.", "hadoop.rpc.")


def open_store(settings: AgentSettings, environ: Mapping[str, str] | None = None) -> Store:
    """May block on a name server; raises StageError."""
    try:
        place = parse(settings.model_repository)
    except RepositoryError as error:
        raise StageError(f"--model-repository cannot be used: {error}", retry=False) from error
    if place.scheme == "file":
        _check_path(place)
        return _logged(MountedStore(place.path, place.location), "mounted")
    if place.scheme in ("webhdfs", "swebhdfs"):
        return _webhdfs(settings, place, (f"{'https' if place.scheme == 'swebhdfs' else 'http'}://{place.authority}",))
    try:
        conf = _configuration(settings, os.environ if environ is None else environ)
        authority = place.authority or urlsplit(conf.default_fs).netloc
        if not authority:
            raise StageError(f"{place.location} names no NameNode and fs.defaultFS is not set: give hdfs://namenode:8020/path", retry=False)
        if settings.webhdfs:
            return _webhdfs(settings, place, _urls(settings.webhdfs))
        return _native(settings, place, authority, conf)
    except HadoopConfError as error:
        raise StageError(f"{place.location} cannot be found: {error}", retry=False) from error


def _check_path(place: Place) -> None:
    try:
        check_plain(place.path)
    except RepositoryError as error:
        raise StageError(f"--model-repository {place.location!r} cannot be used in place: {error}", retry=False) from error


def _configuration(settings: AgentSettings, environ: Mapping[str, str]) -> HadoopConf:
    return read_conf(Path(settings.hadoop_conf_dir), environ) if settings.hadoop_conf_dir else HadoopConf()


def _urls(text: str) -> tuple[str, ...]:
    found = tuple(part.strip().rstrip("/") for part in text.replace(";", ",").split(",") if part.strip())
    for each in found:
        if not each.startswith(("http://", "https://")):
            raise StageError(f"TARN_WEBHDFS={text!r} is not an address such as http://namenode:9870", retry=False)
    return found


def _webhdfs(settings: AgentSettings, place: Place, urls: tuple[str, ...]) -> Store:
    if not all(urlsplit(url).netloc for url in urls):
        raise StageError(f"{place.location} names no NameNode: give webhdfs://namenode:9870/path", retry=False)
    # Imported here: the agent at rest shall not carry the memory of a library that it does not use.
    from tarn_agent.stores.webhdfs import WebHdfsStore

    token = _shown(place, _tokens(settings))
    return _logged(
        WebHdfsStore(urls, place.path, place.location, user=settings.hadoop_user, token=token),
        "webhdfs",
        address=urls,
        token=token is not None,
    )


def _shown(place: Place, tokens: list[Token]) -> Token | None:
    """The token to show to WebHDFS, which would take any: only one that was made for the host or nameservice of the URL."""
    host = place.authority.rpartition(":")[0] or place.authority
    names = {host, *(address.rpartition(":")[0] for address in _addresses(f"{host}:1"))}
    for token in tokens:
        if token.service.removeprefix("ha-hdfs:") in (host, place.authority) or token.service.rpartition(":")[0] in names:
            return token
    if tokens:
        log.warning("no_token_for_this_hdfs", location=place.location, tokens_for=sorted(token.service for token in tokens))
    return None


def _tokens(settings: AgentSettings) -> list[Token]:
    try:
        held = credentials.read(Path(settings.credentials))
    except CredentialsError as error:
        raise StageError(str(error), retry=False) from error
    return [token for token in held.tokens.values() if token.kind in _TOKEN_KINDS]


def _native(settings: AgentSettings, place: Place, authority: str, conf: HadoopConf) -> Store:
    try:
        # Imported here for the same reason.
        from tarn_agent.stores.native_hdfs import NativeHdfsStore
    except ImportError:
        urls = conf.web_urls(authority)
        if not urls:
            raise StageError(
                f"hdfs-native is not installed and the web address of {authority} is not known: install it, or set TARN_WEBHDFS",
                retry=False,
            ) from None
        return _webhdfs(settings, place, urls)
    config = {name: conf.get(name) for name in conf.properties if name.startswith(_CONFIG_PREFIXES)}
    name, held = _service(authority, conf, _tokens(settings))
    if held:
        config["hadoop.security.authentication"] = "kerberos"
    nodes = len(conf.namenodes(authority))
    store = NativeHdfsStore(f"hdfs://{name}", place.path, place.location, config, attempts=1 if nodes == 1 else 2 * nodes)
    return _logged(store, "native", address=name, token=held)


def _service(authority: str, conf: HadoopConf, tokens: list[Token]) -> tuple[str, bool]:
    """How to name the NameNode so that the library finds the token, and whether there is one.

    The library compares the text of the URL with the token's service, which Java writes as ip:port (or ha-hdfs:<nameservice>).
    """
    services = {token.service for token in tokens if token.kind == "HDFS_DELEGATION_TOKEN"}
    if conf.is_nameservice(authority):
        name, held = authority, f"ha-hdfs:{authority}" in services
    else:
        name = conf.namenodes(authority)[0].rpc
        fitting = [address for address in (name, *_addresses(name)) if address in services] if services else []
        name, held = (fitting[0] if fitting else name), bool(fitting)
    if services and not held and not conf.properties:
        raise StageError(
            f"the credentials file has delegation tokens for {', '.join(sorted(services))}, but none for {name}, and no HADOOP_CONF_DIR"
            " says whether it asks for one: correct --model-repository or set HADOOP_CONF_DIR",
            retry=False,
        )
    if services and not held:
        log.warning("no_token_for_this_hdfs", address=name, tokens_for=sorted(services))
    return name, held


def _addresses(host_port: str) -> list[str]:
    """ip:port for each address of the host; empty when the name is unknown."""
    host, _, port = host_port.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, ValueError, UnicodeError):
        return []
    return list(dict.fromkeys(f"{each[4][0]}:{port}" for each in found))


def _logged(store: Store, kind: str, **more: object) -> Store:
    log.info("repository_store", kind=kind, location=store.location, **more)
    return store
