"""Hadoop credentials files, byte for byte."""

from __future__ import annotations

import random
import stat
from pathlib import Path

import pytest

from tarn_common.credentials import Credentials, CredentialsError, Token, decode, encode, read, write

# A token of alias "", identifier 0102, password 03, kind YARN_AM_RM_TOKEN and no service, as Hadoop writes it.
EXAMPLE = bytes.fromhex("484454530001000201020103105941524e5f414d5f524d5f544f4b454e0000")
TOKEN = Token("YARN_AM_RM_TOKEN", "", b"\x01\x02", b"\x03")


class TestHadoopsOwnBytes:
    def test_are_read(self) -> None:
        assert decode(EXAMPLE) == Credentials(tokens={"": TOKEN})

    def test_are_written(self) -> None:
        assert encode(Credentials(tokens={"": TOKEN})) == EXAMPLE

    def test_zeros_after_the_end_are_passed_over(self) -> None:
        assert decode(EXAMPLE + bytes(100)) == decode(EXAMPLE)

    @pytest.mark.parametrize(("length", "number"), [(127, "7f"), (128, "8f80"), (300, "8e012c")])
    def test_lengths_are_hadoops_variable_numbers(self, length: int, number: str) -> None:
        value = b"x" * length
        data = encode(Credentials(secrets={"k": value}))
        assert data == bytes.fromhex("4844545300" + "00" + "01" + "016b" + number) + value
        assert decode(data).secrets == {"k": value}


class TestRoundTrip:
    def test_tokens_and_secrets_of_any_size_come_back(self) -> None:
        chance = random.Random(1)
        sizes = (0, 1, 111, 112, 127, 128, 255, 256, 65_535, 70_000)
        secrets = {f"secret-{size}": chance.randbytes(size) for size in sizes}
        tokens = {"ä": Token("KIND", "host:8020", chance.randbytes(200), chance.randbytes(20)), "b": TOKEN}
        assert decode(encode(Credentials(tokens, secrets))) == Credentials(tokens, secrets)


class TestBytesThatAreNone:
    @pytest.mark.parametrize("cut", range(len(EXAMPLE)))
    def test_a_torn_file_is_told(self, cut: int) -> None:
        with pytest.raises(CredentialsError):
            decode(EXAMPLE[:cut])

    def test_the_newer_version_is_refused_by_name(self) -> None:
        with pytest.raises(CredentialsError, match="version 1"):
            decode(b"HDTS\x01\x00")

    def test_something_else_is_refused(self) -> None:
        with pytest.raises(CredentialsError, match="HDTS"):
            decode(b"PK\x03\x04")

    def test_random_bytes_never_raise_anything_else(self) -> None:
        chance = random.Random(2)
        refused = 0
        for _ in range(3_000):
            try:
                decode(b"HDTS\x00" + chance.randbytes(chance.randrange(40)))
            except CredentialsError:
                refused += 1
        assert refused > 1_000


class TestFile:
    def test_is_its_owners_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "tokens"
        path.write_text("what stood there before")
        path.chmod(0o644)
        write(path, Credentials(secrets={"a": b"b"}))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert read(path).secrets == {"a": b"b"}
        assert list(tmp_path.iterdir()) == [path]

    def test_a_missing_one_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(CredentialsError, match=f"{tmp_path}/none: No such file"):
            read(tmp_path / "none")


def test_no_secret_shows_in_a_repr() -> None:
    text = repr(Credentials(tokens={"t": Token("K", "s", b"id", b"hidden-password")}, secrets={"n": b"hidden-secret"}))
    assert "hidden" not in text
