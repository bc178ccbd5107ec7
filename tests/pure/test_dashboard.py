"""The page as text: what it says, that nothing on it is markup of somebody else's, and that it needs nobody else."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tarn_am.api.dashboard import figures, page
from tarn_am.api.dashboard.markup import join, tag, text
from tarn_am.core.model import DrainOrder, Happening, Instance, ModelSample, ModelState, Phase
from tests.rigs.fake_fleet import STARTED_AT, container, fleet_view, gpu, large_view, ready, sample, staging

NOW = STARTED_AT + 100
VOID = {"meta", "link", "input"}


class Read(HTMLParser):
    """The document's tags with their attributes, its text, and whether every tag was closed."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(document)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def addresses(self) -> list[str]:
        return [value for _, attrs in self.tags for key, value in attrs.items() if key in ("href", "src", "action") and value]


EVIL = "<script>alert('&\"')</script>\x1b[31m\u202e"


def everything() -> Read:
    order = DrainOrder(NOW - 3, NOW + 117, 3, EVIL)
    odd = sample(gpus=(gpu(uuid=EVIL, name=EVIL),), models=(ModelSample(EVIL, EVIL, math.nan),), gpus_unknown_reason=EVIL)
    models = (ModelState(EVIL, EVIL, EVIL, (EVIL,)),)
    instances = [
        ready(number, phase=phase, node=EVIL, reason=EVIL, sample=odd, models=models, drain=order, silent_since=NOW - 3, connected=False)
        for number, phase in enumerate(Phase, 1)
    ]
    return Read(
        page.dashboard(
            fleet_view(
                *instances, staging(50), Instance(EVIL, Phase.REQUESTED, NOW, NOW),
                halted=EVIL, verdict=EVIL, incarnation=EVIL, happenings=(Happening(NOW, EVIL, None, EVIL),),
                ended=(ready(60, phase=Phase.FAILED, reason=EVIL, exit_status=104), ready(61, phase=Phase.STOPPED, exit_status=-9)),
            ),
            NOW, signed_in=True,
        )
    )  # fmt: skip


class TestTextFromElsewhere:
    def test_is_never_markup(self) -> None:
        read = everything()
        assert [attrs.get("src") for name, attrs in read.tags if name == "script"] == ["dashboard/refresh.js"]
        assert "<script>alert(" in read.text

    def test_has_no_control_characters(self) -> None:
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", everything().text)

    def test_is_escaped_in_attributes_too(self) -> None:
        assert tag("a", '<"&>', title='"><x', href=None, hidden=True) == '<a title="&quot;&gt;&lt;x" hidden>&lt;&quot;&amp;&gt;</a>'
        assert join("<", tag("b", "<")) == "&lt;<b>&lt;</b>"
        assert text(None) == ""


class TestThePageNeedsNobodyElse:
    def test_every_address_is_relative(self) -> None:
        for address in everything().addresses() + Read(page.login("no")).addresses():
            assert not re.match(r"/|[a-z]+:", address), address

    def test_has_no_style_or_script_in_itself(self) -> None:
        for name, attrs in everything().tags:
            assert name != "style"
            assert not [key for key in attrs if key == "style" or key.startswith("on")]

    def test_reloads_itself_without_a_script(self) -> None:
        assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page.dashboard(fleet_view(), NOW)
        assert "refresh" not in page.login("")


class TestWhatThePageSays:
    def test_target_running_phase_age_models_gpus_and_load(self) -> None:
        told = Read(page.dashboard(fleet_view(ready(1), staging(2), wanted=3), NOW)).text
        for part in (
            "DEGRADED", "1 of 3 instances ready", "target 3", "running 2", "READY", "1 min", container(1), "node1", "127.0.0.1:20001",
            "identity", "50 %", "40.0 GiB of 80.0 GiB", "1.5 in flight", "12.5 req/s", "STAGING", "75 %", "3.0 GiB of 4.0 GiB", "4 s left",
            "the first instance is READY", "nothing to do",
        ):  # fmt: skip
            assert part in told, part

    def test_the_worst_instance_stands_first(self) -> None:
        hung = ready(2, phase=Phase.UNREADY, reason="no answer for 12 s")
        told = page.dashboard(fleet_view(ready(1), ready(3), hung), NOW).partition("Instances, worst first")[2]
        assert told.index(container(2)) < told.index(container(1)) < told.index(container(3))

    def test_a_halt_is_loud(self) -> None:
        document = page.dashboard(fleet_view(wanted=1, halted="5 instances failed in a row: no space left"), NOW)
        read = Read(document)
        assert ("p", {"class": "halted", "role": "alert"}) in read.tags
        assert read.text.count("5 instances failed in a row") == 1
        assert "NOT SERVING" in read.text

    def test_unknown_gpus_are_unknown(self) -> None:
        told = Read(page.dashboard(fleet_view(ready(1, sample=sample(gpus=(), gpus_known=False))), NOW)).text
        assert "unknown" in told
        assert "0 %" not in told.partition("Instances, worst first")[2]

    def test_an_old_report_is_no_load(self) -> None:
        assert "no fresh report" in page.dashboard(fleet_view(ready(1, sample=sample(at=NOW - 60))), NOW)

    def test_a_view_that_is_old_is_unknown(self) -> None:
        assert "UNKNOWN" in page.dashboard(fleet_view(ready(1)), NOW + 60)

    def test_the_title_says_how_many_things_to_look_at(self) -> None:
        read = page.dashboard(fleet_view(ready(1, phase=Phase.UNREADY), ready(2)), NOW)
        assert "<title>◐ DEGRADED (1) · TARN application_1700000000000_0001</title>" in read

    def test_an_exit_status_has_its_meaning(self) -> None:
        failed = ready(1, phase=Phase.FAILED, exit_status=104)
        assert "exit status 104: the model repository could not be staged" in page.dashboard(fleet_view(ended=(failed,)), NOW)

    def test_a_thousand_instances_are_a_page_that_can_be_read(self) -> None:
        view = large_view(1000)
        bad = replace(view.instances[700], phase=Phase.UNREADY)
        document = page.dashboard(replace(view, instances=(*view.instances, bad)), NOW)
        assert len(document) < 500_000
        assert "and 801 more" in document
        assert str(bad.container_id) in document


class TestFigures:
    @pytest.mark.parametrize(
        ("seconds", "words"),
        [(0, "0 s"), (-5, "0 s"), (59.9, "59 s"), (60, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (3660, "1 h 1 min"), (90061, "1 d 1 h")],
    )
    def test_age(self, seconds: float, words: str) -> None:
        assert figures.age(seconds) == words

    @pytest.mark.parametrize(
        ("count", "words"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (250 << 20, "250 MiB"), (1 << 50, "1024 TiB")]
    )
    def test_size(self, count: float, words: str) -> None:
        assert figures.size(count) == words

    @pytest.mark.parametrize(("number", "words"), [(0, "0"), (0.042, "0.04"), (3.14, "3.1"), (412.4, "412"), (12345, "12.3 k")])
    def test_number(self, number: float, words: str) -> None:
        assert figures.number(number) == words

    @pytest.mark.parametrize("unknown", [None, math.nan, math.inf])
    def test_unknown_is_a_dash(self, unknown: float | None) -> None:
        for words in (figures.age, figures.size, figures.number, figures.percent, figures.milliseconds):
            assert words(unknown).startswith("–")

    def test_a_moment_beyond_the_calendar_is_unknown(self) -> None:
        assert figures.moment(1e20) == "–"
        assert figures.moment(0) == "1970-01-01T00:00:00Z"
