"""Structured logs: one JSON object a line in files, columns on a terminal; ids on every line; no secret ever."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, MutableMapping
from typing import Any, TextIO

import structlog

_HIDDEN = "(hidden)"


class Secrets:
    """The secret texts that this process knows. Whatever is about to be logged is searched for them."""

    def __init__(self) -> None:
        self._texts: set[str] = set()

    def add(self, texts: Iterable[str]) -> None:
        self._texts.update(text for text in texts if len(text) >= 6)

    def hide(self, value: Any) -> Any:
        if isinstance(value, str):
            for text in self._texts:
                value = value.replace(text, _HIDDEN)
            return value
        if isinstance(value, bytes):
            return self.hide(value.decode(errors="replace"))
        if isinstance(value, dict):
            return {key: self.hide(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide(item) for item in value]
        return value if value is None or isinstance(value, bool | int | float) else self.hide(str(value))

    def __call__(self, _logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {key: self.hide(value) for key, value in event.items()}


secrets = Secrets()


def configure(level: str = "INFO", stream: TextIO | None = None, json: bool | None = None, **ids: str) -> None:
    """Sets the process's logging up, the standard library's included; `ids` stand on every line. `json` None: unless a terminal reads."""
    stream = stream or sys.stderr
    as_json = not stream.isatty() if json is None else json
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        lambda _l, _n, event: {**ids, **event},
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    tail: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if as_json:
        tail += [structlog.processors.format_exc_info, secrets, structlog.processors.JSONRenderer(default=str)]
    else:
        tail += [secrets, structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=tail, foreign_pre_chain=shared))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("kazoo", "urllib3", "hdfs", "aiohttp.access", "asyncio", "grpc"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
