"""Which models are loading, read from Triton's log: until all of them are done, Triton answers nothing. Pure.

tritonserver opens its ports only after the last model has loaded or failed, so that its index cannot say which model takes
long or hangs. Its log can; and for a model whose configuration cannot be read, the index has no reason even then. Lines that are not understood are left out; what the log does not say is not known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from tarn_agent.core.model import ModelState

_LOADING = re.compile(r"\] \"?loading: (?P<name>.+):(?P<version>\d+)\"?\s*$")
_LOADED = re.compile(r"\] \"?successfully loaded '(?P<name>[^']+)'")
_FAILED = re.compile(r"\] (?P<text>\"?failed to load '(?P<name>[^']+)' version \d+: (?P<reason>.*))$")
_NOT_FOUND = re.compile(r"\] \"?failed to poll model '(?P<name>[^']+)': (?P<reason>[^\"]*)")
_UNREADABLE = re.compile(r"\] (?P<text>\"?Poll failed for model directory '(?P<name>[^']+)': (?P<reason>.*))$")
_ENSEMBLE = re.compile(r"\] \"?(?:[A-Z][a-z ]+: )?ensemble (?P<name>\S+) (?P<reason>contains models [^\"]*)")
_ERROR = re.compile(r"^E\d{4} [^\]]*\] (?P<text>.+)$")


@dataclass(frozen=True)
class LoadLog:
    """What the log said so far, by model."""

    states: Mapping[str, ModelState] = field(default_factory=dict)
    error: str = ""
    """The last line that is an error."""

    def read(self, lines: Iterable[str]) -> LoadLog:
        states, error = dict(self.states), self.error
        for line in lines:
            if match := _ERROR.match(line):
                error = _reason(match["text"])
            found = _state(line)
            if found is not None:
                states[found.name] = found
        return LoadLog(states, error)

    def of(self, wanted: Iterable[str]) -> tuple[ModelState, ...]:
        """The wanted models first, those of which nothing was said as UNKNOWN, then the others (parts of an ensemble)."""
        names = list(wanted)
        known = [self.states.get(name, ModelState(name, "UNKNOWN")) for name in names]
        others = [replace(state, wanted=False) for name, state in sorted(self.states.items()) if name not in names]
        return (*known, *others)

    def explained(self, models: Iterable[ModelState]) -> tuple[ModelState, ...]:
        """The index's models; one that it calls not loaded, for no reason, with the reason that the log has."""
        return tuple(self._explained(model) for model in models)

    def _explained(self, model: ModelState) -> ModelState:
        told = self.states.get(model.name)
        if not is_silent(model) or told is None or told.state != "UNAVAILABLE":
            return model
        return replace(model, reason=told.reason)


def is_silent(model: ModelState) -> bool:
    """Triton does not say why the model is not there."""
    return model.state == "UNAVAILABLE" and model.reason in ("", "not loaded")


def _state(line: str) -> ModelState | None:
    if match := _LOADING.search(line):
        return ModelState(match["name"], "LOADING")
    if match := _LOADED.search(line):
        # Whether it serves is for the index to say, when there is one.
        return ModelState(match["name"], "LOADING", "loaded; Triton answers when the other models are done too")
    if match := _FAILED.search(line) or _UNREADABLE.search(line) or _ENSEMBLE.search(line):
        return ModelState(match["name"], "UNAVAILABLE", _reason(match["reason"]))
    if match := _NOT_FOUND.search(line):
        return ModelState(match["name"], "UNAVAILABLE", match["reason"])
    return None


def _reason(text: str) -> str:
    """Triton writes a message as a JSON string, whose line breaks are escaped."""
    quoted = text if text.startswith('"') else '"' + text
    try:
        return str(json.loads(quoted if quoted.rstrip().endswith('"') else quoted + '"')).strip()
    except ValueError:
        return text.strip().strip('"')
