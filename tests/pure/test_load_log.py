"""What Triton's log tells of models while its ports are still shut, and the end of a log that is too long to be read."""

from __future__ import annotations

from pathlib import Path

from tarn_agent.core.load_log import LoadLog
from tarn_agent.core.model import ModelState
from tarn_agent.log_tail import LogTail, last_lines

LOG = r"""W1125 01:48:19.126297 28204 pinned_memory_manager.cc:273] "Unable to allocate pinned system memory"
E1125 01:48:19.126609 28204 model_repository_manager.cc:1415] "failed to poll model 'nosuch': model not found in any model repository."
I1125 01:48:19.292838 28204 model_lifecycle.cc:472] "loading: stuck:1"
I1125 01:48:19.293079 28204 model_lifecycle.cc:472] "loading: identity:1"
I1125 01:48:19.293179 28204 model_lifecycle.cc:472] "loading: broken:1"
I1125 01:48:20.485350 28204 model_lifecycle.cc:839] "successfully loaded 'identity'"
E1125 01:48:20.775822 28204 backend_model.cc:692] "ERROR: Failed to create instance: RuntimeError: no weights\n\nAt:\n  /m/model.py(8): initialize\n"
E1125 01:48:20.775931 28204 model_lifecycle.cc:642] "failed to load 'broken' version 1: Internal: RuntimeError: no weights\n\nAt:\n  /m/model.py(8): initialize\n"
I1125 01:48:20.775946 28204 model_lifecycle.cc:777] "failed to load 'broken'"
"""


class TestLoading:
    def test_each_model_has_its_state_and_its_reason(self) -> None:
        found = LoadLog().read(LOG.splitlines()).of(["identity", "stuck", "broken", "nosuch", "later"])
        assert {model.name: model.state for model in found} == {
            "identity": "LOADING",
            "stuck": "LOADING",
            "broken": "UNAVAILABLE",
            "nosuch": "UNAVAILABLE",
            "later": "UNKNOWN",
        }
        reasons = {model.name: model.reason for model in found}
        assert reasons["identity"].startswith("loaded")
        assert reasons["stuck"] == ""
        assert reasons["broken"] == "Internal: RuntimeError: no weights\n\nAt:\n  /m/model.py(8): initialize"
        assert reasons["nosuch"] == "model not found in any model repository."

    def test_what_nobody_asked_for_is_a_part_of_something(self) -> None:
        found = LoadLog().read(LOG.splitlines()).of(["stuck"])
        assert (found[0].name, found[0].wanted) == ("stuck", True)
        assert {model.name for model in found if not model.wanted} == {"identity", "broken", "nosuch"}

    def test_the_log_of_an_older_triton_has_no_quotes(self) -> None:
        lines = [
            "I0101 00:00:00.1 1 model_lifecycle.cc:459] loading: m:3",
            "I0101 00:00:00.2 1 model_lifecycle.cc:694] successfully loaded 'n'",
        ]
        assert {model.name for model in LoadLog().read(lines).of([])} == {"m", "n"}

    def test_lines_of_anything_else_are_left_out(self) -> None:
        assert LoadLog().read(["", "loading: m:1", '] "loading: :1x"', "\x00" * 50, "] failed to load"]).of([]) == ()


class TestLogTail:
    def test_only_what_came_after_its_making_counts_whole_lines_at_a_time(self, tmp_path: Path) -> None:
        path = tmp_path / "triton.log"
        path.write_text('] "loading: old:1"\n')
        tail = LogTail(path)
        with path.open("a") as file:
            file.write('] "loading: new:1"\n] "loading: ha')
        assert tail.read().of([]) == (ModelState("new", "LOADING", wanted=False),)
        with path.open("a") as file:
            file.write('lf:1"\n')
        assert [model.name for model in tail.read().of([])] == ["half", "new"]
        assert [model.name for model in LogTail(path, whole=True).read().of([])] == ["half", "new", "old"]

    def test_a_rotated_log_is_followed(self, tmp_path: Path) -> None:
        path = tmp_path / "triton.log"
        path.write_text("x" * 500)
        tail = LogTail(path)
        path.rename(tmp_path / "triton.log.1")
        path.write_text('] "loading: m:1"\n')
        assert [model.name for model in tail.read().of([])] == ["m"]
        assert tail.added() == ['] "loading: m:1"']

    def test_no_log_is_nothing_said(self, tmp_path: Path) -> None:
        tail = LogTail(tmp_path / "triton.log")
        assert (tail.read().of([]), tail.added()) == ((), [])


class TestLastLines:
    def test_of_a_long_log_with_long_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        lines = [f"{number} {'x' * (number * 37 % 5000)}" for number in range(2000)]
        path.write_text("\n".join(lines) + "\n")
        for count in (1, 3, 500):
            assert last_lines(path, count) == lines[-count:]
        assert last_lines(path, 0) == []

    def test_of_a_short_a_torn_and_a_missing_one(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        path.write_bytes(b"one\n\xff\xfetwo\nthree")
        assert last_lines(path, 9) == ["one", "��two", "three"]
        path.write_bytes(b"")
        assert last_lines(path, 9) == []
        assert last_lines(tmp_path / "nowhere", 9) == []

    def test_of_one_endless_line_no_more_than_a_few_megabytes(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        path.write_bytes(b"y" * (9 << 20))
        (line,) = last_lines(path, 2)
        assert len(line) <= 4 << 20


class TestWhatTheIndexDoesNotSay:
    LOG = (
        """E1125 03:04:43.763115 8868 model_repository_manager.cc:1460] "Poll failed for model directory 'm': failed to read text proto from /r/m/config.pbtxt\"""",
        """E1125 03:04:43.763161 8868 model_repository_manager.cc:703] "Invalid argument: ensemble e contains models that are not available or ambiguous: m\"""",
        """I1125 03:04:43.764000 8868 server.cc:674] "a list of models\"""",
        """E1125 03:02:41.771441 1292 tritonserver.cc:2607] "Invalid argument: unable to find 'libtritoncache_nosuch.so' for cache.\"""",
    )

    def test_is_told_by_the_log(self) -> None:
        index = (
            ModelState("m", "UNAVAILABLE", "not loaded"),
            ModelState("e", "UNAVAILABLE", "not loaded"),
            ModelState("gone", "UNAVAILABLE", "unloaded"),
            ModelState("good", "READY", "", ("1",)),
        )
        told = LoadLog().read(self.LOG).explained(index)
        assert [model.reason for model in told] == [
            "failed to read text proto from /r/m/config.pbtxt",
            "contains models that are not available or ambiguous: m",
            "unloaded",
            "",
        ]

    def test_the_last_error_is_kept(self) -> None:
        assert LoadLog().read(self.LOG).error == "Invalid argument: unable to find 'libtritoncache_nosuch.so' for cache."
