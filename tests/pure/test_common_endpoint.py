"""Addresses, znode paths, rendezvous records, ensembles and identifiers."""

from __future__ import annotations

import json

import pytest

from tarn_common.endpoint import (
    EndpointError,
    HostPort,
    Rendezvous,
    am_path,
    decode_rendezvous,
    instance_path,
    parse_ensemble,
    parse_host_port,
)
from tarn_common.ids import (
    ApplicationId,
    ContainerId,
    IdError,
    application_id,
    application_of,
    container_id,
    make_application_id,
    make_container_id,
)


class TestHostPort:
    @pytest.mark.parametrize("text", ["node7.example.com:8000", "10.0.0.1:1", "[::1]:65535", "[fe80::1]:80"])
    def test_comes_back_as_it_was_written(self, text: str) -> None:
        assert str(parse_host_port(text)) == text

    @pytest.mark.parametrize(
        "text", ["", "host", "host:", ":80", "host:0", "host:65536", "host:８０", "host:-1", "ho st:80", "http://h:80", "a@h:1"]
    )
    def test_anything_else_is_refused_with_its_form(self, text: str) -> None:
        with pytest.raises(EndpointError, match="is not host:port"):
            parse_host_port(text)


class TestRendezvous:
    RECORD = Rendezvous(HostPort("node1", 7000), "http://node1:8888", "abc")

    def test_comes_back(self) -> None:
        assert decode_rendezvous(self.RECORD.encode()) == self.RECORD

    def test_unknown_keys_are_passed_over(self) -> None:
        assert decode_rendezvous(json.dumps({**json.loads(self.RECORD.encode()), "more": 1}).encode()) == self.RECORD

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{}",
            b"[]",
            b"null",
            b"7",
            b"\xff\xfe",
            b'{"agents": 7, "http": "", "incarnation": ""}',
            b"[" * 100_000,
            b'{"agents": ' * 50_000,
        ],
    )
    def test_anything_else_is_refused(self, data: bytes) -> None:
        with pytest.raises(EndpointError, match="not a rendezvous record"):
            decode_rendezvous(data)


class TestPaths:
    def test_instances_are_below_and_the_master_beside(self) -> None:
        container = ContainerId("container_1700000000000_0001_01_000002")
        application = ApplicationId("application_1700000000000_0001")
        assert instance_path("/services/triton/instances/", container) == f"/services/triton/instances/{container}"
        assert am_path("/services/triton/instances", application) == f"/services/triton/am/{application}"
        assert am_path("/instances", application) == f"/am/{application}"


class TestEnsemble:
    def test_hosts_ports_and_chroot(self) -> None:
        found = parse_ensemble(" zk1:2182, zk2 ,[::1]:2183/tarn/prod/ ")
        assert (found.hosts, found.chroot) == ("zk1:2182,zk2:2181,[::1]:2183", "/tarn/prod")

    @pytest.mark.parametrize("text", ["zk1", "zk1/", "zk1:2181/"])
    def test_without_a_chroot(self, text: str) -> None:
        assert parse_ensemble(text).chroot == ""

    @pytest.mark.parametrize("text", ["", ",", "/chroot", "zk1:x", "zk1//a", "zk1/a b", "zk1:0"])
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(EndpointError):
            parse_ensemble(text)


class TestIds:
    def test_are_made_and_taken_apart(self) -> None:
        application = make_application_id(1700000000000, 7)
        container = make_container_id(application, 2, 15)
        assert (application, container) == ("application_1700000000000_0007", "container_1700000000000_0007_02_000015")
        assert application_of(container) == application

    def test_yarns_epoch_is_known(self) -> None:
        container = container_id("container_e17_1700000000000_0001_01_000002")
        assert application_of(container) == "application_1700000000000_0001"

    @pytest.mark.parametrize("text", ["", "application_1_1", "application_17_0001/..", "application_17_0001\n", "APPLICATION_17_0001"])
    def test_what_is_no_application_is_refused(self, text: str) -> None:
        with pytest.raises(IdError, match="is not an application id"):
            application_id(text)

    @pytest.mark.parametrize("text", ["", "container_17_0001_01_2", "container_17_0001_01_000002/../x", "container_x_0001_01_000002"])
    def test_what_is_no_container_is_refused(self, text: str) -> None:
        with pytest.raises(IdError, match="is not a container id"):
            container_id(text)
