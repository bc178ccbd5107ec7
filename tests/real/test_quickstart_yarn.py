"""scripts/quickstart --yarn as a newcomer runs it: a real Hadoop, the true archive, an answer of each node, and nothing left."""

from __future__ import annotations

import re

import pytest

from tests.real.test_quickstart import Quickstart, ended
from tests.real.test_quickstart import quickstart as quickstart

pytestmark = pytest.mark.real


class TestOnce:
    async def test_each_node_answers_and_nothing_is_left(self, quickstart: Quickstart) -> None:
        ran = await ended(await quickstart.start("--yarn", "--once"))
        assert ran.status == 0, ran.err
        assert sorted(re.findall(r"identity on node (\S+) answered \[1", ran.out)) == ["127.0.0.2", "127.0.0.3"]
        assert "drained, stopped, unregistered" in ran.out
        assert quickstart.running() == []
        assert list(quickstart.scratch.iterdir()) == []
