"""Numbers in words and units that a person reads at a glance; an unknown one is a dash. Pure."""

from __future__ import annotations

import math
from datetime import datetime, timezone

UNKNOWN = "–"
_STEPS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def age(seconds: float | None) -> str:
    """`3 h 12 min`: the two largest units."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    left = max(0, int(seconds))
    parts: list[str] = []
    for size, unit in _STEPS:
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
        elif parts:
            break
    return " ".join(parts[:2])


def moment(at: float) -> str:
    """ISO 8601 in UTC, to the second; for tooltips and `datetime` attributes."""
    try:
        return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return UNKNOWN


def size(count: float | None) -> str:
    """Bytes, in binary units."""
    if count is None or not math.isfinite(count):
        return UNKNOWN
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def percent(share: float | None) -> str:
    return UNKNOWN if share is None or not math.isfinite(share) else f"{share * 100:.0f} %"


def number(value: float | None) -> str:
    """Three figures are enough: 0.42, 3.1, 412, 12.3 k."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if abs(value) >= 10_000:
        return f"{value / 1000:.1f} k"
    if value == int(value) or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"


def milliseconds(seconds: float | None) -> str:
    return UNKNOWN if seconds is None or not math.isfinite(seconds) else f"{number(seconds * 1000)} ms"


def total(values: list[float | int | None]) -> float | None:
    """The sum of what is known; unknown when nothing is."""
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    return sum(known) if known else None
