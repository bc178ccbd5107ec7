"""SETTINGS.md is printed from the settings' own fields: `scripts/settings > SETTINGS.md`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


class TestTheSettingsPage:
    def test_says_what_the_code_says(self) -> None:
        printed = subprocess.run([sys.executable, "scripts/settings.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert printed == (ROOT / "SETTINGS.md").read_text(), "stale: run .venv/bin/python scripts/settings.py > SETTINGS.md"
