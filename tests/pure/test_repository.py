"""The repository as a whole: generated code is fresh, scripts say how they are used, the package is what setup.cfg says, texts are clean."""

from __future__ import annotations

import ast
import configparser
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg")

# What a distribution is imported as, where that is not its own name.
_IMPORTED_AS = {
    "grpcio": "grpc",
    "protobuf": "google",
    "nvidia-ml-py": "pynvml",
    "hdfs-native": "hdfs_native",
    "prometheus-client": "prometheus_client",
    "pure-sasl": "puresasl",
}


def tracked() -> list[str]:
    listed = subprocess.run(["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def texts() -> Iterator[tuple[str, str]]:
    for name in tracked():
        data = (ROOT / name).read_bytes()
        if b"\0" not in data:
            yield name, data.decode(errors="replace")


def scripts() -> list[str]:
    return [name for name, text in texts() if text.startswith("#!") and name.startswith("scripts/")]


class TestGeneratedCode:
    def test_is_what_the_protos_say(self, tmp_path: Path) -> None:
        environ = {**os.environ, "PYTHON": sys.executable}
        subprocess.run([str(ROOT / "scripts" / "protos"), str(tmp_path)], check=True, env=environ, stdout=subprocess.DEVNULL)
        made = [path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2*")]
        assert made
        stale = [str(name) for name in made if (tmp_path / name).read_bytes() != (ROOT / name).read_bytes()]
        assert stale == [], "run scripts/protos"


class TestScripts:
    @pytest.mark.parametrize("name", scripts())
    def test_says_how_it_is_used(self, name: str) -> None:
        lines = (ROOT / name).read_text().splitlines()
        assert any(line.startswith(f"#   {name}") for line in lines[1:12]), "its first lines show how it is called"

    @pytest.mark.parametrize("name", ["scripts/bench", "scripts/check", "scripts/install", "scripts/quickstart", "scripts/test"])
    def test_has_help(self, name: str) -> None:
        ran = subprocess.run([str(ROOT / name), "--help"], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        assert ran.returncode == 0
        assert name in ran.stdout

    @pytest.mark.parametrize("name", ["scripts/install", "scripts/quickstart"])
    def test_refuses_an_option_that_it_does_not_know(self, name: str) -> None:
        ran = subprocess.run([str(ROOT / name), "--onec"], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        assert ran.returncode == 2
        assert "'--onec'" in ran.stderr

    @pytest.mark.parametrize("name", [*scripts(), ".ci/run"])
    def test_stops_at_the_first_error_and_can_be_run(self, name: str) -> None:
        assert "set -euo pipefail" in (ROOT / name).read_text() or "python" in (ROOT / name).read_text().splitlines()[0]
        assert os.access(ROOT / name, os.X_OK)


class TestThePackage:
    @pytest.mark.parametrize(
        ("packages", "extras"), [(("tarn_agent", "tarn_common"), ("agent",)), (("tarn_am", "tarn_common"), ("am", "kerberos"))]
    )
    def test_imports_only_what_its_extra_brings(self, packages: tuple[str, ...], extras: tuple[str, ...]) -> None:
        brought = {"structlog", "tarn_common", packages[0], *(name for extra in extras for name in _distributions(extra))}
        # The Triton wheel is asked for only where it is: its absence has a sentence of its own.
        strange = {
            f"{path.relative_to(ROOT)}: {name}"
            for package in packages
            for path in (ROOT / package).rglob("*.py")
            for name in _imports(path)
            if name not in brought and name not in sys.stdlib_module_names
        }
        assert strange == set()

    def test_of_the_agent_brings_neither_server_nor_command_line(self) -> None:
        assert not {"aiohttp", "click", "cryptography", "prometheus_client"} & _distributions("agent")

    @pytest.mark.parametrize("script", ["tarn", "tarn-am", "tarn-agent"])
    def test_has_its_commands(self, script: str) -> None:
        lines = dict(line.split(" = ") for line in SETUP["options.entry_points"]["console_scripts"].strip().splitlines())
        module, function = lines[script].split(":")
        path = ROOT / module.replace(".", "/")
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        assert function in {node.name for node in ast.parse(source.read_text()).body if isinstance(node, ast.FunctionDef)}

    def test_has_every_file_that_is_no_module(self) -> None:
        globs = {
            package: [glob.strip() for glob in value.split(",")]
            for package, value in SETUP["options.package_data"].items()
            if package != "*"
        }
        for name in tracked():
            path = Path(name)
            if path.parts[0] in ("tarn_am", "tarn_agent", "tarn_common") and path.suffix not in (".py", ".pyi", ".typed"):
                package = ".".join(path.parts[:-1])
                assert any(path.match(glob) for glob in globs.get(package, [])), f"{name} is not in package_data"


def _distributions(extra: str) -> set[str]:
    names = (re.split(r"[<>=!\[;]", line.strip())[0] for line in SETUP["options.extras_require"][extra].strip().splitlines())
    return {_IMPORTED_AS.get(name, name.replace("-", "_")) for name in names if name and not name.startswith("#")}


def _imports(path: Path) -> set[str]:
    """The top names that a module imports when it runs; what stands under TYPE_CHECKING is left out."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found


class TestTexts:
    # Written in pieces, so that this file does not find itself.
    WORDS = ("/wo" + "rk/", "/ro" + "ot/", "TO" + "DO", "FIX" + "ME", "XX" + "X:")

    def test_speak_of_the_project_alone(self) -> None:
        found = [f"{name}: {word}" for name, text in texts() for word in self.WORDS if word in text]
        assert found == []

    def test_hold_no_private_key_and_no_environment(self) -> None:
        found = [name for name, text in texts() if "-----BEGIN " + "PRIVATE KEY" in text or name.split("/")[0] in (".venv", "v", "build")]
        assert found == []

    def test_end_with_one_newline(self) -> None:
        assert [name for name, text in texts() if text and (not text.endswith("\n") or text.endswith("\n\n"))] == []

    def test_links_of_the_readme_lead_somewhere(self) -> None:
        text = (ROOT / "README.md").read_text()
        targets = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
        named = re.findall(r"`((?:scripts|tarn_\w+|tests|proto|examples|docker)/[\w./-]*)`", text)
        assert [name for name in [*targets, *named] if not (ROOT / name).exists()] == []
