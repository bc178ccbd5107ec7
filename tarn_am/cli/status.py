"""`tarn status`: the structure of `/status` as a page of text. The dashboard and the JSON render the same one."""

from __future__ import annotations

import sys
from typing import Any

import click

from tarn_am.cli import fleet, render, waiting
from tarn_am.cli.client import AmClient, clean
from tarn_am.cli.options import json_option, with_am

_HAPPENINGS = 8


@click.command(
    "status",
    short_help="Show the fleet.",
    epilog="\b\nExamples:\n  tarn status\n  tarn status --watch\n  tarn status --json | jq .counts.ready\n  tarn --am http://am.example.com:8888 --token-file token status",
)
@with_am
@json_option
@click.option("--watch", is_flag=True, envvar="TARN_WATCH", show_envvar=True, help="show it again whenever it changes, until Ctrl-C")
def command(client: AmClient, as_json: bool, watch: bool) -> None:
    """Show the fleet: what serves, what does not, and why.

    The first line is the verdict. A row is one instance; its last column is the reason why it is not READY.
    """
    status = client.status()
    while True:
        if as_json:
            render.print_json(status)
        else:
            if watch and sys.stdout.isatty():
                click.clear()
            click.echo(page(status, client.trouble(), render.colourful(sys.stdout)))
        if not watch:
            return
        shown = status["version"]
        while status["version"] == shown:
            status = waiting.next_status(client, status, 1.0)


def page(status: dict[str, Any], trouble: str, colours: bool) -> str:
    """The whole answer as text; `trouble` is what `/health` complains of."""
    parts = [_headline(status, trouble, colours), _counts(status)]
    if status["instances"]:
        parts.append(render.table(_HEADINGS, [_row(one, status["at"]) for one in status["instances"]], colours))
    recent = [*status["happenings"]][-_HAPPENINGS:]
    if recent:
        parts.append(
            "\n".join(f"{render.age(status['at'] - one['at']):>7} ago  {clean(fleet.told(status, one))}" for one in reversed(recent))
        )
    return "\n\n".join(parts)


_HEADINGS = ("INSTANCE", "NODE", "PHASE", "FOR", "ADDRESS", "MODELS", "IN FLIGHT", "REQ/S", "GPU", "RESTARTS", "REASON")


def _headline(status: dict[str, Any], trouble: str, colours: bool) -> str:
    counts = status["counts"]
    word, colour = _verdict(status)
    if trouble and word == "SERVING":  # what stands here is not what is: the loop behind it hangs
        word, colour = "UNKNOWN", "red"
    word = click.style(word, fg=colour, bold=True) if colours else word
    why = status["halted"] or trouble or status["verdict"]
    return f"{word}  {counts['ready']} of {counts['wanted']} instances READY" + (f"\n{clean(why)}" if why else "")


def _verdict(status: dict[str, Any]) -> tuple[str, str]:
    """The word and its colour: the same words as the dashboard's."""
    counts = status["counts"]
    if status["shutting_down"]:
        return "STOPPING", "yellow"
    if counts["ready"]:
        whole = counts["ready"] >= counts["wanted"] and not status["halted"] and not counts["unready"]
        return ("SERVING", "green") if whole else ("DEGRADED", "yellow")
    if not counts["wanted"] and not status["halted"]:
        return "IDLE", "yellow"
    served = any("READY" in one["phases"] for one in [*status["instances"], *status["ended"]])
    troubled = status["halted"] or counts["unready"] or counts["failed_total"] or served
    return ("NOT SERVING", "red") if troubled else ("STARTING", "yellow")


def _counts(status: dict[str, Any]) -> str:
    counts = status["counts"]
    moving = [
        f"{counts[name]} {name}"
        for name in ("requested", "allocated", "launched", "staging", "starting", "unready", "draining")
        if counts[name]
    ]
    moving += [f"{counts[name]} {name.removesuffix('_total')} so far" for name in ("failed_total", "replaced_total") if counts[name]]
    up = render.age(status["at"] - status["started_at"])
    size = f"min {status['min_instances']}, wanted {counts['wanted']}, max {status['max_instances']}"
    return ", ".join([f"{status['application_id']}, AM up {up}", size, *moving])


def _row(one: dict[str, Any], now: float) -> tuple[str, ...]:
    sample = one["sample"] or {}
    return (
        one["container_id"] or f"({one['ask_id']})",
        one["node"] or "-",
        one["phase"],
        render.age(now - one["since_at"]),
        fleet.address(one),
        _models(one),
        _number(sample.get("in_flight")),
        _number(_rate(sample)),
        _gpus(sample),
        str(one["triton_restarts"]),
        _reason(one),
    )


def _models(one: dict[str, Any]) -> str:
    shown = [
        m["name"] if m["state"] == "READY" else f"{m['name']} {m['state']}"
        for m in one["models"]
        if m["wanted"] or m["state"] != "UNAVAILABLE"
    ]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "") or "-"


def _rate(sample: dict[str, Any]) -> float | None:
    rates = [m["request_rate"] for m in sample.get("models", ()) if m["request_rate"] is not None]
    return sum(rates) if rates else None


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _gpus(sample: dict[str, Any]) -> str:
    if not sample.get("gpus_known"):
        return "unknown"
    used = [f"{100 * gpu['utilization']:.0f} %" if gpu["utilization"] is not None else "unknown" for gpu in sample["gpus"]]
    return ", ".join(used) or "none"


def _reason(one: dict[str, Any]) -> str:
    if one["phase"] == "STAGING" and one["staging"]:
        return str(render.staging(one["staging"]))
    silent = "" if one["connected"] or one["phase"] in ("REQUESTED", "ALLOCATED") else "its agent is not connected"
    return "; ".join(text for text in (one["reason"], silent) if text) or "-"
