"""Hadoop's configuration directory: `*-site.xml` read as Hadoop reads them, and the NameNodes that they name.

Guarantees: a later file overrides an earlier one unless the earlier said `final`; `${name}`, `${env.X}`, `${env.X-default}`
and `${env.X:-default}` are expanded. It is not an XML processor: a DOCTYPE (entities) and an XInclude are refused by name,
because either could make this process read other files or grow without bound.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SITES = ("core-site.xml", "hdfs-site.xml", "yarn-site.xml")
_LIMIT_BYTES = 8 << 20
_EXPANSIONS = 20
_LIMIT_VALUE = 1 << 16
_VARIABLE = re.compile(r"\$\{([^{}$\s]+)\}")
_XINCLUDE = "{http://www.w3.org/2001/XInclude}"


class HadoopConfError(ValueError):
    """A configuration that cannot be read; the text names the file or the property."""


class _NoDoctype(ET.TreeBuilder):
    def doctype(self, name: str, _pubid: str | None, _system: str | None) -> None:
        raise HadoopConfError(f"it has a DOCTYPE ({name}), which is refused: remove it")


def parse_site(data: bytes) -> list[tuple[str, str, bool]]:
    """(name, value, final) in the order of one file; raises HadoopConfError."""
    try:
        # The target refuses every DOCTYPE, so that no entity is ever declared.
        root = ET.fromstring(data, ET.XMLParser(target=_NoDoctype()))  # noqa: S314
    except ET.ParseError as error:
        raise HadoopConfError(f"it is not XML: {error}") from error
    except (LookupError, ValueError) as error:
        raise error if isinstance(error, HadoopConfError) else HadoopConfError(f"its encoding cannot be read: {error}") from error
    if root.tag != "configuration":
        raise HadoopConfError(f"its root is <{root.tag}>, not <configuration>")
    if any(element.tag.startswith(_XINCLUDE) for element in root.iter()):
        raise HadoopConfError("it has an XInclude, which is refused: write the included properties into the file")
    rows = []
    for element in root.iter("property"):
        name, value = _text(element, "name"), element.find("value")
        if name and value is not None:
            rows.append((name, (value.text or "").strip(), _text(element, "final") == "true"))
    return rows


def _text(element: ET.Element, tag: str) -> str:
    return (element.findtext(tag) or element.get(tag) or "").strip()


@dataclass(frozen=True)
class NameNode:
    """One NameNode's addresses, host:port; empty where the configuration does not say."""

    rpc: str
    http: str = ""
    https: str = ""
    id: str = ""


