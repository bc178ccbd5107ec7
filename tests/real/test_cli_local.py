"""`tarn local` as a process, with no instances wanted: how it begins, what it leaves for the other verbs, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tarn_am.cli.outcome import Outcome
from tests.rigs import command
from tests.rigs.command import Ran, tarn
from tests.rigs.secrets import planted
from tests.rigs.wait import eventually

pytestmark = pytest.mark.real


@dataclass
class Locals:
    """Starts `tarn local` in this home, without instances; what still runs at the end of a test is killed."""

    home: Path
    started: list[asyncio.subprocess.Process] = field(default_factory=list)

    @property
    def state_dir(self) -> Path:
        return self.home / ".local" / "state" / "tarn" / "tarn"

    async def start(self, *arguments: str, **environ: str) -> asyncio.subprocess.Process:
        models = self.home / "models"
        models.mkdir(exist_ok=True)
        options = ("local", "--model-repository", str(models), "--min-instances", "0", "--am-port", "0", *arguments)
        process = await command.start(options, command.environment(self.home, **environ))
        self.started.append(process)
        return process

    async def up(self, *arguments: str, **environ: str) -> tuple[asyncio.subprocess.Process, list[str]]:
        """Started, and has said everything up to how it is ended; with its lines so far."""
        process = await self.start(*arguments, **environ)
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or "Ctrl-C" not in lines[-1]:
            line = await asyncio.wait_for(process.stdout.readline(), 60)
            if not line:
                raise AssertionError(f"it ended: {lines} {await command.ended(process)}")
            lines.append(line.decode().rstrip())
        return process, lines


def contents(directory: Path) -> dict[Path, tuple[bytes, int]]:
    """Of every file, what it holds and which one it is."""
    return {path: (path.read_bytes(), path.stat().st_ino) for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
async def locals_(tmp_path: Path) -> AsyncIterator[Locals]:
    found = Locals(tmp_path)
    yield found
    for process in found.started:
        if process.returncode is None:
            process.kill()
            await process.wait()


class TestWhatAContainerCouldNotBeTold:
    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (("--state-dir", "{home}/my state"), "--state-dir='{home}/my state' cannot be used: it holds ' '"),
            (("--model-repository", "{home}/my models"), "--model-repository='{home}/my models': it holds ' '"),
            (("--model-repository", "s3://bucket/models"), "--model-repository='s3://bucket/models': it cannot be staged: give hdfs://"),
            (("--zk-path", "/été"), "--zk-path='/été': it holds 'é'"),
        ],
    )
    async def test_is_refused_by_its_flag_and_leaves_nothing(self, locals_: Locals, arguments: tuple[str, ...], told: str) -> None:
        home = str(locals_.home)
        ran = await command.ended(await locals_.start(*(text.replace("{home}", home) for text in arguments)))
        assert ran.status == Outcome.USAGE
        assert told.replace("{home}", home) in ran.err
        assert [path.name for path in locals_.home.iterdir()] == ["models"]


class TestItBegins:
    async def test_says_where_it_is_and_the_verbs_find_it(self, locals_: Locals) -> None:
        _, lines = await locals_.up()
        assert lines[0] == f"tarn local: 0 to 10 instances of {locals_.home}/models; state and logs in {locals_.state_dir}"
        url = lines[1].split()[1]
        assert url.startswith("http://127.0.0.1:")
        status = json.loads((await tarn(locals_.home, "status", "--json")).out)
        assert status["counts"]["wanted"] == 0

    async def test_the_api_is_never_open(self, locals_: Locals) -> None:
        _, lines = await locals_.up()
        url = lines[1].split()[1].removesuffix("/dashboard")
        assert (await tarn(locals_.home, "--am", url, "status")).status == Outcome.UNAUTHORISED
        assert stat.S_IMODE((locals_.state_dir / "token").stat().st_mode) == 0o600

    async def test_unless_that_is_asked_for(self, locals_: Locals) -> None:
        _, lines = await locals_.up("--no-token")
        url = lines[1].split()[1].removesuffix("/dashboard")
        assert (await tarn(locals_.home, "--am", url, "status")).status == Outcome.OK

    async def test_a_token_of_the_users_own(self, locals_: Locals) -> None:
        file = locals_.home / "mine"
        file.touch(0o600)
        file.write_text(planted("own-token"))
        _, lines = await locals_.up("--token-file", str(file))
        url = lines[1].split()[1].removesuffix("/dashboard")
        assert (await tarn(locals_.home, "--am", url, "--token-file", str(file), "status")).status == Outcome.OK
        assert (await tarn(locals_.home, "--token-file", str(file), "status")).status == Outcome.OK

    async def test_the_log_is_json_in_the_state_directory(self, locals_: Locals) -> None:
        process, _ = await locals_.up()
        lines = (locals_.state_dir / "logs" / "am.log").read_text().splitlines()
        assert all(json.loads(line)["application"].startswith("application_") for line in lines)
        assert process.stderr is not None
        process.send_signal(signal.SIGTERM)
        assert (await command.ended(process)).err == ""


class TestItEnds:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    async def test_at_a_signal_in_order(self, locals_: Locals, number: signal.Signals) -> None:
        process, _ = await locals_.up()
        process.send_signal(number)
        ran = await command.ended(process)
        assert (ran.status, ran.err) == (Outcome.OK, "")
        assert ran.out.splitlines()[-1] == "tarn local: everything has ended"
        assert not (locals_.state_dir / "am.json").exists()

    async def test_at_tarn_stop(self, locals_: Locals) -> None:
        process, _ = await locals_.up()
        stopped, ended = await asyncio.gather(tarn(locals_.home, "stop"), command.ended(process))
        assert (stopped.status, stopped.out, ended.status) == (Outcome.OK, "the application has ended\n", Outcome.OK)


class TestOnlyOneAtATime:
    async def test_a_second_one_names_the_first(self, locals_: Locals) -> None:
        process, _ = await locals_.up()
        ran = await command.ended(await locals_.start())
        assert ran.status == Outcome.FAILED
        line = ran.err.strip()
        assert "\n" not in line
        assert f"pid {process.pid}" in line
        assert str(locals_.state_dir) in line
        assert (await tarn(locals_.home, "status")).status == Outcome.OK

    @pytest.mark.parametrize("more", [("--token", "another"), ("--no-token",), ("--detach",)])
    async def test_a_refused_one_touches_nothing(self, locals_: Locals, more: tuple[str, ...]) -> None:
        await locals_.up()
        before = contents(locals_.state_dir)
        assert (await command.ended(await locals_.start(*more))).status == Outcome.FAILED
        assert contents(locals_.state_dir) == before
        assert (await tarn(locals_.home, "status")).status == Outcome.OK

    async def test_a_second_application_has_its_own_name(self, locals_: Locals) -> None:
        await locals_.up()
        await locals_.up("--name", "second")
        ids = [
            json.loads((await tarn(locals_.home, "status", "--json", *more)).out)["application_id"] for more in ((), ("--name", "second"))
        ]
        assert ids[0] != ids[1]

    @pytest.mark.parametrize("flag", ["--port", "--grpc-port", "--metrics-port"])
    async def test_a_fixed_port_for_several_instances_is_refused(self, locals_: Locals, flag: str) -> None:
        ran = await command.ended(await locals_.start(flag, "8000"))
        assert ran.status == Outcome.USAGE
        assert "add --max-instances 1" in ran.err
        await locals_.up(flag, "8000", "--max-instances", "1")

    async def test_a_port_that_is_taken_is_one_line_with_the_fix(self, locals_: Locals) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            ran: Ran = await command.ended(await locals_.start("--am-port", str(port)))
        assert ran.status == Outcome.FAILED
        assert "\n" not in ran.err.strip()
        assert str(port) in ran.err
        assert "--am-port" in ran.err


class TestAfterItWasKilled:
    async def test_the_verbs_say_so_and_the_next_one_takes_over(self, locals_: Locals) -> None:
        process, _ = await locals_.up()
        before = json.loads((await tarn(locals_.home, "status", "--json")).out)["application_id"]
        process.kill()
        await process.wait()
        gone = await tarn(locals_.home, "status")
        assert gone.status == Outcome.UNREACHABLE
        assert "takes over what still runs" in gone.err
        _, lines = await locals_.up()
        assert "an Application Master died here; this one takes over what still runs" in lines
        after = json.loads((await tarn(locals_.home, "status", "--json")).out)
        assert after["application_id"] == before


class TestTheToken:
    async def test_on_the_command_line_is_warned_of_and_works(self, locals_: Locals) -> None:
        token = planted("argument-token")
        process, _ = await locals_.up("--token", token)
        assert (await tarn(locals_.home, "status")).status == Outcome.OK
        process.send_signal(signal.SIGTERM)
        ran = await command.ended(process)
        assert ran.err.startswith("tarn: --token shows the token to everyone")
        assert token not in ran.out + ran.err

    async def test_made_here_is_in_no_command_line_environment_or_log(self, locals_: Locals) -> None:
        process, lines = await locals_.up()
        token = (locals_.state_dir / "token").read_text().strip()
        found = psutil.Process(process.pid)
        assert token not in " ".join([*found.cmdline(), *found.environ().values(), *lines])
        assert token not in (locals_.state_dir / "logs" / "am.log").read_text()

    async def test_is_in_a_file_for_curl_and_not_on_its_command_line(self, locals_: Locals) -> None:
        _, lines = await locals_.up()
        (line,) = (line for line in lines if "  instances: " in line)
        program, *arguments = shlex.split(line.partition("instances: ")[2])
        curl = await asyncio.create_subprocess_exec(program, "-sf", *arguments, stdout=asyncio.subprocess.PIPE)
        assert (await curl.communicate())[0] == b""
        assert curl.returncode == 0
        assert (locals_.state_dir / "token").read_text().strip() not in line

    async def test_and_nothing_else_may_be_read_by_others(self, locals_: Locals) -> None:
        before = os.umask(0)
        try:
            await locals_.up()
        finally:
            os.umask(before)
        assert {stat.S_IMODE(path.stat().st_mode) for path in locals_.state_dir.rglob("*") if path.is_file()} == {0o600}


class TestInTheBackground:
    async def test_what_lies_in_the_current_directory_is_not_run(self, locals_: Locals) -> None:
        (locals_.home / "click.py").write_text("raise SystemExit('somebody else was run')")
        process = await asyncio.create_subprocess_exec(
            str(command.TARN),
            "local",
            "--detach",
            "--model-repository",
            "/models",
            "--min-instances",
            "0",
            "--am-port",
            "0",
            env=command.environment(locals_.home),
            cwd=locals_.home,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        ran = await command.ended(process)
        assert (ran.status, ran.err) == (Outcome.OK, "")
        assert (await tarn(locals_.home, "stop")).status == Outcome.OK

    @pytest.mark.parametrize("directory", ["/proc/x", "/etc/passwd", "/tmp/" + "x" * 300])
    async def test_a_directory_that_cannot_be_is_one_line(self, locals_: Locals, directory: str) -> None:
        ran = await command.ended(await locals_.start("--detach", "--state-dir", directory))
        assert (ran.status, len(ran.err.splitlines())) == (Outcome.FAILED, 1)
        assert ran.err.startswith(f"tarn local: the state directory {directory} cannot be used")

    async def test_it_returns_when_it_answers_and_tarn_stop_ends_it(self, locals_: Locals) -> None:
        ran = await command.ended(await locals_.start("--detach"))
        assert (ran.status, ran.err) == (Outcome.OK, "")
        pid = int(ran.out.partition("(pid ")[2].partition(")")[0])
        assert psutil.pid_exists(pid)
        assert (await tarn(locals_.home, "stop")).status == Outcome.OK
        await eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "its end")

    async def test_a_start_that_fails_is_one_line_too(self, locals_: Locals) -> None:
        first, _ = await locals_.up()
        ran = await command.ended(await locals_.start("--detach"))
        assert (ran.status, len(ran.err.splitlines())) == (Outcome.FAILED, 1)
        assert f"pid {first.pid}" in ran.err
