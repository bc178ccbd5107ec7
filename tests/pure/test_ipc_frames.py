"""Frames of Hadoop RPC as bytes: every one cut at every byte, and everything that is no frame."""

from __future__ import annotations

import random

import pytest

from tarn_am.hadoop.errors import HadoopError, NotHadoop, ProtocolError, RemoteError, TooLarge
from tarn_am.hadoop.ipc import frames
from tarn_am.hadoop.pb import hdfs_pb2, rpc_pb2, yarn_pb2, yarn_services_pb2

CLIENT_ID = bytes(range(16))
AM = "org.apache.hadoop.yarn.api.ApplicationMasterProtocolPB"
ALLOCATE = bytes.fromhex(
    "000000681a0802100018002210000102030405060708090a0b0c0d0e0f2801440a08616c6c6f6361746512366f72672e6170616368652e6861646f6f702e"
    "7961726e2e6170692e4170706c69636174696f6e4d617374657250726f746f636f6c504218010720002d0000003f"
)
"""An allocate with response id 0 and progress 0.5, as Hadoop's own client sends it."""
SUCCESS = bytes.fromhex("0000000a06080710001809020801")
"""Answer to call 7: status SUCCESS, a body of two bytes (08 01)."""


def read(*pieces: bytes, limit: int = frames.MAX_FRAME) -> list[bytes]:
    reader = frames.FrameReader(limit=limit)
    return [content for piece in pieces for content in reader.feed(piece)]


def failure(*pieces: bytes, then: bytes | None = None, limit: int = frames.MAX_FRAME) -> HadoopError:
    """The error of a reader that first gets `then` (good) and then `pieces`, at last the end of the stream."""
    reader = frames.FrameReader(limit=limit)
    try:
        for piece in (then or b"", *pieces):
            list(reader.feed(piece))
    except HadoopError as error:
        return error
    ended = reader.ended()
    assert ended is not None
    return ended


class TestFramesOfOurs:
    def test_a_call_has_the_bytes_of_hadoops_own_client(self) -> None:
        header = rpc_pb2.RequestHeaderProto(methodName="allocate", declaringClassProtocolName=AM, clientProtocolVersion=1)
        request = yarn_services_pb2.AllocateRequestProto(response_id=0, progress=0.5)
        made = frames.frame(0, CLIENT_ID, -1, header.SerializeToString(), request.SerializeToString())
        assert made == ALLOCATE

    def test_a_ping_and_the_first_word_of_sasl_have_them_too(self) -> None:
        assert frames.frame(frames.CALL_PING, CLIENT_ID, -1).hex() == "0000001b1a0802100018072210000102030405060708090a0b0c0d0e0f2801"
        negotiate = rpc_pb2.RpcSaslProto(state=rpc_pb2.RpcSaslProto.NEGOTIATE).SerializeToString()
        assert frames.frame(frames.CALL_SASL, b"", -1, negotiate).hex() == "0000000e0a08021000184122002801021001"

    def test_a_placement_constraint_and_a_gpu_have_them_too(self) -> None:
        """Whose field numbers are easy to get wrong, and which YARN would ignore without a word."""
        target = yarn_pb2.PlacementConstraintTargetProto(
            targetType=yarn_pb2.PlacementConstraintTargetProto.ALLOCATION_TAG, targetKey="self", targetValues=["web"]
        )
        simple = yarn_pb2.SimplePlacementConstraintProto(scope="node", targetExpressions=[target], minCardinality=0, maxCardinality=0)
        constraint = yarn_pb2.PlacementConstraintProto(simpleConstraint=simple)
        assert constraint.SerializeToString().hex() == "0a190a046e6f6465120d0802120473656c661a0377656218002000"
        gpu = yarn_pb2.ResourceInformationProto(key="yarn.io/gpu", value=1, units="", type=yarn_pb2.COUNTABLE)
        resource = yarn_pb2.ResourceProto(memory=1024, virtual_cores=2, resource_value_map=[gpu])
        assert resource.SerializeToString().hex() == "08800810021a130a0b7961726e2e696f2f67707510011a002000"

    def test_a_request_beyond_the_limit_is_refused_before_it_is_sent(self) -> None:
        with pytest.raises(TooLarge, match="134217728"):
            frames.frame(1, CLIENT_ID, 0, bytes(frames.MAX_FRAME))

    def test_a_request_that_lacks_a_field_says_which(self) -> None:
        with pytest.raises(ProtocolError, match=r"MkdirsRequestProto cannot be sent: .*masked"):
            frames.serialized(hdfs_pb2.MkdirsRequestProto(src="/x"))


