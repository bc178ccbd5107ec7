"""The dashboard and the login form as whole documents. Pure: a view and the time in, HTML out.

The order is that of the questions a person has: is it well; how much does it do; how large is it and how large should it be;
what does each instance do, the worst first; what happened; which models; and who says all this.
"""

from __future__ import annotations

from importlib import resources
from string import Template

from tarn_am.api import verdict
from tarn_am.api.dashboard import figures, rows
from tarn_am.api.dashboard.markup import Html, join, tag
from tarn_am.api.verdict import State
from tarn_am.core.model import FleetView, Phase
from tarn_common import __version__

_MARKS: dict[State, tuple[str, str]] = {
    State.SERVING: ("●", "good"),
    State.DEGRADED: ("◐", "warn"),
    State.NOT_SERVING: ("■", "bad"),
    State.STARTING: ("○", "calm"),
    State.IDLE: ("○", "calm"),
    State.STOPPING: ("▽", "calm"),
    State.UNKNOWN: ("?", "calm"),
}
_DOCUMENT = Template((resources.files("tarn_am.api.dashboard") / "page.html").read_text(encoding="utf-8"))
MAX_PROBLEMS = 10


def dashboard(view: FleetView, now: float, signed_in: bool = False) -> str:
    found = verdict.judge(view, now)
    mark, tone = _MARKS[found.state]
    body = join(
        _verdict(found, view, mark, tone),
        _numbers(view, now),
        _size(view),
        tag("section", rows.instances(view, now)),
        tag("section", tag("h2", "What happened"), rows.happenings(view, now)) if view.happenings else None,
        tag("section", rows.ended(view, now)) if view.ended else None,
        tag("section", rows.models(view, now)) if any(i.models for i in view.instances) else None,
        _foot(view, now, signed_in),
    )
    problems = f" ({len(found.problems)})" if found.problems else ""
    title = f"{mark} {found.state.value}{problems} · TARN {view.application_id}"
    return _document(title, tone, tag("meta", http_equiv="refresh", content=5), tag("script", src="dashboard/refresh.js", defer=True), body)


def login(complaint: str) -> str:
    """The way in; the token is posted, never put into an address."""
    form = tag(
        "form",
        tag("label", "The application's token", for_="token"),
        tag("input", id="token", name="token", type="password", required=True, autocomplete="current-password", autofocus=True),
        tag("button", "Look", type="submit"),
        method="post",
        action="dashboard",
    )
    words = tag("p", "It is in the file given with --token-file. What you open with it can look at everything and change nothing.")
    told = tag("p", complaint, class_="bad", role="alert") if complaint else None
    return _document("TARN", "calm", Html(""), Html(""), tag("section", tag("h1", "TARN"), words, told, form, class_="login"))


def _document(title: str, tone: str, refresh: Html, script: Html, body: Html) -> str:
    return _DOCUMENT.substitute(title=join(title), tone=join(tone), refresh=refresh, script=script, body=body)


def _verdict(found: verdict.Verdict, view: FleetView, mark: str, tone: str) -> Html:
    head = tag("h1", tag("span", mark, class_="mark", aria_hidden="true"), " ", found.state.value, " ", tag("small", found.sentence))
    halted = tag("p", tag("strong", "HALTED"), " ", view.halted, class_="halted", role="alert") if view.halted else None
    problems = [text for text in found.problems if not (view.halted and text.endswith(view.halted))]
    listed = tag("ul", *(tag("li", text) for text in problems[:MAX_PROBLEMS]), class_="problems") if problems else None
    more = tag("p", f"and {len(problems) - MAX_PROBLEMS} more", class_="note") if len(problems) > MAX_PROBLEMS else None
    last = tag("p", view.verdict, class_="note") if view.verdict else None
    return tag("section", head, halted, listed, more, last, class_=f"verdict {tone}", id="verdict")


def _numbers(view: FleetView, now: float) -> Html:
    fresh = [i.sample for i in view.instances if i.sample and now - i.sample.received_at <= rows.FRESH_S]
    models = [rates for sample in fresh for rates in sample.models]
    finished = figures.total([m.request_rate for m in models])
    failed = figures.total([m.failure_rate for m in models])
    share = None if failed is None or not finished else failed / finished
    return tag(
        "dl",
        _number("instances ready", f"{view.counts.ready}", f"of {view.counts.wanted} wanted"),
        _number("requests a second", figures.number(finished), f"{len(fresh)} of {len(view.instances)} report"),
        _number(
            "in flight",
            figures.number(figures.total([s.in_flight for s in fresh])),
            f"{figures.number(figures.total([m.pending for m in models]))} queued",
        ),
        _number("failed", figures.percent(share), f"{figures.number(failed)} a second"),
        class_="numbers",
    )


def _number(name: str, value: str, beside: str) -> Html:
    return tag("div", tag("dt", name), tag("dd", tag("strong", value), " ", tag("small", beside)))


def _size(view: FleetView) -> Html:
    """min ── ready ── target ── max on one line, as a picture with its text."""
    counts = view.counts
    running = sum(not i.phase.is_over and i.phase not in (Phase.REQUESTED, Phase.ALLOCATED) for i in view.instances)
    words = f"min {view.min_instances} · ready {counts.ready} · running {running} · target {counts.wanted} · max {view.max_instances}"
    top = max(view.max_instances, counts.wanted, running, 1)
    picture = tag(
        "svg",
        tag("rect", class_="track", x=0, y=7, width=1000, height=6),
        tag("rect", class_="allowed", x=_at(view.min_instances, top), y=7, width=_at(view.max_instances - view.min_instances, top), height=6),
        tag("rect", class_="running", x=0, y=4, width=_at(running, top), height=12),
        tag("rect", class_="ready", x=0, y=4, width=_at(counts.ready, top), height=12),
        tag("rect", class_="target", x=max(0, _at(counts.wanted, top) - 3), y=0, width=6, height=20),
        viewBox="0 0 1000 20", preserveAspectRatio="none", role="img", aria_label=words,
    )  # fmt: skip
    return tag("section", tag("h2", "Size"), picture, tag("p", words, class_="note"), class_="size")


def _at(count: int, top: int) -> int:
    return max(0, min(1000, round(1000 * count / top)))


def _foot(view: FleetView, now: float, signed_in: bool) -> Html:
    links = [tag("a", name, href=name) for name in ("status", "instances", "metrics", "health", "config")]
    said = f"{view.application_id} · AM {view.incarnation}, up {figures.age(now - view.started_at)} · state of {figures.age(now - view.at)} ago"
    leave = tag("form", tag("button", "Leave", name="leave", value="1"), method="post", action="dashboard") if signed_in else None
    listed = tag("p", *(part for link in links for part in (link, " ")))
    return tag("footer", tag("p", said, " · ", f"TARN {__version__}"), listed, leave)
