"""Whole conversations with a real daemon, replayed: the same bytes out and the same answers, however what came in was cut."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tarn_am.hadoop.errors import AuthenticationError, HadoopError, ProtocolError, RemoteError, TooLarge
from tarn_am.hadoop.ipc import frames
from tarn_am.hadoop.ipc.frames import Reply
from tarn_am.hadoop.ipc.sasl import Login
from tarn_am.hadoop.ipc.session import Session, SessionState
from tarn_am.hadoop.pb import rpc_pb2, yarn_services_pb2
from tarn_am.hadoop.protocols import APPLICATION_CLIENT
from tests.pure.ipc_conversations import CLIENT_ID, CNONCE, CONVERSATIONS, TOKEN, Conversation

each = pytest.mark.parametrize("said", CONVERSATIONS, ids=lambda said: said.name)


def session(said: Conversation, limit: int = frames.MAX_FRAME) -> Session:
    login = Login("alice")
    if said.protection is not None:
        login = Login("alice", token=TOKEN, allowed=(said.protection,), ciphers=(said.cipher,))
    return Session(login, ["127.0.0.1"], APPLICATION_CLIENT, CLIENT_ID, lambda: CNONCE, limit=limit)


def replay(said: Conversation, greeting: Sequence[bytes], answers: Sequence[bytes]) -> tuple[Session, bytes, list[Reply]]:
    """Everything that the session sent, and the answers it gave."""
    made = session(said)
    made.begin()
    sent = made.take()
    for piece in greeting:
        assert list(made.receive(piece)) == []
        sent += made.take()
    assert made.state is SessionState.OPEN
    made.call(7, 0, APPLICATION_CLIENT, "getClusterMetrics", b"")
    made.call(8, 0, APPLICATION_CLIENT, "noSuchMethod", b"")
    sent += made.take()
    return made, sent, [reply for piece in answers for reply in made.receive(piece)]


def check(said: Conversation, replies: Sequence[Reply]) -> None:
    by_id = {reply.call_id: reply for reply in replies}
    assert len(replies) == 2
    metrics = yarn_services_pb2.GetClusterMetricsResponseProto.FromString(by_id[7].body)
    assert metrics.cluster_metrics.num_active_nms == 1
    error = by_id[8].error
    assert error is not None
    assert error.message.startswith("Unknown method noSuchMethod called on org.apache.hadoop.yarn.api.ApplicationClientProtocolPB")
    assert (error.kind, error.detail, error.fatal) == ("RpcNoSuchMethodException", 2, False)


def halves(data: bytes, cut: int) -> list[bytes]:
    return [piece for piece in (data[:cut], data[cut:]) if piece]


def single(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


class TestRecordedConversations:
    @each
    def test_we_say_what_was_said_then_and_understand_the_answers(self, said: Conversation) -> None:
        greeting, answers = bytes.fromhex(said.greeting), bytes.fromhex(said.answers)
        made, sent, replies = replay(said, halves(greeting, 0), [answers])
        assert sent.hex() == said.sent
        assert made.method == said.method
        check(said, replies)

    @each
    def test_a_cut_at_any_byte_changes_nothing(self, said: Conversation) -> None:
        greeting, answers = bytes.fromhex(said.greeting), bytes.fromhex(said.answers)
        for cut in range(max(len(greeting), len(answers))):
            _, sent, replies = replay(said, halves(greeting, cut), halves(answers, cut))
            assert sent.hex() == said.sent
            check(said, replies)

    @each
    def test_a_byte_at_a_time_and_at_random(self, said: Conversation) -> None:
        greeting, answers = bytes.fromhex(said.greeting), bytes.fromhex(said.answers)
        _, sent, replies = replay(said, single(greeting), single(answers))
        assert sent.hex() == said.sent
        check(said, replies)
        dice = random.Random(said.name)
        for _ in range(50):
            cuts = sorted(dice.sample(range(len(answers)), 8))
            pieces = [answers[a:b] for a, b in zip([0, *cuts], [*cuts, len(answers)], strict=True) if b > a]
            check(said, replay(said, halves(greeting, 0), pieces)[2])

    @each
    def test_a_single_wrong_byte_never_escapes_as_anything_but_our_errors(self, said: Conversation) -> None:
        greeting, answers = bytes.fromhex(said.greeting), bytes.fromhex(said.answers)
        dice = random.Random(3)
        for _ in range(400):
            stream = bytearray(greeting + answers)
            stream[dice.randrange(len(stream))] ^= 1 << dice.randrange(8)
            try:
                replay(said, halves(bytes(stream[: len(greeting)]), 0), [bytes(stream[len(greeting) :])])
            except (HadoopError, AssertionError):
                continue

    @each
    def test_protected_answers_that_were_changed_are_refused(self, said: Conversation) -> None:
        if said.method == "SIMPLE" or said.protection is None or said.protection.value == "auth":
            return
        greeting, answers = bytes.fromhex(said.greeting), bytearray.fromhex(said.answers)
        answers[60] ^= 1
        with pytest.raises(ProtocolError, match="proof of origin"):
            replay(said, [greeting], [bytes(answers)])


class TestFatalAnswers:
    def refusal(self, call_id: int, name: str = "org.apache.hadoop.security.AccessControlException") -> bytes:
        header = rpc_pb2.RpcResponseHeaderProto(
            callId=call_id & 0xFFFFFFFF,
            status=rpc_pb2.RpcResponseHeaderProto.FATAL,
            exceptionClassName=name,
            errorMsg="SIMPLE authentication is not enabled.  Available:[TOKEN]\n\tat somewhere",
            errorDetail=rpc_pb2.RpcResponseHeaderProto.FATAL_UNAUTHORIZED,
        )
        content = frames.delimited(header.SerializeToString())
        return len(content).to_bytes(4, "big") + content

    @pytest.mark.parametrize("call_id", [-1, -3, -33, 7])
    def test_one_ends_the_session_whatever_call_it_names(self, call_id: int) -> None:
        made = session(CONVERSATIONS[0])
        made.begin()
        with pytest.raises(RemoteError, match="SIMPLE authentication is not enabled") as caught:
            list(made.receive(self.refusal(call_id)))
        assert caught.value.unauthorized
        assert made.state is SessionState.BROKEN
        with pytest.raises(ProtocolError, match="broken"):
            made.call(8, 0, APPLICATION_CLIENT, "x", b"")

    def test_one_during_the_greeting_keeps_its_class_for_failover(self) -> None:
        made = session(CONVERSATIONS[1])
        made.begin()
        with pytest.raises(RemoteError) as caught:
            list(made.receive(self.refusal(-33, "org.apache.hadoop.ipc.StandbyException")))
        assert caught.value.kind == "StandbyException"

    def test_one_outside_the_agreed_protection_is_not_believed(self) -> None:
        """Else anyone on the path could end an Application Master with three lines of text."""
        said = next(c for c in CONVERSATIONS if c.name.startswith("privacy"))
        with pytest.raises(ProtocolError, match="unprotected"):
            replay(said, [bytes.fromhex(said.greeting)], [self.refusal(-1)])

    def test_answers_before_it_are_given(self) -> None:
        said = CONVERSATIONS[0]
        made = session(said)
        made.begin()
        replies = made.receive(bytes.fromhex(said.answers) + self.refusal(-1))
        check(said, [next(replies), next(replies)])
        with pytest.raises(RemoteError):
            next(replies)


class TestLimits:
    def test_an_answer_beyond_the_limit_is_refused_before_it_is_gathered(self) -> None:
        said = CONVERSATIONS[0]
        made = session(said, limit=2000)
        made.begin()
        with pytest.raises(TooLarge, match="sent a frame of 2001 bytes; at most 2000"):
            list(made.receive(bytes.fromhex(said.answers) + (2001).to_bytes(4, "big")))

    def test_a_request_too_large_leaves_the_session_as_it_was(self) -> None:
        made = session(CONVERSATIONS[0])
        made.begin()
        made.take()
        with pytest.raises(TooLarge):
            made.call(7, 0, APPLICATION_CLIENT, "getClusterMetrics", bytes(frames.MAX_FRAME))
        assert made.take() == b""
        made.ping()
        assert made.take().hex() == "0000001b1a0802100018072210000102030405060708090a0b0c0d0e0f2801"

    def test_long_requests_are_wrapped_in_pieces_that_the_peers_buffer_holds(self) -> None:
        said = next(c for c in CONVERSATIONS if c.name == "integrity")
        made, _, _ = replay(said, [bytes.fromhex(said.greeting)], [])
        made.call(9, 0, APPLICATION_CLIENT, "getApplications", bytes(300_000))
        pieces = [frames.split(content)[1] for content in frames.FrameReader().feed(made.take())]
        tokens = [rpc_pb2.RpcSaslProto.FromString(piece).token for piece in pieces]
        assert len(tokens) == 5
        assert max(len(token) for token in tokens) < 65536


class TestLogins:
    def test_a_server_without_security_is_refused_to_a_login_that_knows_of_it(self) -> None:
        made = session(CONVERSATIONS[1])
        made.begin()
        success = rpc_pb2.RpcSaslProto(state=rpc_pb2.RpcSaslProto.SUCCESS).SerializeToString()
        header = rpc_pb2.RpcResponseHeaderProto(callId=4294967263, status=rpc_pb2.RpcResponseHeaderProto.SUCCESS).SerializeToString()
        content = frames.delimited(header) + frames.delimited(success)
        with pytest.raises(AuthenticationError, match=r"hadoop\.security\.authentication"):
            list(made.receive(len(content).to_bytes(4, "big") + content))

    def test_the_token_context_names_no_user_and_the_simple_one_does(self) -> None:
        assert "112070a05616c696365" in CONVERSATIONS[0].sent
        assert "13a12001a366f7267" in CONVERSATIONS[1].sent