class TestPieces:
    def test_two_frames_come_whole_wherever_the_stream_is_cut(self) -> None:
        stream = SUCCESS + ALLOCATE
        wanted = [SUCCESS[4:], ALLOCATE[4:]]
        for cut in range(len(stream) + 1):
            assert read(stream[:cut], stream[cut:]) == wanted
        assert read(*(stream[at : at + 1] for at in range(len(stream)))) == wanted

    def test_a_long_stream_survives_random_cuts(self) -> None:
        dice = random.Random(5)
        wanted = [dice.randbytes(dice.randint(1, 3000)) for _ in range(200)]
        stream = b"".join(len(content).to_bytes(4, "big") + content for content in wanted)
        for _ in range(20):
            at, pieces = 0, []
            while at < len(stream):
                step = dice.choice((1, 3, 4, 5, 1000, 65536))
                pieces.append(stream[at : at + step])
                at += step
            assert read(*pieces) == wanted

    def test_frames_before_a_broken_one_are_not_lost(self) -> None:
        contents = frames.FrameReader().feed(SUCCESS + bytes(4))
        assert next(contents) == SUCCESS[4:]
        with pytest.raises(ProtocolError, match="length 0"):
            next(contents)

    def test_the_end_between_frames_is_no_error_and_within_one_is(self) -> None:
        reader = frames.FrameReader()
        assert reader.ended() is None
        assert [*reader.feed(SUCCESS)] == [SUCCESS[4:]]
        assert reader.ended() is None
        assert list(reader.feed(SUCCESS[:9])) == []
        assert "in the middle of a frame, after 9 bytes" in str(reader.ended())


class TestPeersThatAreNotHadoop:
    @pytest.mark.parametrize(
        ("stream", "words"),
        [
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "answers HTTP"),
            (bytes.fromhex("15030100020228"), "answers TLS"),
            (bytes.fromhex("160303007a020000"), "answers TLS"),
            (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "SSH-2.0"),
            (b"220 mail.example.com ESMTP\r\n", "220 mail"),
            (bytes(12), "first bytes"),
            (b"\x80\x00\x00\x00\x01", "first bytes"),
            (b"\x7f\xff\xff\xff", "first bytes"),
        ],
    )
    def test_it_is_named_as_what_it_seems_to_be_wherever_it_is_cut(self, stream: bytes, words: str) -> None:
        for cut in range(len(stream)):
            error = failure(stream[:cut], stream[cut:])
            assert isinstance(error, NotHadoop)
            assert words in str(error) or cut < len(stream)
        assert words in str(failure(stream))

    def test_an_old_daemon_is_told_from_garbage(self) -> None:
        name, text = b"org.apache.hadoop.ipc.RPC$VersionMismatch", b"Server IPC version 7 cannot communicate with client version 9"
        words = len(name).to_bytes(4, "big") + name + len(text).to_bytes(4, "big") + text
        for head in (b"\xff" * 4, b"\xff" * 8):
            for cut in range(len(head + words)):
                error = failure((head + words)[:cut], (head + words)[cut:])
                assert isinstance(error, NotHadoop)
                assert "another version of Hadoop RPC than 9 (org.apache.hadoop.ipc.RPC$VersionMismatch: Server IPC version 7" in str(error)

    def test_after_a_first_frame_a_length_out_of_range_is_a_fault_of_the_peers(self) -> None:
        assert isinstance(failure(b"\x7f\xff\xff\xff", then=SUCCESS), TooLarge)
        assert isinstance(failure(b"\xff\xff\xff\xff", then=SUCCESS), ProtocolError)
        assert isinstance(failure(b"HTTP/1.1", then=SUCCESS), TooLarge)

    def test_random_bytes_end_in_an_error_of_ours_or_in_waiting(self) -> None:
        dice = random.Random(11)
        for _ in range(3000):
            data = dice.randbytes(dice.randint(1, 40))
            reader = frames.FrameReader()
            try:
                for content in reader.feed(data):
                    frames.reply(content)
            except HadoopError:
                continue
            assert reader.buffered <= len(data)


class TestReplies:
    def test_a_success_keeps_its_id_and_body(self) -> None:
        found = frames.reply(SUCCESS[4:])
        assert (found.call_id, found.body, found.error) == (7, b"\x08\x01", None)

    def test_a_success_without_a_body_is_an_empty_message(self) -> None:
        assert frames.reply(bytes.fromhex("0408071000")).body == b""

    def test_ids_below_zero_come_back_as_they_were_sent(self) -> None:
        header = rpc_pb2.RpcResponseHeaderProto(callId=4294967263, status=rpc_pb2.RpcResponseHeaderProto.SUCCESS)
        assert frames.reply(frames.delimited(header.SerializeToString())).call_id == frames.CALL_SASL

    def test_a_java_exception_loses_its_stack_trace_and_keeps_its_name(self) -> None:
        header = rpc_pb2.RpcResponseHeaderProto(
            callId=7,
            status=rpc_pb2.RpcResponseHeaderProto.FATAL,
            exceptionClassName="org.apache.hadoop.security.token.SecretManager$InvalidToken",
            errorMsg="appattempt_1_0001_000001 not found\n\tat org.apache.Some.thing(Some.java:1)\n\tat more",
            errorDetail=rpc_pb2.RpcResponseHeaderProto.FATAL_UNAUTHORIZED,
        )
        error = frames.reply(frames.delimited(header.SerializeToString())).error
        assert isinstance(error, RemoteError)
        assert (error.kind, error.message, error.fatal, error.unauthorized) == (
            "InvalidToken",
            "appattempt_1_0001_000001 not found",
            True,
            True,
        )
        assert str(error.at("rm:8030")) == "rm:8030 answered InvalidToken: appattempt_1_0001_000001 not found"
        assert error.at("rm:8030").kind == "InvalidToken"

    @pytest.mark.parametrize("content", ["", "00", "04080710", "0408071000ff", "040807100002", "ffffffffffff01", "0408071000000000"])
    def test_a_torn_reply_is_a_protocol_error(self, content: str) -> None:
        with pytest.raises(ProtocolError):
            frames.reply(bytes.fromhex(content))
