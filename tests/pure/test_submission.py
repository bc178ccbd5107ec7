"""What is sent to YARN, made from settings; and what travels in it and comes out again."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from typing import Any

import pytest

from tarn_am import am_keeper
from tarn_am.cluster.yarn.settings import Runtime, YarnSettings
from tarn_am.core.launch import LaunchError
from tarn_am.hadoop.errors import RemoteError
from tarn_am.hadoop.pb import yarn_pb2
from tarn_am.settings import AmSettings
from tarn_am.submission import conf, context, plan
from tarn_am.submission.context import ApplicationSpec, StagedFile
from tarn_am.submission.errors import SubmissionError, of_hdfs, of_rm
from tarn_am.submission.plan import Staged, Wish
from tarn_am.submission.settings import AgentSource, AmRuntime, SubmitSettings
from tarn_am.yarn_state import decoded_target
from tarn_common.exits import Exit
from tarn_common.hadoop_conf import HadoopConf, parse_site
from tarn_common.ids import ApplicationId
from tarn_common.settings import load

APPLICATION = ApplicationId("application_1700000000000_0007")
STAGED = Staged(
    "hdfs://Ha/user/me/.tarn/application_1700000000000_0007",
    StagedFile("hdfs://Ha/user/me/.tarn/archives/x.tar.gz", 10, 11),
    StagedFile("hdfs://nn:8020/user/me/.tarn/conf/y.tar.gz", 20, 21),
)


def wish(am: dict[str, Any] | None = None, yarn: dict[str, Any] | None = None, **own: Any) -> Wish:
    process = {"runtime": Runtime.PROCESS, **(yarn or {})}
    return Wish(AmSettings(model_repository="hdfs://nn:8020/m", **(am or {})), YarnSettings(**process), SubmitSettings(**own))


def spec(wanted: Wish) -> ApplicationSpec:
    return plan.application(wanted, APPLICATION, STAGED, b"HDTS")


def sent(wanted: Wish) -> yarn_pb2.ApplicationSubmissionContextProto:
    return context.submission(spec(wanted))


def environ(message: yarn_pb2.ApplicationSubmissionContextProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in message.am_container_spec.environment}


class TestTheApplication:
    def test_outlives_its_masters(self) -> None:
        message = sent(wish(am_attempts=3, am_validity_s=60.0))
        assert message.keep_containers_across_application_attempts
        assert (message.maxAppAttempts, message.attempt_failures_validity_interval) == (3, 60_000)

    def test_counts_every_failure_without_a_validity(self) -> None:
        assert sent(wish(am_validity_s=0.0)).attempt_failures_validity_interval == -1

    def test_is_named_and_queued_as_wished(self) -> None:
        message = sent(wish({"name": "fleet"}, queue="root.ml", priority=7, tags=("b", "a")))
        assert (message.application_id.id, message.application_id.cluster_timestamp) == (7, 1_700_000_000_000)
        assert (message.application_name, message.queue, message.priority.priority) == ("fleet", "root.ml", 7)
        assert (message.applicationType, list(message.applicationTags)) == ("TARN", ["a", "b"])

    def test_labels_the_master_alone(self) -> None:
        message = sent(wish(am_node_label="cpu"))
        assert message.node_label_expression == ""
        assert [ask.node_label_expression for ask in message.am_container_resource_request] == ["cpu"]

    def test_keeps_the_logs_of_a_service_that_never_ends(self) -> None:
        logs = sent(wish(log_include="std.*", log_exclude="core")).log_aggregation_context
        assert (logs.rolled_logs_include_pattern, logs.rolled_logs_exclude_pattern) == ("std.*", "core")


class TestTheMastersContainer:
    def test_runs_the_keeper_out_of_the_archive_without_a_shell_between(self) -> None:
        [command] = sent(wish(python="/usr/bin/python3.11")).am_container_spec.command
        assert command == "exec /usr/bin/python3.11 -Es tarn/run.py tarn_am.am_keeper 1><LOG_DIR>/stdout 2><LOG_DIR>/stderr"

    def test_gets_files_whose_urls_keep_their_letters(self) -> None:
        found = {entry.key: entry.value for entry in sent(wish()).am_container_spec.localResources}
        assert (found["tarn"].resource.host, found["tarn"].resource.port) == ("Ha", -1)
        assert (found["hadoop-conf"].resource.host, found["hadoop-conf"].resource.port) == ("nn", 8020)
        assert (found["tarn"].size, found["tarn"].timestamp, found["tarn"].type) == (10, 11, yarn_pb2.ARCHIVE)

    def test_is_a_docker_container_where_the_instances_are(self) -> None:
        docker = wish(yarn={"runtime": Runtime.DOCKER, "image": "triton:1"})
        assert environ(sent(docker))["YARN_CONTAINER_RUNTIME_DOCKER_IMAGE"] == "triton:1"
        assert "PATH" not in environ(sent(docker))
        own = dataclasses.replace(docker, own=SubmitSettings(am_image="python:3"))
        assert environ(sent(own))["YARN_CONTAINER_RUNTIME_DOCKER_IMAGE"] == "python:3"
        bare = dataclasses.replace(docker, own=SubmitSettings(am_runtime=AmRuntime.PROCESS))
        assert "YARN_CONTAINER_RUNTIME_TYPE" not in environ(sent(bare))

    def test_has_no_value_that_a_launch_script_could_execute(self) -> None:
        hostile = "$(touch /tmp/x)`id`\"';\n"
        values = environ(sent(wish({"env": (f"A={hostile}",), "name": hostile})))
        assert all(set(value) <= set("<>") | set(_SAFE) for value in values.values())
        settings = context.decoded_settings(values["TARN_SETTINGS"])
        assert settings["am"]["env"] == [f"A={hostile}"]

    def test_refuses_more_than_an_environment_holds(self) -> None:
        with pytest.raises(LaunchError, match="do not fit"):
            sent(wish({"env": ("A=" + "x" * 60_000,)}))


_SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./:=,@%+-"


class TestTheMastersSettings:
    def test_come_back_as_they_were(self) -> None:
        wanted = wish({"env": ("A=b,c", "D=e"), "models": ("m", "n"), "drain_s": 1.5}, {"gpus": 2, "tmpfs": ()})
        values = context.decoded_settings(environ(sent(wanted))["TARN_SETTINGS"])
        back = load(AmSettings, {"TARN_NAME": "of the node"}, values["am"])
        assert dataclasses.replace(back, name="tarn") == wanted.am
        yarn = load(YarnSettings, {}, values["yarn"])
        assert (yarn.gpus, yarn.tmpfs, yarn.archive, yarn.archive_mtime_ms) == (2, (), STAGED.archive.url, 11)
        assert yarn.command == ("python3", "-Es", "tarn/run.py", "tarn_agent.init")

    def test_leave_the_agent_to_an_image_that_has_one(self) -> None:
        values = context.decoded_settings(environ(sent(wish(agent=AgentSource.IMAGE)))["TARN_SETTINGS"])
        yarn = load(YarnSettings, {}, values["yarn"])
        assert (yarn.archive, yarn.command) == ("", ("python3", "-m", "tarn_agent.init"))

    def test_name_no_file_of_the_clients_machine(self) -> None:
        values = plan.master_settings(wish({"token_file": "/home/me/token", "zk_digest_file": "/home/me/zk"}), STAGED)
        assert not {"token_file", "zk_digest_file"} & set(values["am"])

    @pytest.mark.parametrize("text", ["", "!", "e30", "W10=", "eyJhIjo="])
    def test_that_are_none_are_a_value_error(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"."):
            context.decoded_settings(text)

    def test_show_names_of_secrets_only(self) -> None:
        shown = context.shown(spec(wish()), ["tarn.am.key"])
        assert shown["master"]["credentials"] == ["tarn.am.key"]
        assert "HDTS" not in repr(shown)


class TestTheModelRepository:
    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("hdfs:///models", "hdfs://ns/models"),
            ("hdfs:/models", "hdfs://ns/models"),
            ("hdfs://other:8020/models", "hdfs://other:8020/models"),
            ("/mnt/models", "/mnt/models"),
            ("file:///mnt/models", "file:///mnt/models"),
            ("webhdfs://nn:9870/models", "webhdfs://nn:9870/models"),
        ],
    )
    def test_is_one_that_every_node_can_find(self, text: str, found: str) -> None:
        assert plan.repository(text, "hdfs://ns/") == found

    @pytest.mark.parametrize(("text", "default"), [("models", "hdfs://ns"), ("./models", "hdfs://ns"), ("hdfs:///models", "file:///")])
    def test_is_refused_where_it_is_not(self, text: str, default: str) -> None:
        with pytest.raises(SubmissionError, match="--model-repository="):
            plan.repository(text, default)


class TestTheConfigurationThatTravels:
    CONF = HadoopConf(
        {
            "fs.defaultFS": "hdfs://${host}",
            "host": "nn:8020",
            "dfs.ha.x": "a<b&c",
            "fs.s3a.secret.key": "s",
            "hadoop.security.keytab": "k",
            "ssl.server.keystore.password": "p",
            "dfs.web.authentication.kerberos.keytab": "/k",
        },
        {},
    )

    def test_is_expanded_and_has_no_secret(self) -> None:
        with tarfile.open(fileobj=io.BytesIO(conf.packed(self.CONF))) as tar:
            member = tar.extractfile("core-site.xml")
            assert member is not None
            rows = {name: value for name, value, _ in parse_site(member.read())}
        assert rows == {"fs.defaultFS": "hdfs://nn:8020", "dfs.ha.x": "a<b&c"}

    def test_is_the_same_bytes_each_time(self) -> None:
        assert conf.packed(self.CONF) == conf.packed(self.CONF)


class TestTheKeeper:
    def test_takes_tarns_own_statuses_as_final_and_mends_the_rest(self) -> None:
        assert all(am_keeper.is_final(status) for status in (Exit.ORDERED, Exit.REFUSED, Exit.SETTINGS))
        assert not any(am_keeper.is_final(status) for status in (0, 1, -9, -11, 137, Exit.INTERNAL))

    def test_starts_again_at_once_then_slower_then_gives_up(self) -> None:
        pauses = [am_keeper.pause_s([0.0] * crashes, 1.0) for crashes in range(1, am_keeper.LIMIT + 2)]
        assert pauses[0] == 0.1
        assert pauses[-1] is None
        assert [pause for pause in pauses if pause is not None] == sorted(pause for pause in pauses if pause is not None)

    def test_forgets_old_crashes(self) -> None:
        assert am_keeper.pause_s([0.0] * 100 + [1000.0], 1000.0) == 0.1


class TestTheKeptTarget:
    @pytest.mark.parametrize(
        ("data", "target"),
        [
            (None, None),
            (b'{"target": 3}', 3),
            (b'{"target": null}', None),
            (b'{"target": -1}', 0),
            (b"torn", None),
            (b"[]", None),
            (b"{}", None),
        ],
    )
    def test_is_read_or_not_there(self, data: bytes | None, target: int | None) -> None:
        assert decoded_target(data) == target


class TestErrors:
    def test_a_standby_is_told_with_its_cause(self) -> None:
        assert "yarn.resourcemanager.ha.enabled" in str(
            of_rm(RemoteError("org.apache.hadoop.ipc.StandbyException", "standby"), "to submit")
        )

    @pytest.mark.parametrize(
        ("kind", "message", "told"),
        [
            ("server.namenode.SafeModeException", "Cannot create. Name node is in safe mode.", "HDFS is in safe mode"),
            ("protocol.DSQuotaExceededException", "The DiskSpace quota of /u is exceeded", "quota of space"),
            (
                "x.AccessControlException",
                'Permission denied: user=bob, access=WRITE, inode="/user":hdfs:hdfs:drwxr-xr-x',
                "(bob may not write in /user)",
            ),
            ("x.NewException", "first line\nsecond", "NewException: first line"),
        ],
    )
    def test_the_namenodes_exceptions_are_sentences(self, kind: str, message: str, told: str) -> None:
        error = str(of_hdfs(RemoteError(f"org.apache.hadoop.{kind}", message), "hdfs://nn/user/bob/.tarn"))
        assert error.startswith("hdfs://nn/user/bob/.tarn cannot be written")
        assert told in error
        assert "\n" not in error
