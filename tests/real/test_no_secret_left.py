"""The last test of a run: searches every file that the run wrote for the secrets that its tests planted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.rigs.secrets import leaks

pytestmark = pytest.mark.real


class TestNoSecretIsLeft:
    def test_in_any_file_of_this_run(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        root = Path(os.environ["TARN_PLANTED"]).parent if "TARN_PLANTED" in os.environ else tmp_path_factory.getbasetemp()
        assert leaks(root) == []
