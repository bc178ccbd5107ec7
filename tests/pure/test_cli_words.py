"""The small parts of the `tarn` command: tables, ages, addresses of the AM, tokens, options from settings, example requests."""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tarn_am.cli import example, find, options, render
from tarn_am.cli.client import clean
from tarn_am.cli.find import Where
from tarn_am.cli.main import _VERBS, group
from tarn_am.cli.outcome import CommandError, Outcome, table
from tarn_am.settings import AmSettings
from tarn_common.endpoint import HostPort, Rendezvous
from tarn_common.settings import SettingsError, about, setting


class TestATable:
    def test_has_columns_as_wide_as_their_widest_cell(self) -> None:
        assert render.table(("A", "LONG"), [("abc", "x"), ("d", "yz")]) == "A    LONG\nabc  x\nd    yz"

    def test_without_rows_is_its_headings(self) -> None:
        assert render.table(("A", "B"), []) == "A  B"

    def test_keeps_a_row_on_its_line(self) -> None:
        assert len(render.table(("A", "B"), [("a\nb", "c\x1b[2J\r\t")]).splitlines()) == 2


class TestWords:
    @pytest.mark.parametrize(
        ("seconds", "text"), [(-1, "0.0 s"), (0.44, "0.4 s"), (12, "12 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d")]
    )
    def test_for_a_duration(self, seconds: float, text: str) -> None:
        assert render.age(seconds) == text

    @pytest.mark.parametrize(
        ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (3 << 50, "3072.0 TiB")]
    )
    def test_for_a_size(self, count: int, text: str) -> None:
        assert render.size(count) == text

    def test_control_characters_are_taken_out(self) -> None:
        assert clean("a\x1b]0;x\x07b\x00c\x9bd\te") == "a]0;xbcd\te"


class TestProgress:
    def test_that_no_terminal_shows_is_one_line_in_two_seconds(self) -> None:
        out = io.StringIO()
        progress = render.Progress(out)
        for percent in range(100):
            progress.show(f"{percent} %")
        progress.say("done")
        assert out.getvalue() == "0 %\ndone\n"


class TestColours:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def test_are_for_terminals_that_want_them(self) -> None:
        assert render.colourful(self.Terminal(), {"TERM": "xterm"})
        assert not render.colourful(self.Terminal(), {"TERM": "xterm", "NO_COLOR": "1"})
        assert not render.colourful(self.Terminal(), {"TERM": "dumb"})
        assert not render.colourful(io.StringIO(), {"TERM": "xterm"})


class TestTheStateDirectory:
    @pytest.mark.parametrize(
        ("environ", "directory"),
        [
            ({"TARN_HOME": "/t", "XDG_STATE_HOME": "/x"}, "/t/app"),
            ({"XDG_STATE_HOME": "/x"}, "/x/tarn/app"),
            ({}, str(Path("~/.local/state/tarn/app").expanduser())),
        ],
    )
    def test_is_of_the_application_of_that_name(self, environ: dict[str, str], directory: str) -> None:
        assert str(find.state_directory("app", "", environ)) == directory

    def test_that_is_given_counts_alone(self) -> None:
        assert str(find.state_directory("app", "/given", {"TARN_HOME": "/t"})) == "/given"

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/"])
    def test_cannot_be_led_elsewhere_by_the_name(self, name: str) -> None:
        with pytest.raises(SettingsError):
            find.state_directory(name, "", {})


class TestTheApplicationMasterIsFound:
    def record(self, directory: Path, token: str | None = "beside") -> Where:
        (directory / "am.json").write_bytes(Rendezvous(HostPort("127.0.0.1", 1), "http://127.0.0.1:7777/", "i").encode())
        if token is not None:
            (directory / "token").write_text(token + "\n")
        return Where(state_dir=str(directory))

    def test_by_its_record_with_the_token_beside_it(self, tmp_path: Path) -> None:
        client = find.am_client(self.record(tmp_path))
        assert (client.base, client.token) == ("http://127.0.0.1:7777", "beside")

    def test_with_a_given_token_instead(self, tmp_path: Path) -> None:
        assert find.am_client(self.record(tmp_path), "given").token == "given"

    def test_without_a_token_where_there_is_none(self, tmp_path: Path) -> None:
        assert find.am_client(self.record(tmp_path, token=None)).token is None

    @pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1]", b'{"agents": "x", "http": 1, "incarnation": 2}'])
    def test_not_by_a_record_that_is_torn(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "am.json").write_bytes(content)
        with pytest.raises(CommandError) as raised:
            find.am_client(Where(state_dir=str(tmp_path)))
        assert raised.value.outcome is Outcome.UNREACHABLE
        assert str(tmp_path / "am.json") in raised.value.line

    def test_the_token_never_shows_in_a_repr(self, tmp_path: Path) -> None:
        assert "beside" not in repr(find.am_client(self.record(tmp_path)))


