"""How every benchmark tells its figures: a table for people, JSON for programs."""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Table:
    """Rows of one benchmark. A row has several samples, or one."""

    title: str
    rows: list[dict[str, object]] = field(default_factory=list)

    def add(self, what: str, samples: list[float], unit: str, aim: str = "") -> None:
        self.rows.append(
            {
                "what": what,
                "n": len(samples),
                "min": min(samples),
                "median": statistics.median(samples),
                "max": max(samples),
                "unit": unit,
                "aim": aim,
            }
        )

    def show(self) -> None:
        print(f"\n{self.title}   (load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores)")
        print(f"{'':58} {'n':>3} {'min':>10} {'median':>10} {'max':>10} {'':8} aim")
        for row in self.rows:
            numbers = " ".join(f"{row[key]:>10.3f}" for key in ("min", "median", "max"))
            print(f"{row['what']:58} {row['n']:>3} {numbers} {row['unit']:8} {row['aim']}")

    def keep(self, directory: Path, name: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        record = {"title": self.title, "load_average": os.getloadavg(), "cores": os.cpu_count(), "rows": self.rows}
        (directory / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
