"""The results of a sweep as files: Markdown to read, CSV to compute with, JSON with everything."""

import csv
import dataclasses
import io
import json
from pathlib import Path

from lgnn_jax.experiments.claims import claims
from lgnn_jax.experiments.results import RESAMPLES, Runs, differences, find_baseline, tables
from lgnn_jax.training.files import replace_text


def write(out: Path, settings: list[Runs], commands: list[str]) -> None:
    """Writes results.md, results.csv and results.json into a folder.

    Args:
      out: the folder.
      settings: see `collect`.
      commands: what made them, for the reader.
    """
    replace_text(out / "results.md", _markdown(settings, commands))
    replace_text(out / "results.csv", _csv(settings))
    document = {
        "commands": commands,
        "settings": [
            {
                "name": runs.name,
                "config": dataclasses.asdict(runs.config) | {"seed": None},
                "paper": runs.paper,
                "results": list(runs.results.values()),
            }
            for runs in settings
        ],
        "claims": {claim.text: claim.findings for claim in claims(settings)},
    }
    replace_text(out / "results.json", json.dumps(document, indent=1) + "\n")


def _markdown(settings, commands):
    results = [result for runs in settings for result in runs.results.values()]

    def spread(values):
        return "; ".join(dict.fromkeys(values))

    data, model = settings[0].config.data, settings[0].config.model
    images = "" if data.train_images is None else f", {data.train_images:,} images"
    versions = ("jax", "flax", "optax", "lgnn_jax", "python")
    found = [", ".join(f"{v} {r['versions'][v]}" for v in versions) for r in results]
    dates = " to ".join(sorted({min(r["date"] for r in results), max(r["date"] for r in results)}))
    lines = [
        f"# {model.name}, width {model.width:g}, on {data.name}{images}, "
        f"{settings[0].config.epochs} epochs",
        "",
        *(f"    {command}" for command in commands),
        "",
        f"{dates}; {spread(r['machine'] for r in results)}; "
        f"{spread(', '.join(sorted(set(r['devices']))) for r in results)}; {spread(found)}.",
    ]
    for grid in tables(settings):
        lines += ["", f"**{grid.title}**", "", f"| {' | '.join(grid.columns)} |"]
        lines.append("|---" * len(grid.columns) + "|")
        lines += [f"| {' | '.join(row)} |" for row in grid.rows]
    lines += ["", "**The paper's claims, and these runs**", ""]
    for claim in claims(settings):
        lines.append(f"- {claim.text}.")
        lines += [f"  - {finding}" for finding in claim.findings]
    lines += ["", *_notes(settings)]
    return "\n".join(lines) + "\n"


def _notes(settings):
    notes = [
        "Runs of one seed begin with the same weights and see the same images in the same order. "
        '"gain" is the median over seeds of the difference to the baseline\'s run, in percentage '
        f'points; "bootstrap" the middle 95 % of that median over {RESAMPLES:,} resamples, which '
        "is too narrow for a few seeds; t-tests are Student's, of the differences. Correlations in "
        "the first table are means over the layers."
    ]
    if any(runs.paper for runs in settings):
        notes.append('"paper" is the paper\'s median of five runs; it was not measured here.')
    return notes


def _csv(settings):
    baseline = find_baseline(settings)
    rows = []
    for runs in settings:
        to_baseline = differences(runs, baseline) if baseline is not None else {}
        for seed, result in runs.results.items():
            row = {
                "setting": runs.name,
                "seed": seed,
                "test_accuracy": result["test_accuracy"],
                "best_test_accuracy": result["best_test_accuracy"],
                "points_to_baseline": f"{to_baseline[seed]:.2f}" if seed in to_baseline else "",
                "init_sha256": result["init_sha256"],
                **{f"magnitude_{name}": value for name, value in result["magnitudes"].items()},
            }
            for layer, figure in result["maps"].items():
                row |= {f"{name}:{layer}": figure[name] for name in ("neighbours", "shuffled")}
            rows.append(row)
    fields = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
