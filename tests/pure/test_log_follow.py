"""A log's end and what is added to it, through everything that happens to a log file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tarn_agent.log_follow import Batch, tail
from tarn_common.wire.limits import MAX_LOG_LINE_CHARS, MAX_LOG_LINES_PER_MESSAGE


async def whole(path: Path, lines: int) -> list[str]:
    return [line async for batch in tail(path, lines, follow=False) for line in batch.lines]


class Follower:
    """Reads on, line by line."""

    def __init__(self, path: Path, lines: int) -> None:
        self._batches: AsyncIterator[Batch] = tail(path, lines, follow=True)
        self._kept: list[str] = []
        self.dropped = 0

    async def line(self) -> str:
        while not self._kept:
            batch = await asyncio.wait_for(self._batches.__anext__(), 60)
            self._kept += batch.lines
            self.dropped += batch.dropped
        return self._kept.pop(0)

    async def close(self) -> None:
        await self._batches.aclose()  # type: ignore[attr-defined]


class TestEnd:
    @pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 5_000])
    @pytest.mark.parametrize("ended", [True, False], ids=["whole", "a last line without end"])
    def test_so_many_lines_and_no_more(self, tmp_path: Path, count: int, ended: bool) -> None:
        lines = [f"line {number} " + "x" * (number % 300) for number in range(2_000)]
        path = tmp_path / "log"
        path.write_text("\n".join(lines) + ("\n" if ended else ""))
        assert asyncio.run(whole(path, count)) == (lines[-count:] if count else [])

    @pytest.mark.parametrize(("text", "lines"), [("", []), ("\n", [""]), ("a", ["a"]), ("a\n", ["a"]), ("\n\na\n", ["", "", "a"])])
    async def test_small_files(self, tmp_path: Path, text: str, lines: list[str]) -> None:
        path = tmp_path / "log"
        path.write_text(text)
        assert await whole(path, 10) == lines

    async def test_a_missing_one_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            await whole(tmp_path / "none", 5)

    async def test_a_long_line_is_cut_and_bad_bytes_are_no_matter(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        path.write_bytes(b"x" * 1_000_000 + b"\n\xff\xfe\n")
        found = await whole(path, 100)
        assert all(len(line) <= MAX_LOG_LINE_CHARS for line in found)
        assert found[-1] == "\ufffd\ufffd"

    async def test_a_batch_fits_a_message(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        lines = [str(number) for number in range(1_234)]
        path.write_text("\n".join(lines) + "\n")
        batches = [batch async for batch in tail(path, 5_000, follow=False)]
        assert all(len(batch.lines) <= MAX_LOG_LINES_PER_MESSAGE for batch in batches)
        assert [line for batch in batches for line in batch.lines] == lines


class TestFollowing:
    async def test_lines_come_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        path.write_text("old\nlast\n")
        follower = Follower(path, 1)
        assert await follower.line() == "last"
        with path.open("a") as file:
            for piece in ("ha", "lf\nnext", "\n"):
                file.write(piece)
                file.flush()
                await asyncio.sleep(0)
        assert [await follower.line(), await follower.line()] == ["half", "next"]
        await follower.close()

    async def test_a_rotation_loses_no_line(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        path.write_text("1\n")
        follower = Follower(path, 1)
        assert await follower.line() == "1"
        with path.open("a") as file:
            file.write("2\n")
        os.rename(path, tmp_path / "log.1")
        path.write_text("3\n")
        assert [await follower.line(), await follower.line()] == ["2", "3"]
        with path.open("a") as file:
            file.write("4\n")
        assert await follower.line() == "4"
        await follower.close()

    async def test_a_file_that_was_cut_is_read_from_its_beginning(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        path.write_text("a long first line\n")
        follower = Follower(path, 1)
        assert await follower.line() == "a long first line"
        path.write_text("new\n")
        assert await follower.line() == "new"
        await follower.close()

    async def test_a_file_that_is_away_for_a_moment_is_waited_for(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        path.write_text("1\n")
        follower = Follower(path, 1)
        assert await follower.line() == "1"
        path.unlink()
        nothing_yet = asyncio.ensure_future(follower.line())
        await asyncio.sleep(0.3)
        assert not nothing_yet.done()
        path.write_text("2\n")
        assert await nothing_yet == "2"
        await follower.close()

    async def test_one_who_falls_far_behind_is_told_how_much_is_missing(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        path.write_text("first\n")
        follower = Follower(path, 1)
        assert await follower.line() == "first"
        count = 1_000_000
        with path.open("a") as file:
            file.writelines(f"{number:09d}\n" for number in range(count))
        number = int(await follower.line())
        assert follower.dropped == number > 0
        await follower.close()
