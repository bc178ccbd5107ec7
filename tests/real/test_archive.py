"""The archive that carries TARN to the nodes, built from what is installed here and run by this machine's Pythons."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tarn_am.archive import wheels
from tarn_am.archive.build import Built, build, here
from tarn_am.archive.parts import ArchiveError
from tests.real.test_packages import pythons

pytestmark = pytest.mark.real
OLD = [path for version in ("3.6", "3.8") for path in Path.home().glob(f".pyenv/versions/{version}.*/bin/python3")]
MODULES = "import tarn_am.daemon, tarn_agent.daemon, tarn_am.cli.main, hdfs_native, supervisor.options; print(tarn_am.__file__)"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("archive") / "tarn.tar.gz")


@pytest.fixture(scope="module")
def unpacked(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("node") / "tarn"
    with tarfile.open(built.path) as tar:
        tar.extractall(directory, filter="tar")
    return directory


def run(python: str, unpacked: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """In an environment that has nothing of this one."""
    command = [python, "-Es", str(unpacked / "run.py"), *words]
    return subprocess.run(command, env={"PATH": "/nowhere"}, cwd="/", capture_output=True, text=True, check=False)


class TestArchive:
    def test_the_same_parts_give_the_same_bytes(self, built: Built, tmp_path: Path) -> None:
        assert build(tmp_path / "again.tar.gz").digest == built.digest

    def test_it_holds_tarn_and_all_it_needs_and_says_so(self, unpacked: Path) -> None:
        about = json.loads((unpacked / "about.json").read_text())
        assert about["pythons"] == [here()]
        assert {"grpcio", "aiohttp", "hdfs-native", "supervisor", "structlog", "kazoo"} <= set(about["packages"])
        assert not (unpacked / "lib" / "any" / "tests").exists()

    def test_a_node_without_anything_runs_every_part_of_tarn(self, unpacked: Path) -> None:
        (unpacked / "lib" / "any" / "everything.py").write_text(MODULES)
        ran = run(sys.executable, unpacked, "everything")
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout.strip() == str(unpacked / "lib" / "any" / "tarn_am" / "__init__.py")

    def test_programs_that_it_starts_find_their_modules_too(self, unpacked: Path) -> None:
        (unpacked / "lib" / "any" / "starter.py").write_text(
            "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'everything'], check=True)\n"
        )
        ran = run(sys.executable, unpacked, "starter")
        assert ran.stdout.strip() == str(unpacked / "lib" / "any" / "tarn_am" / "__init__.py"), ran.stderr

    @pytest.mark.parametrize("python", [path for version, path in pythons() if version != here()] + [str(path) for path in OLD])
    def test_another_python_is_told_what_to_do(self, python: str, tmp_path: Path) -> None:
        (tmp_path / "lib" / "cp39").mkdir(parents=True)
        shutil.copyfile(Path(wheels.__file__).with_name("run.py"), tmp_path / "run.py")
        ran = run(python, tmp_path, "anything")
        assert ran.returncode == 101
        assert ran.stderr.startswith("TARN's archive has packages for Python 3.9, and ")
        assert ran.stderr.count("\n") == 1

    def test_a_target_that_cannot_be_written_is_one_sentence_and_leaves_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ArchiveError, match="give another path"):
            build(tmp_path / "file" / "tarn.tar.gz")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


class TestWheels:
    def test_a_wheel_that_would_write_elsewhere_is_refused(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "bad-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("../outside.py", "x = 1")
        with pytest.raises(ArchiveError, match=r"\.\./outside\.py"):
            wheels.unpack(tmp_path / "bad-1-py3-none-any.whl", tmp_path / "in")
        assert not (tmp_path / "outside.py").exists()

    def test_data_goes_where_an_installation_puts_it_and_scripts_nowhere(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "good-1-py3-none-any.whl", "w") as wheel:
            for name in ("good.py", "good-1.data/purelib/also.py", "good-1.data/scripts/tool", "good-1.dist-info/METADATA"):
                wheel.writestr(name, "")
        wheels.unpack(tmp_path / "good-1-py3-none-any.whl", tmp_path / "in")
        found = sorted(str(path.relative_to(tmp_path / "in")) for path in (tmp_path / "in").rglob("*") if path.is_file())
        assert found == ["also.py", "good-1.dist-info/METADATA", "good.py"]

    def test_what_an_empty_directory_of_wheels_lacks_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ArchiveError, match=r"grpcio.*--wheels"):
            wheels.fetch(["grpcio>=1.76"], "3.12", "x86_64", tmp_path / "to", tmp_path)