@dataclass(frozen=True)
class HadoopConf:
    """Properties after overriding, not yet expanded; `get` expands."""

    properties: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    def get(self, name: str, default: str = "") -> str:
        """The expanded value. What names nothing stays as it stands, as in Hadoop; raises HadoopConfError on a circle."""
        text = self.properties.get(name, default)
        for _ in range(_EXPANSIONS):
            expanded = _VARIABLE.sub(self._variable, text)
            if expanded == text:
                return text
            if len(expanded) > _LIMIT_VALUE:
                break
            text = expanded
        raise HadoopConfError(f"{name} refers to itself or grows without end: {self.properties.get(name, default)[:200]}")

    def _variable(self, match: re.Match[str]) -> str:
        name = match.group(1)
        if not name.startswith("env."):
            return self.properties.get(name, self._system(name) or match.group(0))
        found = re.fullmatch(r"([^:-]+)(?:(:?-)(.*))?", name.removeprefix("env."))
        if found is None:
            return match.group(0)
        value, operator = self.environ.get(found[1]), found[2]
        if value is None or (operator == ":-" and not value):
            return match.group(0) if operator is None else found[3]
        return value

    def _system(self, name: str) -> str:
        """The Java system properties that site files use."""
        variable = {"user.name": "USER", "user.home": "HOME", "java.io.tmpdir": "TMPDIR"}.get(name, "")
        return self.environ.get(variable, "/tmp" if name == "java.io.tmpdir" else "")  # noqa: S108

    def get_list(self, name: str) -> list[str]:
        return [part.strip() for part in self.get(name).split(",") if part.strip()]

    @property
    def default_fs(self) -> str:
        """Such as hdfs://nn:8020 or hdfs://nameservice; empty when not set."""
        return self.get("fs.defaultFS") or self.get("fs.default.name")

    @property
    def secure(self) -> bool:
        return self.get("hadoop.security.authentication", "simple").lower() == "kerberos"

    def is_nameservice(self, authority: str) -> bool:
        """Whether the authority of an hdfs:// URL is a nameservice with more than one NameNode, rather than a host."""
        return bool(self.get(f"dfs.ha.namenodes.{authority}"))

    def namenodes(self, authority: str) -> tuple[NameNode, ...]:
        """The NameNodes behind the authority of an hdfs:// URL: all of a nameservice, else the one with what is known of it.

        Raises HadoopConfError when a nameservice's NameNode has no address.
        """
        if not self.is_nameservice(authority):
            return (self._single(authority),)
        found = []
        for each in self.get_list(f"dfs.ha.namenodes.{authority}"):
            suffix = f"{authority}.{each}"
            rpc = self.get(f"dfs.namenode.rpc-address.{suffix}")
            if not rpc:
                raise HadoopConfError(f"dfs.namenode.rpc-address.{suffix} is not set, but dfs.ha.namenodes.{authority} names {each}")
            http, https = (self._web(f"dfs.namenode.{kind}-address.{suffix}", rpc) for kind in ("http", "https"))
            found.append(NameNode(rpc, http, https, each))
        return tuple(found)

    def _single(self, authority: str) -> NameNode:
        rpc = authority if re.search(r":\d+$", authority) else f"{authority}:8020"
        known = {self.default_fs.partition("://")[2].rstrip("/"), self.get("dfs.namenode.rpc-address")}
        if authority not in known and rpc not in known:
            return NameNode(rpc)
        return NameNode(rpc, *(self._web(f"dfs.namenode.{kind}-address", rpc) for kind in ("http", "https")))

    def _web(self, name: str, rpc: str) -> str:
        """A web address; one bound to all interfaces is reached where the RPC address is."""
        host, colon, port = self.get(name).rpartition(":")
        return f"{rpc.rpartition(':')[0] if host in ('0.0.0.0', '::', '[::]') else host}:{port}" if colon else ""

    def web_urls(self, authority: str) -> tuple[str, ...]:
        """The base URLs of WebHDFS, such as http://nn:9870; empty when the configuration names none."""
        https = self.get("dfs.http.policy", "HTTP_ONLY").upper() == "HTTPS_ONLY"
        addresses = ((node.https if https else node.http) for node in self.namenodes(authority))
        return tuple(f"{'https' if https else 'http'}://{address}" for address in addresses if address)


def merge(files: list[list[tuple[str, str, bool]]]) -> dict[str, str]:
    """One mapping from several files' rows, in order."""
    merged: dict[str, str] = {}
    finals: set[str] = set()
    for rows in files:
        for name, value, final in rows:
            if name not in finals:
                merged[name] = value
            if final:
                finals.add(name)
    return merged


def read(directory: Path, environ: Mapping[str, str]) -> HadoopConf:
    """Reads the site files that are there; raises HadoopConfError naming the file, or the directory when it is none."""
    if not directory.is_dir():
        raise HadoopConfError(f"the Hadoop configuration directory {directory} is not there: set HADOOP_CONF_DIR")
    files = []
    for path in (directory / site for site in SITES):
        try:
            with path.open("rb") as file:
                data = file.read(_LIMIT_BYTES + 1)
            if len(data) > _LIMIT_BYTES:
                raise HadoopConfError(f"it is larger than {_LIMIT_BYTES} bytes")
            files.append(parse_site(data))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise HadoopConfError(f"cannot read {path}: {error.strerror}") from error
        except HadoopConfError as error:
            raise HadoopConfError(f"{path}: {error}") from error
    return HadoopConf(merge(files), environ)
