"""The container's first process: whatever ends a container, its status and the last line of its stderr say what it was."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from tarn_agent.run_dir import RunDir
from tarn_agent.triton import SupervisedTriton
from tarn_common.exits import Exit
from tests.rigs.triton import Containers, container_environ, exists, launch, repository, supervised
from tests.rigs.wait import eventually

pytestmark = pytest.mark.real

NOBODY = 54321
DIES = (sys.executable, "-IS", "-c", "print('no luck today'); raise SystemExit(1)")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return repository(tmp_path / "models", "identity")


class TestTermFromOutside:
    async def test_ends_the_agent_and_the_container_with_143(self, containers: Containers, models: Path) -> None:
        container = await containers.start(models)
        await container.up()
        agent = container.agent_pid()
        assert agent is not None
        container.term()
        assert await container.status() == 143
        assert "terminated" in container.last_words
        assert not exists(agent)
        # For an Application Master that is not its parent.
        assert (container.run_dir / "exit-status").read_text().strip() == "143"

    async def test_is_heard_before_anything_is_up(self, containers: Containers, models: Path) -> None:
        container = await containers.start(models)
        init = psutil.Process(container.process.pid)
        await eventually(lambda: _handles(init, signal.SIGTERM), "a handler for TERM")
        container.term()
        assert await container.status() == 143


class TestAgentDiesAgainAndAgain:
    async def test_the_container_ends_and_says_what_the_agent_said_last(self, containers: Containers, models: Path) -> None:
        container = await containers.start(models, DIES)
        assert await container.status() == Exit.SUPERVISION
        assert "no luck today" in container.last_words


class TestAgentDiesOnce:
    async def test_supervisord_starts_another(self, containers: Containers, models: Path) -> None:
        container = await containers.start(models)
        await container.up()
        first = container.agent_pid()
        assert first is not None
        # Past the five seconds within which an end counts as a failed start.
        await eventually(lambda: "agent entered RUNNING" in container.log("supervisord"), "the agent counts as started")
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: container.agent_pid() not in (None, first), "another agent runs")


class TestOrderedEnd:
    async def test_the_status_that_the_agent_wrote_is_the_containers(self, containers: Containers, models: Path) -> None:
        container = await containers.start(models)
        await container.up()
        triton = supervised(container)
        triton.write_exit_status(Exit.DRAINED, "drained as the test ordered")
        triton.write_exit_status(Exit.INTERNAL, "an echo")
        await triton.shut_down_container()
        assert await container.status() == Exit.DRAINED
        assert container.last_words == "tarn: drained: drained as the test ordered"
        assert container.run_dir.is_dir()

    async def test_the_run_directory_goes_with_the_container_where_nobody_else_removes_it(
        self, containers: Containers, models: Path
    ) -> None:
        container = await containers.start_with({**containers.environ(models), "TARN_KEEP_RUN_DIR": "false"})
        await container.up()
        triton = supervised(container)
        triton.write_exit_status(Exit.DRAINED, "drained as the test ordered")
        await triton.shut_down_container()
        assert await container.status() == Exit.DRAINED
        assert container.last_words == "tarn: drained: drained as the test ordered"
        assert not container.run_dir.exists()

    async def test_an_agent_that_wrote_its_status_and_ended_has_ended_the_container(self, containers: Containers, models: Path) -> None:
        environ = containers.environ(models)
        run_dir = environ["TARN_RUN_DIR"]
        agent = (sys.executable, "-IS", "-c", f"open({run_dir!r} + '/exit-status', 'w').write('{int(Exit.REFUSED)}')")
        container = await containers.start_with(environ, agent)
        assert await container.status() == Exit.REFUSED
        assert Exit.REFUSED.meaning in container.last_words


class TestInitKilled:
    async def test_agent_and_triton_do_not_outlive_it(self, containers: Containers, models: Path) -> None:
        container = await containers.start(models)
        await container.up()
        triton = supervised(container)
        process = await triton.start(launch(container, triton, "identity"))
        await eventually(lambda: _live(triton), "Triton is live")
        family = psutil.Process(container.process.pid).children(recursive=True)
        assert process.pid in [one.pid for one in family]
        assert len(family) >= 3
        await triton.close()
        container.process.kill()
        await container.process.wait()
        await eventually(lambda: not any(exists(one.pid) for one in family), "nothing of it runs on")


class TestOrphans:
    async def test_are_adopted_and_reaped(self, containers: Containers, models: Path) -> None:
        script = "import os, signal, time; os.fork() and signal.pause(); os.fork() and os._exit(0); time.sleep(1)"
        container = await containers.start(models, (sys.executable, "-IS", "-c", script))
        await container.up()
        await eventually(lambda: len(container.children()) == 2, "the orphan is a child of init")
        await eventually(lambda: len(container.children()) == 1, "it was reaped")


class TestAwkwardNames:
    async def test_paths_may_hold_what_supervisord_takes_for_its_own(self, containers: Containers, tmp_path: Path) -> None:
        root = tmp_path / "100% of ;it, 'here' #1 $HOME %(here)s"
        models = repository(tmp_path / "models", "identity")
        run_dir = Path(containers.environ(models)["TARN_RUN_DIR"]) / "5% ;r"
        environ = container_environ(root, run_dir, {"PATH": os.environ["PATH"]}, models, TARN_DATA_DIR=str(tmp_path / "data"))
        script = "import sys, signal; print('said', sys.argv[1], flush=True); signal.pause()"
        container = await containers.start_with(environ, (sys.executable, "-c", script, "50% ;off 'now' #1"))
        await eventually(lambda: "said 50% ;off 'now' #1\n" in container.log("agent"), "the agent's log is where it should be")
        assert "spawned: 'agent'" in container.log("supervisord")
        triton = supervised(container)
        assert await triton.running() is None
        container.term()
        assert await container.status() == 143


class TestBareUser:
    async def test_no_home_no_name_no_path(self, containers: Containers, models: Path) -> None:
        environ = containers.environ(models)
        for name in ("HOME", "USER", "PATH", "TMPDIR"):
            environ.pop(name, None)
        environ["HOME"] = "/nonexistent"
        container = await containers.start_with(environ)
        await container.up()
        container.term()
        assert await container.status() == 143

    async def test_a_uid_that_nobody_knows(self, models: Path, run_dir: Path) -> None:
        """As YARN runs a container: by a number that the image's passwd does not have. Where the tests may not change theirs, it stays."""
        environ = container_environ(run_dir / "c", run_dir / "r", {}, models)
        # Its own Python may be out of that user's reach, so all is imported first, and the agent is a shell.
        code = (
            "import os; from tarn_agent import container, init\n"
            f"if os.geteuid() == 0: [os.chown(at, {NOBODY}, {NOBODY}) for at in {[str(run_dir), *map(str, run_dir.rglob('*'))]!r}]\n"
            f"if os.geteuid() == 0: os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
            "init.main(['/bin/sh', '-c', 'id -u; while :; do sleep 1; done'])"
        )
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, env=environ, cwd="/")
        try:
            uid = NOBODY if os.geteuid() == 0 else os.geteuid()
            log = run_dir / "c" / "logs" / "agent.log"
            await eventually(lambda: log.exists() and log.read_text() == f"{uid}\n", "the agent runs as that user")
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 60) == 143
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


