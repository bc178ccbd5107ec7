"""What YARN is told to run, and what it is never told."""

from __future__ import annotations

from typing import Any

import pytest

from tarn_am.cluster.yarn import launch
from tarn_am.cluster.yarn.settings import Runtime, Visibility, YarnSettings
from tarn_am.core.launch import LaunchError
from tarn_am.hadoop.pb import yarn_pb2
from tarn_am.ports import LaunchSpec
from tarn_common.ids import ContainerId
from tarn_common.settings import SettingsError, load

NAME = ContainerId("container_1700000000000_0001_01_000002")
SPEC = LaunchSpec({"TARN_NAME": "x"}, b"HDTS-secret")
EVIL = ["$(id)", "`id`", 'a"b', "a;b", "a b", "a\nb", "{{PWD}}", "<LOG_DIR>", "a'b", "\\", "*", "é", "\0"]


def docker(**changes: Any) -> YarnSettings:
    return YarnSettings(**{"image": "registry:5000/team/tarn:1", **changes})


def environment(settings: YarnSettings, spec: LaunchSpec = SPEC) -> dict[str, str]:
    return {entry.key: entry.value for entry in launch.context(settings, spec, NAME).environment}


class TestDocker:
    def test_the_environment_is_exactly_this(self) -> None:
        assert environment(docker(mounts=("/models:/models:ro", "/x:/y:rw"))) == {
            "TARN_NAME": "x",
            "TARN_LOG_DIR": "<LOG_DIR>",
            "TARN_DATA_DIR": "{{PWD}}/data",
            "TARN_RUN_DIR": "/tmp/tarn",
            "LANG": "C.UTF-8",
            "YARN_CONTAINER_RUNTIME_TYPE": "docker",
            "YARN_CONTAINER_RUNTIME_DOCKER_IMAGE": "registry:5000/team/tarn:1",
            "YARN_CONTAINER_RUNTIME_DOCKER_TMPFS_MOUNTS": "/dev/shm",
            "YARN_CONTAINER_RUNTIME_DOCKER_MOUNTS": "/models:/models:ro,/x:/y:rw",
        }

    def test_the_one_command_replaces_the_shell(self) -> None:
        assert list(launch.context(docker(), SPEC, NAME).command) == [
            "exec python3 -m tarn_agent.init 1><LOG_DIR>/stdout 2><LOG_DIR>/stderr"
        ]

    def test_secrets_are_in_the_credentials_alone(self) -> None:
        context = launch.context(docker(), SPEC, NAME)
        assert context.tokens == b"HDTS-secret"
        context.ClearField("tokens")
        assert b"secret" not in context.SerializeToString()


class TestProcess:
    def test_the_path_is_given_and_the_run_directory_cannot_be_guessed(self) -> None:
        settings = YarnSettings(runtime=Runtime.PROCESS)
        environ = environment(settings)
        assert environ["YARN_CONTAINER_RUNTIME_TYPE"] == "default"
        assert environ["PATH"] == "/usr/local/bin:/usr/bin:/bin"
        other = environment(settings, LaunchSpec({}, b"another secret"))
        assert environ["TARN_RUN_DIR"] != other["TARN_RUN_DIR"]
        assert len(environ["TARN_RUN_DIR"]) < 40
        assert environ["TARN_KEEP_RUN_DIR"] == "false"
        assert launch.command(settings).startswith("chmod 600 {{HADOOP_TOKEN_FILE_LOCATION}} && exec python3 ")


class TestNothingUnquoted:
    @pytest.mark.parametrize("value", EVIL)
    def test_a_value_that_could_be_executed_is_refused(self, value: str) -> None:
        with pytest.raises(LaunchError, match="TARN_NAME"):
            launch.context(docker(), LaunchSpec({"TARN_NAME": value}, b""), NAME)

    @pytest.mark.parametrize("word", [word for word in EVIL if word not in ("{{PWD}}", "<LOG_DIR>")])
    def test_a_word_of_the_command_that_could_be_executed_is_refused(self, word: str) -> None:
        with pytest.raises(SettingsError, match="may be executed by YARN's launch script"):
            load(YarnSettings, {"TARN_IMAGE": "x"}, {"command": ("python3", word)})
        with pytest.raises(LaunchError):
            launch.context(docker(command=("python3", word)), SPEC, NAME)

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ({"image": "Has Blanks"}, "is not an image name"),
            ({"image": "x", "mounts": ("/a:/b",)}, "is not source:/target:ro or source:/target:rw"),
            ({"image": "x", "mounts": ("/a:/b:ro,/etc:/etc:rw",)}, "is not source:/target"),
            ({"image": "x", "tmpfs": ("relative",)}, "is not an absolute path"),
            ({"image": "x", "node_label": "a b"}, "a node label has"),
            ({"image": "x", "placement_tag": "a,b"}, "a tag has"),
            ({"image": "x", "gpu_resource": "yarn.io/g pu"}, "is not a resource name"),
            ({}, "--image is not set"),
            ({"image": "x", "archive": "hdfs://n/t.tgz"}, "has no --archive-mtime-ms"),
            ({"image": "x", "archive": "/no/scheme"}, "is not a URL"),
        ],
    )
    def test_a_setting_that_cannot_be_used_is_told_with_the_fix(self, given: dict[str, Any], told: str) -> None:
        with pytest.raises(SettingsError, match=told):
            load(YarnSettings, {}, given)


class TestTheArchive:
    def test_it_is_fetched_by_its_exact_time_and_found_by_python(self) -> None:
        settings = docker(
            archive="hdfs://ns1/user/a/.tarn/app/tarn.tar.gz",
            archive_bytes=12,
            archive_mtime_ms=1700000000123,
            archive_visibility=Visibility.PUBLIC,
        )
        context = launch.context(settings, SPEC, NAME)
        [entry] = context.localResources
        assert (entry.key, entry.value.size, entry.value.timestamp) == ("tarn", 12, 1700000000123)
        assert (entry.value.type, entry.value.visibility) == (yarn_pb2.ARCHIVE, yarn_pb2.PUBLIC)
        assert environment(settings)["PYTHONPATH"] == "{{PWD}}/tarn"

    @pytest.mark.parametrize(
        ("text", "scheme", "host", "port", "file"),
        [
            ("hdfs://NameService1/a/b.zip", "hdfs", "NameService1", -1, "/a/b.zip"),
            ("hdfs://nn:8020/a", "hdfs", "nn", 8020, "/a"),
            ("file:///a/b", "file", "", -1, "/a/b"),
        ],
    )
    def test_its_url_is_as_java_says_it(self, text: str, scheme: str, host: str, port: int, file: str) -> None:
        found = launch.url(text)
        assert (found.scheme, found.host, found.port, found.file) == (scheme, host, port, file)
