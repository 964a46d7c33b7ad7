"""The kit's results as Markdown tables."""

import statistics
from pathlib import Path
from typing import Any

from tasks import done


def report(out: Path) -> str:
    """Returns tables of all results in a folder, and what failed."""
    entries = {name: e for name, e in done(out).items() if e["status"] == "done"}
    failed = [(name, e["why"]) for name, e in done(out).items() if e["status"] == "failed"]
    parts = []
    if "machine" in entries:
        parts.append(", ".join(f"{k} {v}" for k, v in entries["machine"]["result"].items() if v))
    for name in ("smoke/forms", "filter"):
        if name in entries:
            parts.append(f"{name}, relative error: {_pairs(entries[name]['result']['errors'])}")
    checks = [name for name in ("smoke/steps", "smoke/resume") if name in entries]
    if checks:
        parts.append(f"as they should be: {', '.join(checks)}")
    parts += [_timings(entries), _accuracies(entries), _kernels(entries)]
    parts.append("\n".join(f"- {name} failed: {why}" for name, why in failed))
    return "\n\n".join(part for part in parts if part)


def _timings(entries):
    rows = []
    for name, entry in entries.items():
        ms = entry["result"].get("timing", {}).get("ms")
        if not ms:
            continue
        base = ms.get("baseline")
        rows += [
            [name, form, f"{value:.3f}", f"{value / base:.3f}" if base else ""]
            for form, value in ms.items()
        ]
    return _table(["what", "form", "ms", "/ baseline"], rows)


def _accuracies(entries):
    groups: dict[tuple[str, str], list[Any]] = {}
    for name, entry in entries.items():
        if name.startswith("table/"):
            _, config, variant, _ = name.split("/")
            groups.setdefault((config, variant), []).append(entry["result"])
    rows = []
    for (config, variant), results in groups.items():
        accuracies = sorted(100 * r["test_accuracy"] for r in results)
        seconds = statistics.median(r["timing"]["wall_seconds"] for r in results)
        neighbours = [statistics.mean(m["neighbours"] for m in r["maps"].values()) for r in results]
        rows.append(
            [
                config,
                variant,
                str(len(results)),
                f"{statistics.median(accuracies):.2f}",
                f"{accuracies[0]:.2f}",
                f"{accuracies[-1]:.2f}",
                f"{statistics.median(neighbours):.3f}",
                f"{seconds:.0f}",
            ]
        )
    header = ["config", "variant", "n", "median accuracy, %", "min", "max", "neighbours", "s a run"]
    return _table(header, rows)


def _kernels(entries):
    rows = []
    for name, entry in entries.items():
        timing = entry["result"].get("timing", {})
        if "busy_us_a_step" in timing:
            keys = ("us_a_step", "busy_us_a_step", "kernels_a_step")
            rows.append([name, "all", *(str(timing[k]) for k in keys)])
            for kernel, (us, times) in list(timing["kernels"].items())[:20]:
                rows.append([name, f"`{kernel[:60]}`", str(us), "", str(times)])
    return _table(["profile", "kernel", "us a step", "busy", "times a step"], rows)


def _table(header, rows):
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _pairs(values):
    return "; ".join(f"{name} {value}" for name, value in values.items())
