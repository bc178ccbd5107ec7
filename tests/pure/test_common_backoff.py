"""Back-off, exit statuses, and the guarded tasks of a daemon."""

from __future__ import annotations

import asyncio

import pytest

from tarn_common.backoff import Backoff
from tarn_common.exits import Exit, by_status
from tarn_common.tasks import TaskEnded, TaskGroup


class TestBackoff:
    def test_grows_to_its_limit(self) -> None:
        backoff = Backoff(first_s=0.5, limit_s=3.0, factor=2.0, jitter=0.0)
        assert [backoff.delay_s(failures) for failures in range(6)] == [0.0, 0.5, 1.0, 2.0, 3.0, 3.0]

    @pytest.mark.parametrize(("uniform", "delay"), [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0)])
    def test_jitter_is_its_share(self, uniform: float, delay: float) -> None:
        assert Backoff(first_s=2.0, jitter=0.5).delay_s(1, uniform) == delay

    def test_a_million_failures_are_no_overflow(self) -> None:
        assert Backoff(jitter=0.0).delay_s(1_000_000) == 30.0


class TestExits:
    def test_all_lie_where_yarn_takes_none_for_its_own(self) -> None:
        assert all(100 <= status <= 119 for status in Exit)
        assert len({status.meaning for status in Exit}) == len(Exit)

    def test_ordered_ends_are_no_failures(self) -> None:
        assert {status for status in Exit if not status.is_failure} == {Exit.DRAINED, Exit.ORDERED, Exit.TERMINATED}

    def test_foreign_statuses_are_none_of_ours(self) -> None:
        assert (by_status(100), by_status(0), by_status(137)) == (Exit.DRAINED, None, None)


async def _forever() -> None:
    await asyncio.Event().wait()


async def _end() -> None:
    return


async def _fail() -> None:
    raise ValueError("the cause")


class TestTaskGroup:
    async def test_a_watched_task_that_ends_ends_the_daemon(self) -> None:
        tasks = TaskGroup()
        tasks.watch("forever", _forever())
        tasks.watch("short", _end())
        with pytest.raises(TaskEnded, match="task short ended"):
            await tasks.wait()
        await tasks.close()

    async def test_a_job_may_end_but_not_fail(self) -> None:
        tasks = TaskGroup()
        tasks.spawn("short", _end())
        waiting = asyncio.ensure_future(tasks.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        tasks.spawn("bad", _fail())
        with pytest.raises(TaskEnded, match="task bad ended: the cause") as ended:
            await waiting
        assert isinstance(ended.value.__cause__, ValueError)
        await tasks.close()

    async def test_closing_ends_all_and_is_no_failure(self) -> None:
        tasks = TaskGroup()
        task = tasks.watch("forever", _forever())
        await asyncio.sleep(0)
        await tasks.close()
        assert task.cancelled()