class TestWrongSettings:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"CONTAINER_ID": "nonsense"}, "CONTAINER_ID='nonsense'"),
            ({"TARN_RUN_DIR": "/proc/nowhere"}, "/proc/nowhere cannot be used"),
            ({"TARN_RUN_DIR": "/tmp/" + "x" * 100}, "is too long for the UNIX socket"),
            ({"TARN_LOG_DIR": "/proc/nowhere"}, "/proc/nowhere cannot be used"),
        ],
    )
    async def test_one_line_names_the_setting_and_the_fix(
        self, containers: Containers, models: Path, changes: dict[str, str], said: str
    ) -> None:
        environ = {**containers.environ(models), **changes}
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tarn_agent.init", env=environ, stderr=asyncio.subprocess.PIPE)
        _, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == Exit.SETTINGS
        assert said in err.decode()
        assert len(err.decode().splitlines()) == 1


class TestLastContainersFiles:
    async def test_say_nothing_of_this_one(self, containers: Containers, models: Path) -> None:
        environ = containers.environ(models)
        RunDir(environ["TARN_RUN_DIR"]).write_exit(Exit.MODEL, "of the container before")
        container = await containers.start_with(environ)
        await container.up()
        container.term()
        assert await container.status() == 143


def _handles(process: psutil.Process, number: signal.Signals) -> bool:
    caught = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) & 1 << number - 1)


async def _live(triton: SupervisedTriton) -> bool:
    return (await triton.probe(2.0)).live
