"""What of a repository is copied, in which pieces, and whether it fits."""

from __future__ import annotations

import pytest

from tarn_agent.core import manifest
from tarn_agent.core.manifest import Entry
from tarn_agent.core.model import FileStatus
from tarn_agent.core.plan import (
    Disk,
    Plan,
    PlanError,
    changed,
    check_disk,
    choose,
    composing,
    find_models,
    make_plan,
    pieces,
    rate,
    size_text,
)

PLACE = "hdfs://nn/models"


def file(path: str, length: int = 10, identity: str = "1") -> FileStatus:
    return FileStatus(path, length, identity)


def directory(path: str) -> FileStatus:
    return FileStatus(path, 0, "", directory=True)


GOOD = [
    file("a/config.pbtxt"),
    file("a/1/model.onnx", 500),
    directory("a/1"),
    file("b/2/model.pt", 50),
    file("e/config.pbtxt"),
    directory("e/1"),
    file("notes/x.txt"),
    file("README.md"),
]


def refused(listing: list[FileStatus], *wanted: str) -> str:
    with pytest.raises(PlanError) as caught:
        choose(listing, wanted, PLACE)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestModels:
    def test_are_directories_with_a_configuration_or_a_version(self) -> None:
        assert {name: (model.configured, model.versions) for name, model in find_models(GOOD).items()} == {
            "a": (True, ("1",)),
            "b": (False, ("2",)),
            "e": (True, ("1",)),
        }

    @pytest.mark.parametrize("name", ["0", "01", "v1", "1.0", "-1", "²"])
    def test_a_version_is_a_number_that_triton_would_take(self, name: str) -> None:
        assert find_models([file(f"m/{name}/x")]) == {}

    def test_versions_are_in_the_order_of_numbers(self) -> None:
        assert find_models([file("m/10/x"), file("m/9/x")])["m"].versions == ("9", "10")

    def test_a_file_with_a_number_for_its_name_is_no_version(self) -> None:
        assert find_models([file("m/1")]) == {}


class TestChoosing:
    def test_all_when_none_is_named(self) -> None:
        assert choose(GOOD, (), PLACE) == ("a", "b", "e")

    def test_those_named_in_their_order_once(self) -> None:
        assert choose(GOOD, ("e", "a", "e"), PLACE) == ("e", "a")

    def test_an_unknown_name_is_told_the_names_there_are(self) -> None:
        assert refused(GOOD, "a", "resnet") == "hdfs://nn/models has no model 'resnet'; it has a, b, e"

    def test_an_empty_repository(self) -> None:
        assert refused([]).startswith("hdfs://nn/models is empty: put each model there as")

    @pytest.mark.parametrize("listing", [[file("config.pbtxt"), file("1/model.onnx")], [directory("1"), file("1/model.onnx")]])
    def test_a_model_in_the_place_of_a_repository(self, listing: list[FileStatus]) -> None:
        assert refused(listing) == "hdfs://nn/models is a model, not a repository of models: give the directory above it"

    def test_directories_that_are_no_models(self) -> None:
        assert "none of docs, x.txt is a directory with config.pbtxt" in refused([file("docs/a.md"), file("x.txt")])

    def test_a_model_without_a_version(self) -> None:
        assert "model 'm' has no version directory: put its files into <model>/1/" in refused(
            [file("m/config.pbtxt"), file("m/model.onnx")]
        )

    def test_a_model_without_a_version_is_left_to_triton_when_the_others_shall_serve(self) -> None:
        listing = [*GOOD, file("m/config.pbtxt")]
        assert "m" in choose(listing, (), PLACE, strict=False)
        assert "'m' has no version" in refused(listing)

    def test_but_not_when_there_is_no_other(self) -> None:
        with pytest.raises(PlanError, match="has no version directory"):
            choose([file("m/config.pbtxt")], (), PLACE, strict=False)