@dataclass(frozen=True)
class Sample:
    """Settings with one field of each kind."""

    must: str = setting(doc="a text that must be given", env="SAMPLE_MUST")
    count: int = setting(3, doc="a number", env="SAMPLE_COUNT", low=0, high=9)
    wait_s: float = setting(1.5, doc="a duration", env="SAMPLE_WAIT_S", unit="s")
    models: tuple[str, ...] = setting((), doc="names", env="SAMPLE_MODELS")
    env: tuple[str, ...] = setting((), doc="pairs", env="SAMPLE_ENV")


class TestOptionsFromSettings:
    def run(self, *arguments: str) -> Sample:
        found: list[Sample] = []

        @click.command()
        @options.of_settings(Sample)
        def command(**given: object) -> None:
            found.append(options.load(Sample, given))

        result = CliRunner().invoke(command, arguments)
        if result.exception is not None:
            raise result.exception
        return found[0]

    def test_defaults_stand_where_nothing_is_given(self) -> None:
        assert self.run("--must", "x") == Sample("x")

    def test_names_are_split_at_commas_and_pairs_are_not(self) -> None:
        found = self.run("--must", "x", "--model", "a,b", "--models", "c", "--env", "K=1,2", "--env", "L=3")
        assert (found.models, found.env) == (("a", "b", "c"), ("K=1,2", "L=3"))

    def test_what_must_be_given_names_the_flag_and_the_variable(self) -> None:
        with pytest.raises(CommandError, match=r"--must is not given") as raised:
            self.run()
        assert "SAMPLE_MUST" in raised.value.line

    def test_a_value_out_of_range_names_flag_value_and_range(self) -> None:
        with pytest.raises(CommandError, match=r"--count=12 is out of range: give a value between 0 and 9"):
            self.run("--must", "x", "--count", "12")

    @pytest.mark.parametrize("cls", [AmSettings, Where])
    def test_every_setting_has_its_flag_and_shows_its_variable(self, cls: type) -> None:
        context = click.Context(group)
        parameters = [*group.params, *(p for verb in _VERBS for p in (group.get_command(context, verb) or group).params)]
        helps = {name: p.help or "" for p in parameters if isinstance(p, click.Option) for name in p.opts}
        for field in fields(cls):
            assert f"[{about(field).env}" in helps["--" + field.name.replace("_", "-")]


class TestExitCodes:
    def test_each_has_its_number_and_meaning_in_the_table(self) -> None:
        assert [(line.split()[0]) for line in table().splitlines()] == ["0", "1", "2", "3", "4", "5", "130"]


class TestAnExampleRequest:
    def test_has_ones_for_every_input(self) -> None:
        metadata = {"inputs": [{"name": "A", "datatype": "FP32", "shape": [-1, 3]}, {"name": "B", "datatype": "INT64", "shape": [2]}]}
        assert example.body(metadata) == {
            "inputs": [
                {"name": "A", "shape": [1, 3], "datatype": "FP32", "data": [1.0, 1.0, 1.0]},
                {"name": "B", "shape": [2], "datatype": "INT64", "data": [1, 1]},
            ]
        }

    @pytest.mark.parametrize(
        "one", [{"name": "A", "datatype": "FP32", "shape": [3, 224, 224]}, {"name": "A", "datatype": "BF16", "shape": [1]}]
    )
    def test_is_not_made_up_where_it_cannot_be_pasted(self, one: dict[str, object]) -> None:
        assert example.body({"inputs": [one]}) is None

    def test_of_a_model_that_says_nothing_is_none(self) -> None:
        assert example.body({}) is None
