"""Settings: where values come from, what is refused, and the words of the refusals."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from enum import Enum

import pytest

from tarn_agent.settings import AgentSettings
from tarn_common.settings import SettingsError, load, redacted, setting


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


def _no_blank(text: str) -> None:
    if " " in text:
        raise ValueError("it holds a blank")


@dataclass(frozen=True)
class Sample:
    needed: str = setting(doc="something needed", env="T_NEEDED", check=_no_blank)
    count: int = setting(3, doc="how many", env="T_COUNT", low=1, high=9)
    pause_s: float = setting(1.5, doc="a pause", env="T_PAUSE_S", unit="s", low=0)
    on: bool = setting(False, doc="a switch", env="T_ON")
    names: tuple[str, ...] = setting((), doc="names", env="T_NAMES")
    colour: Colour = setting(Colour.RED, doc="a colour", env="T_COLOUR")
    limit: int | None = setting(None, doc="a limit", env="T_LIMIT")
    password: str = setting("", doc="a secret", env="T_PASSWORD", secret=True)


class TestWhereValuesComeFrom:
    def test_flags_then_environment_then_defaults(self) -> None:
        found = load(Sample, {"T_NEEDED": "x", "T_COUNT": "5", "T_PAUSE_S": "2"}, {"count": 7, "pause_s": None})
        assert (found.count, found.pause_s, found.on) == (7, 2.0, False)

    def test_an_empty_variable_is_not_set(self) -> None:
        assert load(Sample, {"T_NEEDED": "x", "T_COUNT": ""}).count == 3

    @pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("YES", True), ("off", False), (" no ", False)])
    def test_switches(self, text: str, value: bool) -> None:
        assert load(Sample, {"T_NEEDED": "x", "T_ON": text}).on is value

    def test_lists_enums_and_what_may_be_none(self) -> None:
        found = load(Sample, {"T_NEEDED": "x", "T_NAMES": "a, b,,c", "T_COLOUR": "blue", "T_LIMIT": "4"})
        assert (found.names, found.colour, found.limit) == (("a", "b", "c"), Colour.BLUE, 4)


class TestLists:
    def test_one_that_is_given_is_taken_word_for_word(self) -> None:
        given = ("A= two, words ", "", " B=")
        assert load(Sample, {"T_NEEDED": "x"}, {"names": given}).names == given

    def test_a_text_may_be_a_json_list(self) -> None:
        assert load(Sample, {"T_NEEDED": "x", "T_NAMES": '["A=1,2 ", "B=\\u00e4"]'}).names == ("A=1,2 ", "B=ä")

    @pytest.mark.parametrize("text", ["[A=secret", '["A=secret", 1]', '["A=secret"] x'])
    def test_one_that_is_none_is_named_and_not_shown(self, text: str) -> None:
        with pytest.raises(SettingsError, match=r"T_NAMES begins with '\[' and is not a JSON list") as refusal:
            load(Sample, {"T_NEEDED": "x", "T_NAMES": text})
        assert "secret" not in str(refusal.value)


class TestRefusals:
    @pytest.mark.parametrize(
        ("environ", "words"),
        [
            ({}, "T_NEEDED is not set: something needed"),
            ({"T_NEEDED": "a b"}, "T_NEEDED='a b': it holds a blank"),
            ({"T_COUNT": "many"}, "T_COUNT='many' is not a whole number"),
            ({"T_COUNT": "10"}, "T_COUNT=10 is out of range: give a value between 1 and 9"),
            ({"T_PAUSE_S": "-1"}, "T_PAUSE_S=-1.0 is out of range: give a value at least 0 s"),
            ({"T_PAUSE_S": "nan"}, "T_PAUSE_S=nan is out of range"),
            ({"T_ON": "perhaps"}, "T_ON='perhaps' is not true or false"),
            ({"T_COLOUR": "green"}, "T_COLOUR='green' is not one of red, blue"),
        ],
    )
    def test_name_the_variable_the_value_and_the_fix(self, environ: dict[str, str], words: str) -> None:
        full = environ if "T_NEEDED" in environ or not environ else {"T_NEEDED": "x", **environ}
        with pytest.raises(SettingsError) as refusal:
            load(Sample, full)
        assert words in str(refusal.value)

    def test_name_the_flag_where_it_was_one(self) -> None:
        with pytest.raises(SettingsError, match="--count=99"):
            load(Sample, {"T_NEEDED": "x"}, {"count": 99})


def test_secrets_are_blanked() -> None:
    shown = redacted(load(Sample, {"T_NEEDED": "x", "T_PASSWORD": "hidden", "T_COLOUR": "blue"}))
    assert (shown["password"], shown["colour"], shown["needed"]) == ("(set)", "blue", "x")


NEEDED = {
    "CONTAINER_ID": "container_1700000000000_0001_01_000002",
    "TARN_APPLICATION_ID": "application_1700000000000_0001",
    "HADOOP_TOKEN_FILE_LOCATION": "/t",
    "TARN_LOG_DIR": "/l",
    "TARN_RUN_DIR": "/r",
    "TARN_DATA_DIR": "/d",
    "TARN_MODEL_REPOSITORY": "/m",
}


def packed(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


class TestAgentSettings:
    def test_what_travels_packed_comes_out_as_it_was(self) -> None:
        environ = {"A": 'quotes " and $(commands)', "B": "ä"}
        more = {"TARN_TRITON_ARGS": packed(["--log-verbose=1", "a b"]), "TARN_USER_ENV": packed(environ)}
        found = load(AgentSettings, {**NEEDED, **more})
        assert (found.triton_arguments, found.user_environment) == (("--log-verbose=1", "a b"), environ)

    def test_without_them_there_are_none(self) -> None:
        found = load(AgentSettings, NEEDED)
        assert (found.triton_arguments, found.user_environment, found.announced_host) == ((), {}, "localhost")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("TARN_TRITON_ARGS", "no base64!"),
            ("TARN_TRITON_ARGS", packed({"a": "b"})),
            ("TARN_TRITON_ARGS", packed([1])),
            ("TARN_USER_ENV", packed(["a"])),
            ("TARN_USER_ENV", packed({"a": 1})),
            ("TARN_ZK_ENSEMBLE", "zk1:port"),
            ("TARN_AM", "nowhere"),
            ("CONTAINER_ID", "container_1"),
            ("TARN_MODEL_FAILURE", "lenient"),
            ("TARN_ZK_AUTH", "kerberos"),
            ("TARN_DATA_DIR", "/my data"),
            ("TARN_TRITON_BACKENDS", "/b$(id)"),
        ],
    )
    def test_a_value_that_is_none_is_named(self, name: str, value: str) -> None:
        with pytest.raises(SettingsError, match=name):
            load(AgentSettings, {**NEEDED, name: value})
