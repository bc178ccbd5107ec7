"""The wheel's tritonserver made ready: complete or absent, made once, made again where a cache was swept."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tarn_am.cluster.triton_wheel import TritonRuntime, prepare
from tarn_am.ports import ClusterError

pytestmark = pytest.mark.real


def backends(runtime: TritonRuntime) -> Path:
    return Path(runtime.environ["TARN_TRITON_BACKENDS"]) / "python"


class TestPrepare:
    def test_its_environment_runs_the_program_and_the_stub(self, tmp_path: Path) -> None:
        runtime = prepare(tmp_path / "cache")
        assert set(runtime.environ) == {"TARN_TRITON_BIN", "TARN_TRITON_BACKENDS", "LD_LIBRARY_PATH", "PATH"}
        said = subprocess.run(
            [runtime.environ["TARN_TRITON_BIN"], "--help"],
            env=dict(runtime.environ),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert "--load-model" in said.stdout + said.stderr
        stub = backends(runtime) / "triton_python_backend_stub"
        linked = subprocess.run(["ldd", str(stub)], env=dict(runtime.environ), capture_output=True, text=True, check=True, timeout=60)
        assert "not found" not in linked.stdout
        assert f"libpython{sys.version_info.major}.{sys.version_info.minor}" in linked.stdout

    def test_a_cache_that_a_shell_would_take_apart_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ClusterError, match=r"it holds ' ', and Triton's Python back end hands the path to a shell: .*TARN_CACHE_DIR"):
            prepare(tmp_path / "my cache")
        assert list(tmp_path.iterdir()) == []

    def test_is_made_once(self, tmp_path: Path) -> None:
        first = backends(prepare(tmp_path))
        made = first.stat().st_ino
        assert backends(prepare(tmp_path)) == first
        assert first.stat().st_ino == made
        assert [path.name for path in tmp_path.iterdir()] == [first.parent.name]

    def test_by_many_at_once_is_whole_and_alone(self, tmp_path: Path) -> None:
        with ProcessPoolExecutor(4) as pool:
            found = list(pool.map(prepare, [tmp_path] * 8))
        assert len({backends(runtime) for runtime in found}) == 1
        assert len(list(tmp_path.iterdir())) == 1
        assert len(list(backends(found[0]).iterdir())) == 3

    @pytest.mark.parametrize("harm", ["missing", "torn"])
    def test_a_swept_cache_is_made_again(self, tmp_path: Path, harm: str) -> None:
        stub = backends(prepare(tmp_path)) / "triton_python_backend_stub"
        size = stub.stat().st_size
        if harm == "missing":
            stub.unlink()
        else:
            os.truncate(stub, 10)
        assert (backends(prepare(tmp_path)) / stub.name).stat().st_size == size
        assert len(list(tmp_path.iterdir())) == 1

    def test_a_cache_that_cannot_be_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ClusterError, match="file/cache") as error:
            prepare(tmp_path / "file" / "cache")
        assert not error.value.retry


class TestWithoutTheWheel:
    def test_one_sentence_says_how_to_get_it(self, tmp_path: Path) -> None:
        code = "import sys; from pathlib import Path; from tarn_am.cluster.triton_wheel import prepare; prepare(Path(sys.argv[1]))"
        repository = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-IS", "-c", f"import sys; sys.path.insert(0, {str(repository)!r}); {code}", str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.stderr.splitlines()[-1].endswith(
            'the wheel nvidia-pytriton with the tritonserver program is not installed: pip install "tarn[local]"'
        )
        assert list(tmp_path.iterdir()) == []
