"""tritonserver's command line: what TARN stands on cannot be overridden, and what the user gives stays as it is."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest

from tarn_agent.core.command import CommandError, argv
from tarn_agent.core.model import ModelState, Ports, TritonLaunch
from tarn_agent.supervisord_conf import command
from tarn_agent.triton_http import read_index

LAUNCH = TritonLaunch("/models", ("a", "b c"), Ports(8000, 8001, 8002), "0.0.0.0", 30, "s3same")


class TestArgv:
    def test_every_model_is_loaded_by_name_and_the_control_apis_are_shut(self) -> None:
        found = argv(LAUNCH, "/opt/tritonserver", "/backends")
        assert found[0] == "/opt/tritonserver"
        assert [word for word in found if word.startswith("--load-model")] == ["--load-model=a", "--load-model=b c"]
        closed = "model-repository,shared-memory,logging,trace:tarn-control=s3same"
        assert {f"--http-restricted-api={closed}", f"--grpc-restricted-protocol={closed}", "--backend-directory=/backends"} <= set(found)

    def test_the_users_arguments_come_last_as_they_are(self) -> None:
        extra = ("--log-verbose=1", "--allow-gpu-metrics=false", "--backend-config=python,x=a b")
        found = argv(replace(LAUNCH, extra_args=extra), "t", "")
        assert tuple(found[-3:]) == extra
        assert sum(word.startswith("--allow-gpu-metrics") for word in found) == 1
        assert not [word for word in found if word.startswith("--backend-directory")]

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"bind": "node7.example.com"}, "TARN_BIND='node7.example.com' is not an IP address"),
            ({"bind": ""}, "TARN_BIND='' is not an IP address"),
            ({"extra_args": ("--model-control-mode=none",)}, "--model-control-mode cannot be given"),
            ({"extra_args": ("--grpc-port", "1")}, "--grpc-port cannot be given"),
            ({"extra_args": ("--x=\0",)}, "holds a NUL"),
            ({"environ": (("A=B", "c"),)}, "'A=B' is not the name of an environment variable"),
            ({"environ": (("A", "c\0"),)}, "holds a NUL"),
        ],
    )
    def test_what_cannot_be_is_refused_with_the_fix(self, changes: dict[str, Any], said: str) -> None:
        with pytest.raises(CommandError) as error:
            argv(replace(LAUNCH, **changes), "t", "")
        assert said in str(error.value)


class TestSupervisordsQuoting:
    @pytest.mark.parametrize(
        "words",
        [["a"], ["a b", "c"], ["it's", '"x"'], ["1 ;2", "3 #4", "\t;#"], ["50%", "%(here)s"], ["", "$HOME", "`x`", "\\", "ä"]],
    )
    def test_supervisord_makes_the_same_words_of_it(self, words: list[str]) -> None:
        text = command(words)
        # As supervisord does: cut at a comment, expand, split.
        for sign in (";", "#"):
            assert f" {sign}" not in text
            assert f"\t{sign}" not in text
        assert shlex.split(text % {}) == words

    def test_a_line_break_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no line break"):
            command(["a\nb"])


class TestRepositoryIndex:
    def test_a_model_is_what_its_best_version_is(self) -> None:
        index = b"""[{"name":"m","version":"1","state":"UNLOADING"},{"name":"m","version":"2","state":"READY"},
            {"name":"old","version":"1","state":"UNAVAILABLE","reason":"unloaded"},{"name":"old","version":"3","state":"READY"},
            {"name":"half","version":"1","state":"READY"},{"name":"half","version":"2","state":"UNAVAILABLE","reason":"no weights"},
            {"name":"out","version":"1","state":"UNLOADING"},{"name":"out","version":"2","state":"UNAVAILABLE","reason":"unloaded"},
            {"name":"never"}]"""
        assert read_index(index, ["m", "absent"]) == (
            ModelState("m", "READY", "", ("2",)),
            ModelState("absent", "UNAVAILABLE", "it is not in the model repository"),
            ModelState("half", "READY", "no weights", ("1",), False),
            ModelState("never", "UNAVAILABLE", "not loaded", (), False),
            ModelState("old", "READY", "", ("3",), False),
            ModelState("out", "UNLOADING", "unloaded", (), False),
        )

    @pytest.mark.parametrize("body", [b"", b"{}x", b"7", b'["a"]', b'[{"version":"1"}]', b"\xff\xfe"])
    def test_anything_else_is_no_index(self, body: bytes) -> None:
        assert read_index(body, ["m"]) is None
