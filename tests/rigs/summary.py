"""A pytest plugin of `scripts/test`: how many tests of each folder ran, how they ended, and how long they took."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import pytest


@dataclass
class _Folder:
    ran: int = 0
    failed: int = 0
    seconds: float = 0.0


_folders: dict[str, _Folder] = defaultdict(_Folder)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    folder = _folders[report.nodeid.rpartition("::")[0].split("::")[0].rpartition("/")[0]]
    folder.seconds += report.duration
    folder.ran += report.when == "call"
    folder.failed += report.outcome == "failed"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _folders:
        return
    terminalreporter.section("what ran")
    for name, folder in sorted(_folders.items()):
        failed = f", {folder.failed} failed" if folder.failed else ""
        terminalreporter.write_line(f"{name:<16} {folder.ran:>5} tests  {folder.seconds:>7.1f} s{failed}")
