"""What may be given as a model repository: refused by the settings, before anything is started for it."""

from __future__ import annotations

import pytest

from tarn_am.settings import AmSettings
from tarn_common.repository import RepositoryError, check_plain, parse
from tarn_common.settings import SettingsError, load


@pytest.mark.parametrize("text", ["/models", "file:/models", "hdfs://nn:8020/a/b", "hdfs:///m", "webhdfs://nn:9870/m", "models"])
def test_what_can_be_staged_passes(text: str) -> None:
    assert load(AmSettings, {"TARN_MODEL_REPOSITORY": text}).model_repository == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("s3://bucket/models", "it cannot be staged: give hdfs://"),
        ("C:/models", "it cannot be staged"),
        ("hdfs:models", "it cannot be staged"),
        ("file://elsewhere/models", "it names a host"),
        ("hdfs://someone@nn/models", "it has a user in its address"),
        ("/my models", "it holds ' ', and Triton's Python back end hands the path to a shell"),
        ("file:/my%20models", "it holds ' ', and Triton's Python back end"),
        ("/m$(id)", "it holds '$'"),
        ("/modèles", "it holds 'è'"),
        ("hdfs://nn/my models", "it holds ' ', and a container's launch script may execute it"),
    ],
)
def test_anything_else_is_named_with_the_fix(text: str, told: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load(AmSettings, {}, {"model_repository": text})
    assert str(refusal.value).startswith(f"--model-repository={text!r}: {told}")


def test_a_znodes_path_is_named_too() -> None:
    with pytest.raises(SettingsError, match=r"^TARN_ZK_PATH='/a b': it holds ' '"):
        load(AmSettings, {"TARN_MODEL_REPOSITORY": "/m", "TARN_ZK_PATH": "/a b"})


def test_a_plain_path_is_what_a_shell_takes_as_it_is() -> None:
    check_plain("/a-b/c_d/e.f:g=h,i@j%k+l")
    with pytest.raises(RepositoryError, match="it holds"):
        check_plain("/a~b")


def test_the_path_of_a_file_url_is_decoded() -> None:
    assert (parse("file:/a%20b/../c").path, parse("hdfs://nn:1/a%20b").path) == ("/c", "/a%20b")
