"""DIGEST-MD5 and the choice among a server's offers."""

from __future__ import annotations

import pytest

from tarn_am.hadoop.errors import AuthenticationError, ProtocolError
from tarn_am.hadoop.ipc.digest import CIPHERS, DigestLayer, DigestMd5, parse_directives
from tarn_am.hadoop.ipc.protection import Protection
from tarn_am.hadoop.ipc.sasl import Login, Sasl, SaslState
from tarn_am.hadoop.pb.rpc_pb2 import RpcSaslProto
from tarn_common.credentials import Token

CHALLENGE = b'realm="default",nonce="NONCE",charset=utf-8,algorithm=md5-sess,qop="%s"'
TOKEN = Token("YARN_AM_RM_TOKEN", "", b"\x01\x02", b"\x03")
KEY = bytes(range(16))


def digest(**others: object) -> DigestMd5:
    return DigestMd5.of_token(TOKEN.identifier, TOKEN.password, "/default", "A" * 32, **others)  # type: ignore[arg-type]


def offer(method: str, mechanism: str, service: str = "", host: str = "default", challenge: bytes = b"") -> RpcSaslProto.SaslAuth:
    return RpcSaslProto.SaslAuth(method=method, mechanism=mechanism, protocol=service, serverId=host, challenge=challenge)


def negotiate(*offers: RpcSaslProto.SaslAuth) -> RpcSaslProto:
    return RpcSaslProto(state=RpcSaslProto.NEGOTIATE, auths=offers)


TOKEN_OFFER = offer("TOKEN", "DIGEST-MD5", challenge=CHALLENGE % b"auth")
SIMPLE_OFFER = offer("SIMPLE", "", host="")
KERBEROS_OFFER = offer("KERBEROS", "GSSAPI", "rm", "node1.example.com")


def sasl(login: Login, *names: str) -> Sasl:
    return Sasl(login, names or ("node1.example.com",), lambda: "A" * 32)


class TestDigest:
    def test_the_answer_is_the_one_of_javas_client(self) -> None:
        made = digest()
        fields = parse_directives(made.respond(CHALLENGE % b"auth"))
        assert fields["response"] == "62ec6459a8e5eb76368a118a02585b7d"
        assert fields["username"] == "AQI="
        assert fields["digest-uri"] == "/default"
        assert made.finish(b"rspauth=1bea1465f72e5280472578cc1a72f837") is None

    @pytest.mark.parametrize("proof", [b"rspauth=1bea1465f72e5280472578cc1a72f838", b"rspauth=", b"", b"nothing=1"])
    def test_a_server_that_does_not_know_the_password_is_refused(self, proof: bytes) -> None:
        made = digest()
        made.respond(CHALLENGE % b"auth")
        with pytest.raises(AuthenticationError, match="did not prove"):
            made.finish(proof)

    def test_success_before_a_challenge_is_refused(self) -> None:
        with pytest.raises(AuthenticationError, match="did not prove"):
            digest().finish(b"rspauth=1bea1465f72e5280472578cc1a72f837")

    def test_the_strongest_protection_is_taken_unless_told_otherwise(self) -> None:
        assert b"qop=auth-int" in digest().respond(CHALLENGE % b"auth,auth-int")
        weakest = (Protection.AUTHENTICATION, Protection.INTEGRITY)
        assert b"qop=auth," in digest(allowed=weakest).respond(CHALLENGE % b"auth-int,auth") + b","

    def test_no_protection_in_common_names_both_sides_and_the_key(self) -> None:
        with pytest.raises(AuthenticationError, match=r"by auth, here auth-conf is allowed; see hadoop\.rpc\.protection"):
            digest(allowed=(Protection.PRIVACY,)).respond(CHALLENGE % b"auth")

    def test_a_cipher_that_nobody_knows_is_refused_by_name(self) -> None:
        with pytest.raises(AuthenticationError, match="aes-gcm"):
            digest().respond(CHALLENGE % b"auth-conf" + b',cipher="aes-gcm"')
        with pytest.raises(AuthenticationError, match="none"):
            digest().respond(CHALLENGE % b"auth-conf")

    @pytest.mark.parametrize(
        "challenge",
        [
            b"",
            b"nonsense",
            b'realm="default"',
            b'nonce="x",algorithm=md5',
            b'nonce="never closed',
            b'nonce="x",algorithm=md5-sess,qop="odd"',
        ],
    )
    def test_a_challenge_that_makes_no_sense_is_refused(self, challenge: bytes) -> None:
        with pytest.raises(AuthenticationError):
            digest().respond(challenge)

    def test_the_password_shows_in_no_repr_and_no_answer(self) -> None:
        assert "Aw==" not in digest().respond(CHALLENGE % b"auth").decode()
        assert "\\x03" not in repr(Login("alice", token=TOKEN))

    def test_directives_are_read_with_quotes_escapes_and_spaces(self) -> None:
        found = parse_directives(b' a="x, \\"y\\"\\\\" , B=c ,a=again,empty="" ')
        assert found == {"a": 'x, "y"\\', "b": "c", "empty": ""}


