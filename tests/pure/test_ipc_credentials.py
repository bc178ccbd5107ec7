"""Tokens and credentials in every form that a cluster hands out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tarn_am.hadoop import credentials
from tarn_am.hadoop.delegation import facts
from tarn_am.hadoop.errors import ProtocolError
from tarn_common import credentials as writable
from tarn_common.credentials import Credentials, CredentialsError, Token

AMRM = Token("YARN_AM_RM_TOKEN", "", b"\x01\x02", b"\x03")
HDFS = Token("HDFS_DELEGATION_TOKEN", "ha-hdfs:prod", b"id", b"pw")
RM = Token("RM_DELEGATION_TOKEN", "10.0.0.1:8032,10.0.0.2:8032", b"rm", b"pw")
BOTH = Credentials({"": AMRM, "ha-hdfs:prod": HDFS}, {"tarn.agent.secret": b"s" * 300})


class TestFiles:
    def test_version_0_has_the_bytes_of_hadoops_own(self) -> None:
        data = bytes.fromhex("484454530001000201020103105941524e5f414d5f524d5f544f4b454e0000")
        assert credentials.decode(data) == Credentials({"": AMRM}, {})
        assert writable.encode(Credentials({"": AMRM})) == data

    def test_version_1_has_the_bytes_of_hadoops_own(self) -> None:
        data = bytes.fromhex(
            "4844545301" + "21" + "0a1f" + "0a00" + "121b" + "0a020102" + "120103" + "1a10" + b"YARN_AM_RM_TOKEN".hex() + "2200"
        )
        assert credentials.decode(data) == Credentials({"": AMRM}, {})
        assert credentials.encode_protobuf(Credentials({"": AMRM})) == data

    def test_both_versions_hold_the_same(self) -> None:
        assert credentials.decode(writable.encode(BOTH)) == BOTH
        assert credentials.decode(credentials.encode_protobuf(BOTH)) == BOTH
        assert credentials.decode(credentials.encode_protobuf(BOTH) + bytes(8)) == BOTH

    def test_every_torn_file_is_refused_in_words(self) -> None:
        for whole in (writable.encode(BOTH), credentials.encode_protobuf(BOTH)):
            for length in range(len(whole)):
                with pytest.raises(CredentialsError):
                    credentials.decode(whole[:length])

    def test_a_file_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(CredentialsError, match=f"{tmp_path}/none"):
            credentials.read(tmp_path / "none")
        (tmp_path / "bad").write_bytes(b"HDTS\x01\x02\xff\xff")
        with pytest.raises(CredentialsError, match=r"bad: .*version 1"):
            credentials.read(tmp_path / "bad")
        (tmp_path / "good").write_bytes(credentials.encode_protobuf(BOTH))
        assert credentials.read(tmp_path / "good") == BOTH


class TestUrlStrings:
    def test_one_is_url_safe_without_padding_and_comes_back(self) -> None:
        for token in (AMRM, HDFS, Token("k", "s", b"\xfb\xff\xfe", b"")):
            text = credentials.url_string(token)
            assert set(text).isdisjoint("+/=")
            assert credentials.from_url_string(text) == token
        assert credentials.url_string(AMRM) == "AgECAQMQWUFSTl9BTV9STV9UT0tFTgA"

    @pytest.mark.parametrize("text", ["", "!", "AgEC", "äö", "AgECAQ=="])
    def test_nonsense_is_refused(self, text: str) -> None:
        with pytest.raises(CredentialsError):
            credentials.from_url_string(text)


class TestPicking:
    def test_by_kind_and_by_any_address_of_the_service(self) -> None:
        held = Credentials({"": AMRM, "a": HDFS, "b": RM})
        assert credentials.of_kind(held, credentials.AMRM) is AMRM
        assert credentials.of_kind(held, credentials.RM_DELEGATION, "10.0.0.2:8032") is RM
        assert credentials.of_kind(held, credentials.HDFS_DELEGATION, "ha-hdfs:prod") is HDFS
        assert credentials.of_kind(held, credentials.HDFS_DELEGATION, "ha-hdfs:test") is None
        assert credentials.of_kind(held, "NMToken") is None


class TestFacts:
    def test_an_hdfs_token_tells_its_owner_and_its_end(self) -> None:
        # Version byte, owner "alice", renewer "rm", no real user, issued 300 ms, ends at 1000000 ms, number 7, key 2.
        identifier = bytes.fromhex("00" + "05616c696365" + "02726d" + "00" + "8e012c" + "8d0f4240" + "07" + "02")
        found = facts(Token("HDFS_DELEGATION_TOKEN", "", identifier, b""))
        assert (found.owner, found.renewer, found.issued_at, found.ends_at, found.sequence) == ("alice", "rm", 0.3, 1000.0, 7)

    def test_an_rm_token_does_too(self) -> None:
        identifier = bytes.fromhex("0a05616c6963651205616c69636520f8ebf382a13428f8f3a5a3a33430023802")
        found = facts(Token("RM_DELEGATION_TOKEN", "", identifier, b""))
        assert (found.owner, found.renewer, found.sequence) == ("alice", "alice", 2)
        assert found.ends_at - found.issued_at == 7 * 86400

    def test_others_and_torn_ones_are_refused(self) -> None:
        for token in (AMRM, Token("HDFS_DELEGATION_TOKEN", "", b"\x00\x05al", b""), Token("RM_DELEGATION_TOKEN", "", b"\xff", b"")):
            with pytest.raises(ProtocolError):
                facts(token)
