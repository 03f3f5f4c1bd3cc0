"""Figures to words: best, median and quartiles of each runtime, ratios of ours to each peer. Pure."""

from __future__ import annotations

import statistics

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Samples = list[dict[str, float]]

SCALE = {"ms": 1000.0, "MiB": 1.0}
# (measure, who, kind of peer) to the ratio we aim at, for the best run and for the median
AIMS = {
    ("run", "pyruntime", "runc"): 0.55,
    ("run", "pyruntime", "crun"): 1.0,
    ("run", "library", "crun"): 0.7,
    ("create+start+delete", "pyruntime", "runc"): 0.70,
    ("create+start+delete, systemd", "pyruntime", "runc"): 1.0,
    ("exec", "pyruntime", "runc"): 0.65,
    ("state", "pyruntime", "runc"): 1.6,
    ("peak memory of run", "pyruntime", "runc"): 1.0,
}
OURS = ("pyruntime", "library")


def summary(samples: Samples, unit: str) -> dict[str, Any]:
    """n, best, median, quartiles in `unit`, and the medians of the details. {} without samples."""
    if not samples:
        return {}
    values = sorted(sample[""] * SCALE[unit] for sample in samples)
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    details = {
        key: round(statistics.median(sample[key] for sample in samples) * SCALE[unit], 3) for key in samples[0] if key
    }
    return {
        "n": len(values), "unit": unit, "best": round(values[0], 3), "median": round(statistics.median(values), 3),
        "q1": round(quartiles[0], 3), "q3": round(quartiles[2], 3), "details": details,
    }  # fmt: skip


def ratios(rows: dict[str, dict[str, Any]], measure: str, kinds: dict[str, str]) -> list[dict[str, Any]]:
    """Ours over each peer, with the aim where there is one. `kinds`: name of a runtime to runc, crun, …"""
    out = []
    for ours in OURS:
        for peer, row in rows.items():
            if peer in OURS or not row or not rows.get(ours):
                continue
            best, median = (round(rows[ours][key] / row[key], 3) for key in ("best", "median"))
            aim = AIMS.get((measure, ours, kinds.get(peer, "")))
            met = None if aim is None else best <= aim and median <= aim
            out.append({"ours": ours, "peer": peer, "best": best, "median": median, "aim": aim, "met": met})
    return out


def table(measure: str, unit: str, rows: dict[str, dict[str, Any]], found: list[dict[str, Any]],
          failures: dict[str, str]) -> list[str]:
    """One measure as lines of text."""
    lines = [f"  {measure} ({unit})"]
    for name, row in rows.items():
        if row:
            lines.append(f"    {name:<12} best {row['best']:9.2f}   median {row['median']:9.2f}"
                         f"   [{row['q1']:.2f} .. {row['q3']:.2f}]   n {row['n']}")  # fmt: skip
        if name in failures:
            lines.append(f"    {name:<12} failed: {failures[name]}")
    for ratio in found:
        aim = "" if ratio["aim"] is None else f"   aim {ratio['aim']:.2f} {'met' if ratio['met'] else 'MISSED'}"
        pair = f"{ratio['ours']} / {ratio['peer']}"
        lines.append(f"    {pair:<24} best {ratio['best']:5.2f}   median {ratio['median']:5.2f}{aim}")
    return lines
