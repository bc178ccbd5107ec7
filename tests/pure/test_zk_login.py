"""What is a login for ZooKeeper, and that none of its errors shows it."""

from __future__ import annotations

import pytest
from puresasl import SASLProtocolException
from puresasl.client import SASLClient

from tarn_agent.presence import zookeeper_login
from tarn_agent.settings import AgentSettings
from tarn_common import zk_auth
from tarn_common.credentials import ZK_DIGEST, Credentials, CredentialsError
from tarn_common.settings import load
from tarn_common.zk_login import DIGEST, SASL, Login, LoginError, parse_login

NEEDED = {
    "CONTAINER_ID": "container_1700000000000_0001_01_000002",
    "TARN_APPLICATION_ID": "application_1700000000000_0001",
    "HADOOP_TOKEN_FILE_LOCATION": "/tokens",
    "TARN_LOG_DIR": "/logs",
    "TARN_RUN_DIR": "/run",
    "TARN_DATA_DIR": "/data",
    "TARN_MODEL_REPOSITORY": "/models",
}


class TestLogin:
    @pytest.mark.parametrize(("scheme", "found"), [("", DIGEST), (DIGEST, DIGEST), (SASL, SASL)])
    def test_the_password_may_hold_colons_and_is_not_shown(self, scheme: str, found: str) -> None:
        login = parse_login("tarn:se:cret", scheme)
        assert login == Login(found, "tarn", "se:cret")
        assert login.pair == "tarn:se:cret"
        assert "cret" not in repr(login)

    @pytest.mark.parametrize("pair", ["", "tarn", ":secret", "tarn:", "tarn:secret\n"])
    def test_what_is_no_pair_is_refused_and_not_shown(self, pair: str) -> None:
        with pytest.raises(LoginError, match="is not user:password in one line") as refused:
            parse_login(pair)
        assert "secret" not in str(refused.value)

    def test_sasl_takes_ascii_alone_and_digest_takes_all(self) -> None:
        assert parse_login("tarn:gehëim").password == "gehëim"
        with pytest.raises(LoginError, match="use ASCII alone") as refused:
            parse_login("tarn:gehëim", SASL)
        assert "geh" not in str(refused.value)

    def test_another_scheme_is_refused(self) -> None:
        with pytest.raises(LoginError, match="give digest or sasl"):
            parse_login("tarn:secret", "kerberos")


class TestAgentsLogin:
    def test_there_is_none_where_none_is_wanted(self) -> None:
        assert zookeeper_login(load(AgentSettings, NEEDED), Credentials(secrets={ZK_DIGEST: b"tarn:secret"})) is None

    @pytest.mark.parametrize("secret", [b"", b"nothing", b"tarn:\xff"])
    def test_credentials_without_it_are_named(self, secret: bytes) -> None:
        with pytest.raises(CredentialsError, match=f"'{ZK_DIGEST}' in /tokens"):
            zookeeper_login(load(AgentSettings, {**NEEDED, "TARN_ZK_AUTH": SASL}), Credentials(secrets={ZK_DIGEST: secret}))


def test_the_mechanism_ends_where_the_server_says_nothing() -> None:

    client = SASLClient("zk-sasl-md5", "zookeeper", **zk_auth.options(parse_login("tarn:secret", SASL))["sasl_options"])
    assert client.process(None) is None
    with pytest.raises(SASLProtocolException):
        client.process(None)
