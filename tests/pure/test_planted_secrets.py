"""The search for planted secrets finds them, wherever and however they were written."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rigs.secrets import leaks, planted


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory that is gone at once: the search at the end of the run must not find what is planted here."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


class TestALeakIsFound:
    @pytest.mark.parametrize("name", ["am.log", "notes.txt", "triton.json"])
    def test_in_a_file_that_others_can_read(self, scratch: Path, name: str) -> None:
        (scratch / name).write_text(f"token={planted('t')} end")
        (scratch / name).chmod(0o644)
        assert [line.startswith(f"{scratch / name}: planted-secret-t-") for line in leaks(scratch)] == [True]

    def test_in_a_log_though_nobody_else_can_read_it(self, scratch: Path) -> None:
        log = scratch / "agent.log"
        log.write_text(planted("t"))
        log.chmod(0o600)
        assert len(leaks(scratch)) == 1

    @pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
    def test_in_base64_at_any_offset(self, scratch: Path, before: str) -> None:
        (scratch / "launch.sh").write_bytes(base64.b64encode(json.dumps([before, planted("t")]).encode()))
        assert len(leaks(scratch)) == 1

    def test_below_other_directories(self, scratch: Path) -> None:
        (scratch / "a" / "b").mkdir(parents=True)
        (scratch / "a" / "b" / "env").write_text(planted("t"))
        assert len(leaks(scratch)) == 1


class TestWhatMayHoldASecretIsNoLeak:
    def test_a_file_of_its_owner_alone(self, scratch: Path) -> None:
        token = scratch / "token"
        token.touch(0o600)
        token.write_text(planted("t"))
        assert leaks(scratch) == []

    def test_other_files(self, scratch: Path) -> None:
        (scratch / "am.log").write_text("nothing here but words about planted secrets")
        assert leaks(scratch) == []
