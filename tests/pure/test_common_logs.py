"""Logs: one JSON object a line, ids on each, and no secret in any form that a line can take."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from tarn_common import logs
from tarn_common.logs import Secrets

SECRET = "hidden-in-this-test"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Logging as a daemon has it, taken back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.secrets.add([SECRET])
    out = io.StringIO()
    logs.configure("INFO", out, container_id="container_1")
    yield out
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class TestLine:
    def test_is_json_with_ids_level_and_time(self, stream: io.StringIO) -> None:
        structlog.get_logger("here").info("phase", phase="READY", count=3)
        line = lines(stream)[0]
        assert (line["event"], line["phase"], line["count"], line["level"], line["container_id"]) == (
            "phase",
            "READY",
            3,
            "info",
            "container_1",
        )
        assert line["timestamp"]

    def test_of_the_standard_library_looks_the_same(self, stream: io.StringIO) -> None:
        logging.getLogger("a.library").warning("said %s", "something")
        line = lines(stream)[0]
        assert (line["event"], line["logger"], line["container_id"]) == ("said something", "a.library", "container_1")

    def test_below_the_level_is_not_written(self, stream: io.StringIO) -> None:
        structlog.get_logger("here").debug("detail")
        assert stream.getvalue() == ""


class TestSecrets:
    def test_show_in_no_part_of_a_line(self, stream: io.StringIO) -> None:
        log = structlog.get_logger("here")
        log.info(
            f"event {SECRET}",
            text=f"Bearer {SECRET}",
            nested={"a": [SECRET, {"b": SECRET}]},
            data=SECRET.encode(),
            error=ValueError(SECRET),
        )
        logging.getLogger("a.library").warning("with %s", SECRET)
        try:
            raise ValueError(f"cannot use {SECRET}")
        except ValueError:
            log.exception("failed")
        assert SECRET not in stream.getvalue()
        assert stream.getvalue().count("(hidden)") >= 8

    def test_that_are_too_short_to_tell_from_words_are_left(self) -> None:
        secrets = Secrets()
        secrets.add(["on", ""])
        assert secrets.hide("turned on") == "turned on"

    def test_what_is_no_text_stays_what_it_is(self) -> None:
        assert Secrets().hide([1, 2.5, True, None]) == [1, 2.5, True, None]