class TestProtectedMessages:
    @pytest.mark.parametrize("cipher", [None, *CIPHERS])
    def test_what_one_end_wraps_the_other_unwraps_in_order(self, cipher: str | None) -> None:
        row = CIPHERS[cipher] if cipher else None
        ours, theirs = DigestLayer(KEY, row), DigestLayer(KEY, row, client=False)
        for length in range(40):
            message = bytes(range(length))
            wrapped = ours.wrap(message)
            assert (message in wrapped) is (row is None) or length < 4
            assert theirs.unwrap(wrapped) == message
            assert ours.unwrap(theirs.wrap(message)) == message

    @pytest.mark.parametrize("cipher", [None, *CIPHERS])
    def test_changed_repeated_torn_and_reordered_messages_are_refused(self, cipher: str | None) -> None:
        row = CIPHERS[cipher] if cipher else None
        sealed = DigestLayer(KEY, row).wrap(b"hello hadoop")
        for at in range(len(sealed)):
            changed = bytearray(sealed)
            changed[at] ^= 0x41
            with pytest.raises(ProtocolError):
                DigestLayer(KEY, row, client=False).unwrap(bytes(changed))
        for length in range(len(sealed)):
            with pytest.raises(ProtocolError):
                DigestLayer(KEY, row, client=False).unwrap(sealed[:length])
        theirs = DigestLayer(KEY, row, client=False)
        theirs.unwrap(sealed)
        with pytest.raises(ProtocolError, match="out of order"):
            theirs.unwrap(sealed)

    def test_our_own_message_sent_back_to_us_is_refused(self) -> None:
        ours = DigestLayer(KEY, None)
        with pytest.raises(ProtocolError):
            ours.unwrap(ours.wrap(b"hello"))


class TestOffers:
    def test_a_token_is_answered_in_the_first_message(self) -> None:
        made = sasl(Login("alice", token=TOKEN))
        answer = made.receive(negotiate(KERBEROS_OFFER, TOKEN_OFFER))
        assert answer is not None
        assert answer.state == RpcSaslProto.INITIATE
        assert b"response=62ec6459a8e5eb76368a118a02585b7d" in answer.token
        assert [auth.method for auth in answer.auths] == ["TOKEN"]
        assert not answer.auths[0].HasField("challenge")
        done = RpcSaslProto(state=RpcSaslProto.SUCCESS, token=b"rspauth=1bea1465f72e5280472578cc1a72f837")
        assert made.receive(done) is None
        assert (made.state, made.method, made.layer) == (SaslState.DONE, "TOKEN", None)

    def test_a_challenge_that_comes_later_is_answered_too(self) -> None:
        made = sasl(Login("alice", token=TOKEN))
        first = made.receive(negotiate(offer("TOKEN", "DIGEST-MD5")))
        assert first is not None
        assert first.token == b""
        second = made.receive(RpcSaslProto(state=RpcSaslProto.CHALLENGE, token=CHALLENGE % b"auth"))
        assert second is not None
        assert second.state == RpcSaslProto.RESPONSE
        assert b"response=62ec6459a8e5eb76368a118a02585b7d" in second.token

    def test_simple_is_taken_only_where_allowed(self) -> None:
        made = sasl(Login("alice", token=TOKEN, simple_too=True))
        answer = made.receive(negotiate(SIMPLE_OFFER))
        assert answer is not None
        assert answer.auths[0].method == "SIMPLE"
        assert made.state is SaslState.DONE
        with pytest.raises(AuthenticationError, match="the server accepts SIMPLE; this client has a token to offer"):
            sasl(Login("alice", token=TOKEN)).receive(negotiate(SIMPLE_OFFER))

    def test_nothing_in_common_names_both_sides(self) -> None:
        with pytest.raises(AuthenticationError, match="accepts KERBEROS by GSSAPI; this client has a token to offer"):
            sasl(Login("alice", token=TOKEN)).receive(negotiate(KERBEROS_OFFER))
        with pytest.raises(AuthenticationError, match="accepts TOKEN by SCRAM-SHA-256"):
            sasl(Login("alice", token=TOKEN)).receive(negotiate(offer("TOKEN", "SCRAM-SHA-256")))
        with pytest.raises(AuthenticationError, match="accepts nothing"):
            sasl(Login("alice", token=TOKEN)).receive(negotiate())

    @pytest.mark.parametrize("principal", ["rm/other.example.com@EXAMPLE.COM", "nn/_HOST@EXAMPLE.COM", "rm/*.example.org@EXAMPLE.COM"])
    def test_a_server_of_another_name_is_refused_before_any_ticket_is_asked_for(self, principal: str) -> None:
        with pytest.raises(AuthenticationError, match=r"calls itself rm/node1\.example\.com, expected is"):
            sasl(Login("alice", principal=principal)).receive(negotiate(KERBEROS_OFFER))

    @pytest.mark.parametrize("state", [RpcSaslProto.CHALLENGE, RpcSaslProto.RESPONSE, RpcSaslProto.WRAP, RpcSaslProto.INITIATE])
    def test_a_message_out_of_turn_is_named(self, state: RpcSaslProto.SaslState.ValueType) -> None:
        with pytest.raises(ProtocolError, match="while the SASL exchange was negotiating"):
            sasl(Login("alice", token=TOKEN)).receive(RpcSaslProto(state=state))

    def test_a_second_negotiation_is_refused(self) -> None:
        made = sasl(Login("alice", token=TOKEN))
        made.receive(negotiate(TOKEN_OFFER))
        with pytest.raises(ProtocolError, match="sent NEGOTIATE while the SASL exchange was proving"):
            made.receive(negotiate(TOKEN_OFFER))
