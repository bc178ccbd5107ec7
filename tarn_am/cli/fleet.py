"""Reads the `/status` structure for the verbs: which instance a person means, how far a wait is, what changed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tarn_am.cli import render
from tarn_am.cli.outcome import CommandError, Outcome

Status = Mapping[str, Any]
Record = Mapping[str, Any]


def instances(status: Status) -> list[Record]:
    """The instances that are not over, those asked for but not yet placed included."""
    return list(status["instances"])


def placed(status: Status) -> list[str]:
    return [i["container_id"] for i in instances(status) if i["container_id"]]


def short(container_id: str | None) -> str:
    """The last number of a container id, which is what people say: `2` for `container_1700000000000_0001_01_000002`."""
    return str(container_id).rpartition("_")[2].lstrip("0") or "0" if container_id else "?"


def resolve(text: str, known: Sequence[str]) -> str:
    """The container id that `text` means: whole, its last number, or an end that only one has. Raises CommandError."""
    if text in known:
        return text
    found = [one for one in known if text.isdigit() and short(one) == (text.lstrip("0") or "0")]
    found = found or [one for one in known if text and one.endswith(text)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(known) or "none"
    raise CommandError(
        Outcome.USAGE,
        f"{text!r} " + ("means several instances" if found else "is no instance of this application"),
        f"there are: {there}",
    )


def find(status: Status, container_id: str) -> Record | None:
    """The record of an instance that runs, else of one that ended."""
    for one in [*status["instances"], *status["ended"]]:
        if one["container_id"] == container_id:
            return dict(one)
    return None


def is_over(record: Record) -> bool:
    return record["phase"] in ("STOPPED", "FAILED")


def address(record: Record) -> str:
    endpoint = record["endpoint"]
    if not endpoint or not endpoint["http_port"]:
        return "-"
    host = f"[{endpoint['host']}]" if ":" in endpoint["host"] else endpoint["host"]
    return f"{host}:{endpoint['http_port']}"


def progress(record: Record) -> str:
    """What one instance is at, in a few words."""
    if not record["container_id"]:
        return f"a new instance {record['phase']}"
    staged = record["staging"]
    if record["phase"] == "STAGING" and staged:
        return f"instance {short(record['container_id'])} STAGING {render.staging(staged)}"
    if record["phase"] == "STARTING":
        loading = [m["name"] for m in record["models"] if m["wanted"] and m["state"] != "READY"]
        return f"instance {short(record['container_id'])} STARTING" + (f" (loads {', '.join(loading)})" if loading else "")
    if record["phase"] == "DRAINING" and record["sample"] and record["sample"]["in_flight"] is not None:
        return f"instance {short(record['container_id'])} DRAINING ({record['sample']['in_flight']:.0f} in flight)"
    return f"instance {short(record['container_id'])} {record['phase']}"


def motion(status: Status) -> str:
    """Everything that is not yet as wanted, in one line; empty when all instances are READY."""
    return " · ".join(progress(one) for one in instances(status) if one["phase"] != "READY")


def settled(status: Status, wanted: int) -> bool:
    """Whether exactly `wanted` instances are there and all are READY."""
    return status["counts"]["wanted"] == wanted and len(instances(status)) == wanted and status["counts"]["ready"] == wanted


def news(before: Status | None, after: Status) -> list[str]:
    """What happened between two views, a sentence each, oldest first; with no view before, all that is still told."""
    known = {_mark(one) for one in before["happenings"]} if before else set()
    return [told(after, one) for one in after["happenings"] if _mark(one) not in known]


def _mark(happening: Record) -> tuple[float, str, str]:
    return (happening["at"], happening["sentence"], happening["container_id"] or "")


def told(status: Status, happening: Record) -> str:
    """A line of the fleet's history for a person: with the instance's number, and its address when it is READY."""
    container, sentence = happening["container_id"], happening["sentence"]
    if not container:
        return str(sentence)
    record = find(status, container) if sentence == "is READY" else None
    if record is not None and record["phase"] == "READY":
        names = ", ".join(m["name"] for m in record["models"] if m["state"] == "READY") or "no models"
        sentence = f"is READY at {address(record)} with {names}"
    return f"instance {short(container)} {sentence}"
