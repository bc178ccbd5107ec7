"""The state directory: one AM at a time, nothing guessed, nothing readable by others."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography import x509

from tarn_am.state import StateDir, StateError
from tarn_common.endpoint import HostPort, Rendezvous
from tarn_common.wire.limits import TLS_NAME
from tests.rigs.secrets import planted


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir(tmp_path / "state")


class TestItIsMadeOnceAndKept:
    def test_the_application_keeps_its_id(self, state: StateDir) -> None:
        assert state.application_id == StateDir(state.path).application_id

    def test_attempts_are_counted_and_the_target_kept(self, state: StateDir) -> None:
        assert state.begin_attempt().attempt == 1
        state.keep_target(3)
        state.keep_agent_port(4711)
        again = StateDir(state.path).begin_attempt()
        assert (again.attempt, again.target, again.agent_port) == (2, 3, 4711)

    def test_a_shutdown_forgets_the_target_alone(self, state: StateDir) -> None:
        state.keep_target(3)
        state.keep_target(None)
        assert state.application().target is None

    def test_secret_and_identity(self, state: StateDir) -> None:
        other = StateDir(state.path)
        assert state.secret() == other.secret()
        assert len(state.secret()) >= 32
        assert state.identity() == other.identity()
        certificate = x509.load_pem_x509_certificate(state.identity().certificate)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [TLS_NAME]

    def test_nobody_else_may_read(self, state: StateDir) -> None:
        state.secret()
        state.identity()
        state.keep_target(1)
        state.write_rendezvous(Rendezvous(HostPort("h", 1), "http://h:2", "x"))
        assert {stat.S_IMODE(path.stat().st_mode) for path in state.path.iterdir()} == {0o600}
        assert stat.S_IMODE(state.path.stat().st_mode) == 0o700

    def test_no_secret_shows_in_a_repr(self, state: StateDir) -> None:
        assert "PRIVATE" not in repr(state.identity())


class TestTheToken:
    def test_is_made_once_and_replaced_when_one_is_given(self, state: StateDir) -> None:
        state.make_token()
        made = state.token_file.read_text()
        state.make_token()
        assert state.token_file.read_text() == made
        given = planted("kept-token")
        state.keep_token(given)
        assert state.token_file.read_text() == f"{given}\n"

    def test_stands_in_a_file_that_curl_reads_and_is_forgotten_whole(self, state: StateDir) -> None:
        token = planted("curl-token")
        state.keep_token(token)
        state.write_curl_header(token)
        assert state.curl_header_file.read_text() == f"X-TARN-Token: {token}\n"
        assert {stat.S_IMODE(path.stat().st_mode) for path in state.path.iterdir()} == {0o600}
        state.forget_token()
        assert list(state.path.iterdir()) == []


class TestOneApplicationMasterAtATime:
    def test_the_second_is_told_who_has_it(self, state: StateDir) -> None:
        state.lock()
        state.write_rendezvous(Rendezvous(HostPort("127.0.0.1", 1), "http://127.0.0.1:8888", "x"))
        with pytest.raises(StateError, match=rf"pid {os.getpid()} at http://127.0.0.1:8888.*tarn stop"):
            StateDir(state.path).lock()

    def test_who_has_it_may_ask_again(self, state: StateDir) -> None:
        state.lock()
        state.lock()
        state.unlock()
        StateDir(state.path).lock()

    def test_it_is_free_again_after_the_first(self, state: StateDir) -> None:
        state.lock()
        state.unlock()
        StateDir(state.path).lock()


class TestTornFiles:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "null",
            '{"application_id": "x", "attempt": 1, "target": 1, "agent_port": 0}',
            '{"application_id": "application_1700000000000_0001", "attempt": "many", "target": 1, "agent_port": 0}',
            '{"application_id": "application_1700000000000_0001", "attempt": 1, "target": 1, "agent_port": -5}',
            '{"application_id": "application_1700000000000_0001", "attempt": 1e999, "target": 1, "agent_port": 0}',
        ],
    )
    def test_the_application(self, state: StateDir, text: str) -> None:
        (state.path / "application.json").write_text(text)
        with pytest.raises(StateError, match=r"application\.json is torn .*: remove it"):
            state.begin_attempt()

    @pytest.mark.parametrize("data", [b"", b"short", b"\xff" * 40, b"has blanks in the middle of it"])
    def test_the_secret(self, state: StateDir, data: bytes) -> None:
        (state.path / "secret").write_bytes(data)
        if data == b"has blanks in the middle of it":
            assert state.secret() == data.decode()
        else:
            with pytest.raises(StateError, match="holds no usable secret"):
                state.secret()

    def test_the_key(self, state: StateDir) -> None:
        state.identity()
        (state.path / "key.pem").write_text("torn")
        with pytest.raises(StateError, match="do not belong together"):
            state.identity()

    def test_a_rendezvous_is_merely_not_there(self, state: StateDir) -> None:
        state.rendezvous_file.write_text("{")
        assert state.rendezvous() is None


class TestADirectoryThatCannotBe:
    def test_a_file_stands_there(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StateError, match="cannot be made"):
            StateDir(tmp_path / "file")
