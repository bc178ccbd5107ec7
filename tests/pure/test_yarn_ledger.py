"""What the ResourceManager's answers mean: books, events, ids, memory, causes, and what the fleet makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tarn_am.cluster.yarn import convert
from tarn_am.cluster.yarn.books import Held, Stage
from tarn_am.cluster.yarn.convert import Size
from tarn_am.cluster.yarn.ledger import Ledger
from tarn_am.cluster.yarn.memory import Memory, Remembered
from tarn_am.cluster.yarn.nodes import NodePolicy
from tarn_am.cluster.yarn.placement import Wish
from tarn_am.core import diagnosis, events, fleet
from tarn_am.core.actions import Request, SendDrain
from tarn_am.core.events import AgentHello, Report
from tarn_am.core.model import Phase
from tarn_am.core.roster import FleetPolicy, FleetState
from tarn_am.hadoop.pb import yarn_pb2, yarn_services_pb2
from tarn_am.ports import Appeared, Completed, Leaving
from tarn_common.credentials import Token
from tarn_common.endpoint import Endpoint, HostPort
from tarn_common.ids import ApplicationId, ContainerId
from tests.rigs.simulated_rm import container_id

Answer = yarn_services_pb2.AllocateResponseProto


def ledger(per_node: int = 1) -> Ledger:
    return Ledger(Wish(Size(64, 1), per_node=per_node), 0, NodePolicy(failures=1), young_s=100.0)


def holding(book: Ledger, serial: int, node: str, stage: Stage = Stage.RUNNING, since: float = 0.0) -> ContainerId:
    name = convert.container_name(container_id(serial))
    book.adopt(Held(name, HostPort(node, 1), stage, since))
    return name


def ended(serial: int, status: int, text: str = "") -> Answer:
    state = yarn_pb2.ContainerStatusProto(container_id=container_id(serial), exit_status=status, diagnostics=text)
    return Answer(completed_container_statuses=[state], num_cluster_nodes=4)


def leaving(host: str, timeout: int) -> Answer:
    report = yarn_pb2.NodeReportProto(
        nodeId=yarn_pb2.NodeIdProto(host=host, port=1), node_update_type=yarn_pb2.NODE_DECOMMISSIONING, decommissioning_timeout=timeout
    )
    return Answer(updated_nodes=[report])


class TestEnds:
    def test_one_is_told_once_and_without_time_stamps(self) -> None:
        book = ledger()
        name = holding(book, 5, "n1")
        out = book.heard(ended(5, 104, "[2026-11-25 02:32:16.639]last words\n"), 0.0, 0.0)
        assert out.events == [Completed(name, 104, "last words")]
        assert book.heard(ended(5, 104), 0.0, 0.0).events == []
        assert not book.placement.occupied

    def test_one_that_nobody_holds_changes_nothing(self) -> None:
        assert ledger().heard(ended(9, -100, "Container of a completed application"), 0.0, 0.0).events == []

    @pytest.mark.parametrize(("status", "stage", "wall", "avoided"), [
        (105, Stage.RUNNING, 1.0, {"n1"}),
        (105, Stage.RUNNING, 101.0, set()),
        (105, Stage.STOPPING, 1.0, set()),
        (-102, Stage.RUNNING, 1.0, set()),
        (106, Stage.RUNNING, 1.0, set()),
    ])  # fmt: skip
    def test_only_an_early_end_that_is_the_node_s_fault_counts_against_it(
        self, status: int, stage: Stage, wall: float, avoided: set[str]
    ) -> None:
        book = ledger()
        book.heard(Answer(num_cluster_nodes=4), 0.0, 0.0)
        holding(book, 5, "n1", stage)
        book.heard(ended(5, status), 0.0, wall)
        assert book.nodes.avoided(0.0) == avoided


class TestWhatIsTakenAway:
    def test_a_node_that_is_decommissioned_and_a_claim_are_told(self) -> None:
        book = ledger()
        one, two = holding(book, 5, "n1"), holding(book, 6, "n2")
        out = book.heard(leaving("n1", 60), 0.0, 0.0)
        assert out.events == [Leaving(one, "n1 is being decommissioned", 60.0)]
        contract = yarn_pb2.PreemptionContractProto(container=[yarn_pb2.PreemptionContainerProto(id=container_id(6))])
        out = book.heard(Answer(preempt=yarn_pb2.PreemptionMessageProto(contract=contract)), 0.0, 0.0)
        assert [type(event) for event in out.events] == [Leaving]
        assert out.events[0] == Leaving(two, "another queue claims its room", 10.0)

    def test_one_that_appears_late_is_taken_up_once(self) -> None:
        book = ledger()
        late = yarn_pb2.ContainerProto(id=container_id(7), nodeId=yarn_pb2.NodeIdProto(host="n3", port=9))
        found = [book.heard(Answer(containers_from_previous_attempts=[late]), 0.0, 50.0).events for _ in range(2)]
        assert [len(each) for each in found] == [1, 0]
        assert isinstance(found[0][0], Appeared)
        assert book.placement.full == {"n3"}


class TestTheFleet:
    def ready(self) -> tuple[FleetState, ContainerId]:
        name = ContainerId("container_1700000000000_0001_01_000002")
        state, _ = fleet.step(fleet.begin(FleetPolicy(min_instances=1, drain_s=100.0), None), events.Tick(), 0.0)
        report = Report(Phase.READY, endpoint=Endpoint("n1", 1, 2, 3))
        for event in (
            events.ClusterAllocated("ask-1", name, "n1"),
            events.Launched(name),
            AgentHello(name, "n1", "x", report),
        ):
            state, _ = fleet.step(state, event, 1.0)
        return state, name

    def test_a_container_that_will_be_taken_drains_in_time_and_is_replaced(self) -> None:
        state, name = self.ready()
        state, actions = fleet.step(state, events.ClusterTakes(name, "n1 is being decommissioned", 20.0), 2.0)
        assert [a.deadline_s for a in actions if isinstance(a, SendDrain)] == [20.0]
        assert any(isinstance(a, Request) for a in actions)
        again, actions = fleet.step(state, events.ClusterTakes(name, "n1 is being decommissioned", 20.0), 3.0)
        assert not actions
        assert again.members.keys() == state.members.keys()

    def test_why_an_ask_waits_stands_at_the_ask(self) -> None:
        state, _ = fleet.step(fleet.begin(FleetPolicy(min_instances=1), None), events.Tick(), 0.0)
        state, _ = fleet.step(state, events.ClusterAskWaits("ask-1", "no node has room"), 1.0)
        [member] = state.members.values()
        assert (member.instance.phase, member.instance.reason) == (Phase.REQUESTED, "no node has room")
        same, _ = fleet.step(state, events.ClusterAskWaits("ask-1", "no node has room"), 2.0)
        assert same.changes == state.changes
        assert fleet.step(state, events.ClusterAskWaits("never asked", "x"), 2.0)[0].members == state.members


class TestIds:
    @pytest.mark.parametrize("text", ["container_1700000000000_0001_01_000002", "container_e08_1700000000000_12345_02_1000001"])
    def test_a_container_s_id_comes_back_as_it_was(self, text: str) -> None:
        assert convert.container_name(convert.container(ContainerId(text))) == text

    def test_an_application_s_id_is_taken_apart(self) -> None:
        found = convert.attempt(ApplicationId("application_1700000000000_0012"), 3)
        assert (found.application_id.id, found.application_id.cluster_timestamp, found.attemptId) == (12, 1700000000000, 3)

    def test_a_size_goes_both_ways(self) -> None:
        wanted = Size(1024, 2, {"yarn.io/gpu": 1})
        assert convert.size(convert.resource(wanted)) == wanted
        # The bytes that Java writes for 1024 MB, 2 vcores and a GPU.
        assert convert.resource(wanted).SerializeToString().hex() == "08800810021a130a0b7961726e2e696f2f67707510011a002000"


class TestMemory:
    KEPT = Remembered(
        {ContainerId("container_1700000000000_0001_01_000002"): (HostPort("n1", 1), True, 5.0)},
        {HostPort("n1", 1): Token("NMToken", "n1:1", b"\x00id", b"password")},
    )

    def test_a_second_process_of_the_attempt_reads_what_the_first_wrote(self, tmp_path: Path) -> None:
        path = tmp_path / "attempt.json"
        Memory(path, "appattempt_1").keep(self.KEPT)
        assert Memory(path, "appattempt_1").recall() == self.KEPT
        assert path.stat().st_mode & 0o777 == 0o600
        assert Memory(path, "appattempt_2").recall() is None

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'{"attempt": "appattempt_1"}',
            b"\xff\xfe",
            b'{"attempt": "appattempt_1", "containers": 1, "tokens": {}}',
        ],
    )
    def test_a_torn_file_is_none(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "attempt.json"
        path.write_bytes(data)
        assert Memory(path, "appattempt_1").recall() is None

    def test_a_disk_that_fails_is_borne(self, tmp_path: Path) -> None:
        Memory(tmp_path / "not there" / "x", "appattempt_1").keep(self.KEPT)
        assert Memory(None, "appattempt_1").recall() is None


@pytest.mark.parametrize(
    ("status", "text", "code", "failure", "node"),
    [
        (-100, "Container released by application", "released", False, False),
        (-100, "Container released on a *lost* node", "node_lost", False, False),
        (-101, "", "disks_failed", False, True),
        (-102, "Container preempted by scheduler", "preempted", False, False),
        (-104, "is running 294080512B beyond the 'PHYSICAL' memory limit", "out_of_memory", True, False),
        (-105, "Container killed by the ApplicationMaster.", "stopped", False, False),
        (-1000, "Resource file:/x changed on src filesystem - expected: 1, was: 2", "archive_changed", True, False),
        (-1000, "a cut trace\nClient cannot authenticate via:[TOKEN, KERBEROS]", "archive_refused", True, False),
        (-1000, "No space left on device", "localization", True, True),
        (7, "docker: Unable to find image 'x:1' locally", "image_missing", True, False),
        (7, 'exec: "bash": executable file not found in $PATH', "image_without_bash", True, False),
        (127, "image: X is not trusted. Disable mount volume for untrusted image", "image_untrusted", True, False),
        (127, "", "status_127", True, True),
        (29, "Configuration does not allow mount src='/x' docker error code=50", "mount_refused", True, False),
        (29, "Cannot connect to the Docker daemon at unix:///var/run/docker.sock", "docker_down", True, True),
        (-1, "Invalid image 'A B' doesn't match docker image name pattern", "image_name", True, False),
        (-1, "Disallowed network:  'foo' specified.", "network_refused", True, False),
        (24, "Linux Container Executor reached unrecoverable exception", "executor_broken", True, True),
        (154, "", "lost_track", True, False),
        (137, "Killed by external signal", "status_137", True, False),
        (143, "Killed by external signal", "status_143", False, False),
        (100, "", "drained", False, False),
        (104, "anything", "staging", True, False),
        (105, "", "triton", True, True),
        (3, "", "status_3", True, True),
    ],
)
def test_each_end_has_its_cause(status: int, text: str, code: str, failure: bool, node: bool) -> None:
    assert diagnosis.code(status, text) == code
    assert diagnosis.is_failure(status, text) is failure
    assert diagnosis.blames_node(status, text) is node
    assert diagnosis.sentence(status, text, "")
