"""Hadoop's site files, as Hadoop reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tarn_common.hadoop_conf import HadoopConf, HadoopConfError, merge, parse_site, read


def site(*properties: str) -> bytes:
    return ("<?xml version='1.0'?>\n<configuration>" + "".join(properties) + "</configuration>").encode()


def prop(name: str, value: str, more: str = "") -> str:
    return f"<property><name>{name}</name><value>{value}</value>{more}</property>"


class TestSiteFile:
    def test_names_values_and_finals(self) -> None:
        data = site("<!-- c -->", prop(" a ", " 1 "), prop("b", "2", "<final>true</final><description>x</description>"))
        assert parse_site(data) == [("a", "1", False), ("b", "2", True)]

    def test_a_property_without_value_or_name_is_left_out(self) -> None:
        assert parse_site(site("<property><name>a</name></property>", "<property><value>1</value></property>", prop("b", ""))) == [
            ("b", "", False)
        ]

    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><configuration>&b;</configuration>', "DOCTYPE"),
            (b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><configuration/>', "DOCTYPE"),
            (b'<configuration xmlns:xi="http://www.w3.org/2001/XInclude"><xi:include href="/etc/passwd"/></configuration>', "XInclude"),
            (b"<configuration>", "not XML"),
            (b"", "not XML"),
            (b"\x00\xff\xfe", "not XML"),
            (b"<?xml version='1.0' encoding='no-such'?><configuration/>", "XML|encoding"),
            (b"<html/>", "<html>"),
        ],
    )
    def test_what_is_refused_is_named(self, data: bytes, says: str) -> None:
        with pytest.raises(HadoopConfError, match=says):
            parse_site(data)


class TestOverriding:
    def test_the_later_file_wins_unless_the_earlier_is_final(self) -> None:
        first, second = [("a", "1", False), ("b", "1", True)], [("a", "2", False), ("b", "2", True)]
        assert merge([first, second]) == {"a": "2", "b": "1"}


class TestVariables:
    def test_properties_environment_and_defaults(self) -> None:
        conf = HadoopConf(
            {
                "dir": "/d/${user.name}",
                "deep": "${dir}/x",
                "env": "${env.HOST}:${env.PORT:-8020}",
                "empty": "${env.EMPTY:-full}|${env.EMPTY-full}",
                "unset": "${env.NOPE}/${nope}",
                "hyphen": "${env.NOPE-a:b-c}",
            },
            {"USER": "alice", "HOST": "nn", "EMPTY": ""},
        )
        assert conf.get("deep") == "/d/alice/x"
        assert conf.get("env") == "nn:8020"
        assert conf.get("empty") == "full|"
        assert conf.get("unset") == "${env.NOPE}/${nope}"
        assert conf.get("hyphen") == "a:b-c"

    def test_a_circle_is_an_error_that_names_the_property(self) -> None:
        with pytest.raises(HadoopConfError, match=r"^a refers to itself"):
            HadoopConf({"a": "x${b}", "b": "${a}"}).get("a")

    def test_doubling_ends_before_memory_does(self) -> None:
        doubling = {f"v{i}": f"${{v{i + 1}}}" * 100 for i in range(30)}
        with pytest.raises(HadoopConfError, match=r"^v0 refers to itself or grows without end"):
            HadoopConf(doubling).get("v0")


HA = {
    "fs.defaultFS": "hdfs://prod",
    "dfs.nameservices": "prod",
    "dfs.ha.namenodes.prod": "nn1, nn2",
    "dfs.namenode.rpc-address.prod.nn1": "a:8020",
    "dfs.namenode.rpc-address.prod.nn2": "b:8020",
    "dfs.namenode.http-address.prod.nn1": "a:9870",
    "dfs.namenode.http-address.prod.nn2": "0.0.0.0:9870",
}


class TestNameNodes:
    def test_a_nameservice_has_all_its_namenodes(self) -> None:
        conf = HadoopConf(HA)
        assert conf.is_nameservice("prod")
        assert [(node.id, node.rpc) for node in conf.namenodes("prod")] == [("nn1", "a:8020"), ("nn2", "b:8020")]
        assert conf.web_urls("prod") == ("http://a:9870", "http://b:9870")

    def test_one_without_an_address_is_named(self) -> None:
        broken = {name: value for name, value in HA.items() if name != "dfs.namenode.rpc-address.prod.nn2"}
        with pytest.raises(HadoopConfError, match=r"dfs\.namenode\.rpc-address\.prod\.nn2 is not set"):
            HadoopConf(broken).namenodes("prod")

    def test_a_single_one_keeps_its_address_and_knows_its_web_address(self) -> None:
        conf = HadoopConf({"fs.defaultFS": "hdfs://nn:9000", "dfs.namenode.http-address": "0.0.0.0:9870"})
        assert conf.namenodes("nn:9000")[0].rpc == "nn:9000"
        assert conf.web_urls("nn:9000") == ("http://nn:9870",)

    def test_nothing_is_guessed_of_another_cluster(self) -> None:
        conf = HadoopConf({"fs.defaultFS": "hdfs://nn:9000", "dfs.namenode.http-address": "nn:9870"})
        assert conf.namenodes("other")[0].rpc == "other:8020"
        assert conf.web_urls("other") == ()

    def test_https_only(self) -> None:
        conf = HadoopConf({"fs.defaultFS": "hdfs://nn", "dfs.http.policy": "HTTPS_ONLY", "dfs.namenode.https-address": "nn:9871"})
        assert conf.web_urls("nn") == ("https://nn:9871",)


class TestDirectory:
    def test_all_site_files_in_order(self, tmp_path: Path) -> None:
        (tmp_path / "core-site.xml").write_bytes(site(prop("fs.defaultFS", "hdfs://nn"), prop("x", "core")))
        (tmp_path / "hdfs-site.xml").write_bytes(site(prop("x", "hdfs")))
        conf = read(tmp_path, {})
        assert (conf.default_fs, conf.get("x"), conf.secure) == ("hdfs://nn", "hdfs", False)

    def test_a_missing_directory_and_a_broken_file_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(HadoopConfError, match=r"nowhere is not there"):
            read(tmp_path / "nowhere", {})
        (tmp_path / "hdfs-site.xml").write_bytes(b"<oops")
        with pytest.raises(HadoopConfError, match=r"hdfs-site\.xml: it is not XML"):
            read(tmp_path, {})
