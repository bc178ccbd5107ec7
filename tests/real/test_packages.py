"""What users install: the wheel that is built from this tree, and every Python that the package says it runs on."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]
PACKAGES = ("tarn_common", "tarn_agent", "tarn_am")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")

# Compiles every module named on stdin, without writing anything; says which Python did.
_COMPILE = """
import sys
for name in sys.stdin.read().split("\\0"):
    compile(open(name, encoding="utf-8").read(), name, "exec", dont_inherit=True)
print("%d.%d" % sys.version_info[:2])
"""


def pythons() -> list[tuple[str, str]]:
    """The interpreters of this machine that the package supports, by version; the one that runs the tests is always there."""
    found = {f"{sys.version_info.major}.{sys.version_info.minor}": sys.executable}
    for version in PYTHONS:
        installed = [shutil.which(f"python{version}"), *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))]
        for candidate in filter(None, installed):
            # What is found by name may be a script that needs more of an environment than a test gives.
            ran = subprocess.run([candidate, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True, check=False)
            if ran.returncode == 0:
                found.setdefault(version, ran.stdout.strip())
    return sorted(found.items())


class TestEveryPython:
    @pytest.mark.parametrize(("version", "python"), pythons())
    def test_reads_every_module(self, version: str, python: str) -> None:
        modules = "\0".join(str(path) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
        ran = subprocess.run([python, "-c", _COMPILE], input=modules, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stdout.strip()) == (0, version), ran.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """Built from a copy, so that nothing that lies about in the tree gets in."""
    source = tmp_path_factory.mktemp("source")
    wanted = ["setup.cfg", "pyproject.toml", "README.md", "LICENSE", *PACKAGES]
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", *wanted], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    built = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(built), str(source)]
    ran = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert ran.returncode == 0, ran.stderr
    (file,) = built.glob("*.whl")
    return zipfile.Path(file)


class TestTheWheel:
    def test_holds_every_file_of_the_packages_and_nothing_else(self, wheel: zipfile.Path) -> None:
        listed = subprocess.run(
            ["git", "-c", "safe.directory=*", "ls-files", "-z", *PACKAGES], cwd=ROOT, capture_output=True, check=True
        ).stdout.decode()
        here = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
        there = {name for name in wheel.root.namelist() if ".dist-info/" not in name and not name.endswith("/")}
        assert there == here

    def test_runs_where_only_it_is_installed(self, wheel: zipfile.Path, tmp_path: Path) -> None:
        """The command line's own modules need no package but click and structlog: all of them are imported from the wheel itself."""
        code = f"import sys; sys.path[:0] = [{str(wheel.root.filename)!r}]; import tarn_am.cli.main as m; print(m.__file__); sys.exit(m.run(['--version']))"
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert ran.returncode == 0, ran.stderr
        assert str(wheel.root.filename) in ran.stdout
        assert ran.stdout.endswith("tarn 0.1.0\n")

    def test_of_the_agent_alone_says_how_to_get_the_command_line(self, wheel: zipfile.Path, tmp_path: Path) -> None:
        code = (
            f"import sys; sys.path[:0] = [{str(wheel.root.filename)!r}]; sys.modules['click'] = None; from tarn_am.cli import main; main()"
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert (ran.returncode, ran.stderr) == (1, "tarn: the package click is missing: pip install 'tarn[client]'\n")