class TestNamesThatAShellWouldExecute:
    @pytest.mark.parametrize("name", ["m$(touch x)", "a b", "é", "-m", ".m", "a;b", "a\n"])
    def test_are_refused_with_the_model_and_the_fix(self, name: str) -> None:
        listing = [*GOOD, file(f"{name}/1/model.py")]
        said = refused(listing)
        assert f"the model {name!r} cannot be served" in said
        assert "rename its directory" in said
        assert choose(listing, ("a",), PLACE) == ("a",)
        with pytest.raises(PlanError, match="rename its directory"):
            make_plan(listing, ("e",), PLACE, also={name})

    def test_plain_ones_pass(self) -> None:
        assert choose([file("a.b-c_D9/1/x"), file("_x/1/x"), file("9/1/x")], (), PLACE) == ("9", "_x", "a.b-c_D9")


class TestPlan:
    def test_has_none_of_pythons_caches(self) -> None:
        plan = make_plan([*GOOD, file("a/1/__pycache__/model.pyc"), directory("a/1/__pycache__")], ("a",), PLACE)
        assert plan == make_plan(GOOD, ("a",), PLACE)

    def test_has_the_models_and_nothing_else_with_the_largest_first(self) -> None:
        plan = make_plan(GOOD, ("a", "e"), PLACE)
        assert [each.path for each in plan.files] == ["a/1/model.onnx", "a/config.pbtxt", "e/config.pbtxt"]
        assert plan.directories == ("a", "a/1", "e", "e/1")
        assert plan.bytes_total == 520
        assert plan.ignored == ("README.md", "b", "notes")

    def test_what_an_ensemble_runs_is_staged_without_being_named(self) -> None:
        plan = make_plan(GOOD, ("e",), PLACE, also={"b"})
        assert plan.models == ("e",)
        assert [each.path for each in plan.files] == ["b/2/model.pt", "e/config.pbtxt"]

    @pytest.mark.parametrize(
        "path",
        ["../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "..", "", "a/", "a/\0", "a/\ud800", "a/" + "x" * 256, "a/" + "é" * 128],
    )
    def test_a_name_that_leaves_the_tree_or_cannot_be_is_refused(self, path: str) -> None:
        with pytest.raises(PlanError, match="rename it there"):
            make_plan([*GOOD, file(path)], ("a",), PLACE)

    def test_an_upload_under_way_is_waited_for(self) -> None:
        with pytest.raises(PlanError, match="still being uploaded") as caught:
            make_plan([*GOOD, file("a/1/big._COPYING_")], ("a",), PLACE)
        assert caught.value.retry

    def test_an_upload_under_way_elsewhere_is_nobodys_business(self) -> None:
        make_plan([*GOOD, file("b/1/big._COPYING_")], ("a",), PLACE)


class TestPieces:
    @pytest.mark.parametrize(("length", "lengths"), [(0, []), (1, [1]), (10, [10]), (11, [10, 1]), (30, [10, 10, 10])])
    def test_cover_the_file_once(self, length: int, lengths: list[int]) -> None:
        found = pieces(file("a", length), 10)
        assert [piece.length for piece in found] == lengths
        assert [piece.offset for piece in found] == [10 * number for number in range(len(lengths))]
        assert [piece.number for piece in found] == list(range(len(lengths)))


class TestChanged:
    def plan(self, *files: FileStatus) -> Plan:
        return make_plan(files, ("a",), PLACE)

    def test_nothing(self) -> None:
        assert changed(self.plan(file("a/1/x"), file("a/1/y")), self.plan(file("a/1/y"), file("a/1/x"))) == ()

    def test_another_new_and_gone(self) -> None:
        before = self.plan(file("a/1/same"), file("a/1/other", 5, "1"), file("a/1/gone"))
        after = self.plan(file("a/1/same"), file("a/1/other", 5, "2"), file("a/1/new"))
        assert changed(before, after) == ("a/1/gone", "a/1/new", "a/1/other")


class TestDisk:
    def test_whole_blocks_and_the_reserve_must_fit(self) -> None:
        check_disk(Disk("/d", 4096 * 3 + 100, 10), [file("a", 1), file("b", 4097)], 0, 100)
        with pytest.raises(
            PlanError, match=r"^12\.0 KiB must be copied to /d, which has 12\.1 KiB free, of which 101 bytes are held in reserve: free"
        ):
            check_disk(Disk("/d", 4096 * 3 + 100, 10), [file("a", 1), file("b", 4097)], 0, 101)

    def test_nothing_to_copy_needs_no_reserve(self) -> None:
        check_disk(Disk("/d", 0, 0), [], 0, 1 << 40)

    def test_inodes_must_suffice_where_they_are_counted(self) -> None:
        with pytest.raises(PlanError, match="3 files must be created in /d, but it has only 2 inodes free"):
            check_disk(Disk("/d", 1 << 40, 2), [file("a"), file("b")], 1, 0)
        check_disk(Disk("/d", 1 << 40, None), [file("a"), file("b")], 1, 0)


class TestEnsembles:
    CONFIG = """
    name: "pipeline" platform: "ensemble"
    # model_name: "not_this"
    ensemble_scheduling { step [ { model_name: "tokenize" model_version: -1 }, { model_name : 'bert' }, { model_name: "bert" } ] }
    """

    def test_run_the_models_of_their_steps(self) -> None:
        assert composing(self.CONFIG) == ("tokenize", "bert")

    def test_other_models_run_none(self) -> None:
        assert composing('name: "x" parameters { key: "model_name" } model_name: "y"') == ()


class TestManifest:
    ENTRIES = (Entry("a/1/x", 3, "1-3", (7,)), Entry('a/"ü\n', 0, "2-0", ()))

    def data(self) -> bytes:
        return manifest.head(PLACE, 10) + b"".join(manifest.line(entry) for entry in self.ENTRIES)

    def test_is_read_as_it_was_written(self) -> None:
        assert manifest.read(self.data(), PLACE, 10) == {entry.path: entry for entry in self.ENTRIES}

    def test_every_torn_end_gives_only_whole_entries(self) -> None:
        data, whole = self.data(), dict.fromkeys(entry.path for entry in self.ENTRIES)
        for end in range(len(data)):
            found = manifest.read(data[:end], PLACE, 10)
            assert found.keys() <= whole.keys()
            assert all(entry in self.ENTRIES for entry in found.values())
            assert len(found) == data[:end].count(b"\n") - 1 or not found

    def test_another_place_or_piece_size_claims_nothing(self) -> None:
        assert manifest.read(self.data(), "hdfs://other/models", 10) == {}
        assert manifest.read(self.data(), PLACE, 11) == {}

    @pytest.mark.parametrize("junk", [b"", b"\n", b"\xff\xfe\n", b"[]\n", b"{}\n", b"[" * 100000 + b"\n", b'{"path":1}\n', b"null\n"])
    def test_junk_claims_nothing(self, junk: bytes) -> None:
        assert manifest.read(junk, PLACE, 10) == {}
        assert manifest.read(manifest.head(PLACE, 10) + junk, PLACE, 10) == {}

    def test_the_later_line_of_a_file_counts(self) -> None:
        newer = Entry("a/1/x", 4, "2-4", (8,))
        assert manifest.read(self.data() + manifest.line(newer), PLACE, 10)["a/1/x"] == newer


class TestFigures:
    @pytest.mark.parametrize(
        ("size", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (13 << 30, "13.0 GiB"), (5000 << 40, "5000.0 TiB")]
    )
    def test_sizes_for_people(self, size: int, text: str) -> None:
        assert size_text(size) == text

    def test_a_rate_needs_a_span(self) -> None:
        assert rate([]) == rate([(1.0, 5)]) == rate([(1.0, 5), (1.0, 9)]) == 0.0
        assert rate([(1.0, 5), (2.0, 7), (3.0, 15)]) == 5.0
