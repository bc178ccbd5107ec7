"""What a container is told: only safe values, and the user's own ones whole."""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

import pytest

from tarn_agent.settings import AgentSettings
from tarn_am.core import launch
from tarn_am.settings import AmSettings
from tarn_common.endpoint import HostPort
from tarn_common.ids import ApplicationId
from tarn_common.settings import about, load

APPLICATION = ApplicationId("application_1700000000000_0001")
MEETING = launch.Meeting(HostPort("node1", 5000), "/state/am.json")


def environment(**given: Any) -> dict[str, str]:
    return launch.environment(APPLICATION, AmSettings(model_repository="hdfs://nn/models", **given), MEETING)


def decoded(text: str) -> Any:
    return json.loads(base64.b64decode(text))


def test_the_agent_reads_back_what_the_application_was_told() -> None:
    environ = environment(
        models=("a", "b"), model_failure="partial", port=8000, zk_ensemble="zk1:2181,zk2:2181", lease_s=30.0, drain_s=7.5, log_level="DEBUG"
    )
    of_the_node = {
        "CONTAINER_ID": "container_1700000000000_0001_01_000002",
        "HADOOP_TOKEN_FILE_LOCATION": "/tokens",
        "TARN_LOG_DIR": "/logs",
        "TARN_RUN_DIR": "/run",
        "TARN_DATA_DIR": "/data",
    }
    agent = load(AgentSettings, {**environ, **of_the_node})
    assert agent.application_id == APPLICATION
    assert (agent.am, agent.rendezvous) == ("node1:5000", "/state/am.json")
    assert (agent.models, agent.model_failure.value) == (("a", "b"), "partial")
    assert (agent.http_port, agent.grpc_port) == (8000, 0)
    assert (agent.zk_ensemble, agent.zk_auth) == ("zk1:2181,zk2:2181", "")
    assert (agent.lease_s, agent.drain_s, agent.log_level) == (30.0, 7.5, "DEBUG")


OF_AN_INSTANCE = (
    "disk_reserve_bytes", "stage_stall_s", "load_stall_s", "hang_s", "probe_interval_s", "probe_deadline_s", "triton_restart_limit"
)  # fmt: skip


@pytest.mark.parametrize("name", OF_AN_INSTANCE)
def test_what_an_agents_reasons_name_can_be_set_for_the_application(name: str) -> None:
    of_the_am, of_the_agent = ({field.name: field for field in dataclasses.fields(cls)}[name] for cls in (AmSettings, AgentSettings))
    assert (about(of_the_am), of_the_am.default) == (about(of_the_agent), of_the_agent.default)
    assert environment(**{name: 7})[about(of_the_agent).env] == "7"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, None),
        ({"zk_digest_file": "/f"}, "digest"),
        ({"zk_digest_file": "/f", "zk_auth": "digest"}, "digest"),
        ({"zk_digest_file": "/f", "zk_auth": "sasl"}, "sasl"),
    ],
)
def test_the_agent_logs_in_to_zookeeper_as_the_application_was_told(given: dict[str, str], told: str | None) -> None:
    assert environment(zk_ensemble="zk1:2181", **given).get("TARN_ZK_AUTH") == told
    assert "TARN_ZK_AUTH" not in environment(**given)


def test_every_value_is_of_the_safe_alphabet_whatever_the_user_gave() -> None:
    environ = environment(env=('A=$(rm -rf /) "x" `y` é\n',), triton_args=("--log-verbose=1", "; echo $HOME"))
    assert all(character.isalnum() or character in "_./:=,@%+-" for value in environ.values() for character in value)
    assert decoded(environ["TARN_USER_ENV"]) == {"A": '$(rm -rf /) "x" `y` é\n'}
    assert decoded(environ["TARN_TRITON_ARGS"]) == ["--log-verbose=1", "; echo $HOME"]


@pytest.mark.parametrize("path", ["/models/$(id)", "/my models", '/a"b', "/a`b`", "/a\nb", "/modèles"])
def test_a_repository_that_a_launch_script_would_execute_is_refused_by_name(path: str) -> None:
    with pytest.raises(launch.LaunchError, match="--model-repository="):
        launch.environment(APPLICATION, AmSettings(model_repository=path), MEETING)


@pytest.mark.parametrize(("rendezvous", "flag"), [("/my state/am.json", "--state-dir"), ("hdfs://nn/my staging/am.json", "--staging-dir")])
def test_a_state_directory_is_named_by_what_the_user_gave(rendezvous: str, flag: str) -> None:
    with pytest.raises(launch.LaunchError, match=f"^{flag}"):
        launch.environment(APPLICATION, AmSettings(model_repository="/m"), launch.Meeting(HostPort("n", 1), rendezvous))


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        ("hunter2", "TARN_ENV: its entry 1 has no '='"),
        ("1A=hunter2", "TARN_ENV: '1A' is no name"),
        ("A B=hunter2", "TARN_ENV: 'A B' is no name"),
        ("A=\0", "NUL"),
        ("NVIDIA_VISIBLE_DEVICES=all", "the cluster sets it"),
    ],
)
def test_user_variables_that_cannot_be(pair: str, told: str) -> None:
    with pytest.raises(launch.LaunchError, match=told) as error:
        launch.user_environment((pair,), "TARN_ENV")
    assert "hunter2" not in str(error.value)


def test_too_much_is_refused_before_a_node_chokes_on_it() -> None:
    with pytest.raises(launch.LaunchError, match="do not fit"):
        environment(env=("BIG=" + "x" * 60_000,))


def test_an_empty_setting_is_left_to_the_agents_default() -> None:
    assert not {"TARN_HTTP_PORT", "TARN_MODELS", "TARN_ZK_ENSEMBLE", "TARN_ZK_PATH", "TARN_USER_ENV"} & set(environment())
