"""Whether a tritonserver is READY: it lives, and its wanted models are READY. Pure.

STRICT wants all of them, PARTIAL at least one. A model of which Triton says why it is not available has failed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tarn_agent.core.events import Probed
from tarn_agent.core.model import ModelState

READY, UNAVAILABLE = "READY", "UNAVAILABLE"
_NO_FAILURE = frozenset({"", "unloaded", "not loaded"})
_NAMED = 5
_STEP_S = 5.0
"""A reason that counts seconds changes no oftener than this."""


@dataclass(frozen=True)
class Verdict:
    """`reason` says why not READY; `failed` is a sentence when a failure to load decides that it will not become READY."""

    ready: bool
    reason: str = ""
    failed: str = ""


def marked(models: Iterable[ModelState], wanted: tuple[str, ...]) -> tuple[ModelState, ...]:
    """The models with `wanted` as it is now; a wanted one of which nothing was said is UNKNOWN."""
    known = {model.name: replace(model, wanted=model.name in wanted) for model in models}
    missing = {name: ModelState(name, "UNKNOWN") for name in wanted if name not in known}
    return (*(known.get(name) or missing[name] for name in wanted), *(model for model in known.values() if not model.wanted))


def judge(probe: Probed, *, strict: bool, changing: bool = False) -> Verdict:
    """What one look tells; `probe.models` are `marked` already. Unanswered looks may carry what Triton's log said."""
    ours = [model for model in probe.models if model.wanted]
    failures = [model for model in ours if _failed(model)]
    hopeless = failures and (strict or (probe.answered and len(failures) == len(ours)))
    failed = _failure(failures, ours, strict=strict) if hopeless else ""
    if not probe.answered:
        return Verdict(False, probe.error or "tritonserver does not answer", failed)
    if not probe.live:
        return Verdict(False, probe.error or "tritonserver says that it is not live", failed)
    if not ours:
        return Verdict(False, probe.error or "no model is wanted")
    serving = [model for model in ours if model.state == READY]
    waiting = [model for model in ours if model.state != READY]
    if not serving or (strict and waiting):
        return Verdict(False, failed or _waiting(waiting), failed)
    if not probe.ready and not changing and all(model.state == READY or _at_rest(model) for model in probe.models):
        # A model that failed or is on its way keeps Triton's own readiness away; without one it means that Triton is ending.
        return Verdict(False, "tritonserver says that it is not ready")
    return Verdict(True, _failure(failures, ours, strict=False) if failures else "")


def at_rest(models: Iterable[ModelState]) -> bool:
    """Nothing is loaded or in flight: after an unload every model is UNAVAILABLE only when its last request has ended."""
    return all(model.state == UNAVAILABLE for model in models)


def loads(models: Iterable[ModelState]) -> bool:
    """Something is on its way."""
    return any(model.state in ("LOADING", "UNLOADING") for model in models)


def behind(models: Iterable[ModelState]) -> list[str]:
    """The wanted models that keep the others waiting: those of which nothing good is told, if there are any."""
    waiting = [model for model in models if model.wanted and model.state not in (READY, UNAVAILABLE)]
    return [model.name for model in waiting if not model.reason] or [model.name for model in waiting]


def loading(models: Iterable[ModelState], for_s: float) -> str:
    """A sentence while Triton's log says that wanted models are being loaded; empty where it does not. `for_s`: nothing has changed."""
    names = [model.name for model in models if model.wanted and model.state == "LOADING" and not model.reason]
    if not names:
        return ""
    told = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    who, be, have = ("model", "is", "has") if len(names) == 1 else ("models", "are", "have")
    whole_s = for_s // _STEP_S * _STEP_S
    return f"{who} {told} {have} been loading for more than {whole_s:g} s" if whole_s else f"{who} {told} {be} loading"


def _at_rest(model: ModelState) -> bool:
    return model.state == UNAVAILABLE and not _failed(model)


def _failed(model: ModelState) -> bool:
    return model.state == UNAVAILABLE and model.reason not in _NO_FAILURE


def _failure(failures: list[ModelState], ours: list[ModelState], *, strict: bool) -> str:
    told = "; ".join(f"{model.name}: {' '.join(model.reason.split())}" for model in failures[:_NAMED])
    more = f"; and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
    policy = " (TARN_MODEL_FAILURE=partial would serve the others)" if strict and len(failures) < len(ours) else ""
    return f"{len(failures)} of {len(ours)} wanted models failed to load{policy}: {told}{more}"


def _waiting(waiting: list[ModelState]) -> str:
    told = ", ".join(f"{model.name} is {model.state}" + (f" ({model.reason})" if model.reason else "") for model in waiting[:_NAMED])
    return told + (f", and {len(waiting) - _NAMED} more" if len(waiting) > _NAMED else "")
