"""The results of a sweep as files: Markdown to read, CSV to compute with, JSON with everything."""

import csv
import dataclasses
import io
import json
from pathlib import Path

from lgnn_jax.experiments.claims import Claim
from lgnn_jax.experiments.results import RESAMPLES, Setting, Table, differences, find_baseline
from lgnn_jax.training.files import replace_text


def write(
    out: Path,
    settings: list[Setting],
    tables: list[Table],
    claims: list[Claim],
    commands: list[str],
) -> None:
    """Writes results.md, results.csv and results.json into a folder.

    Args:
      out: the folder.
      settings: see `lgnn_jax.experiments.results.collect`.
      tables: of the settings, see `lgnn_jax.experiments.results.tables`.
      claims: held against the settings, see `lgnn_jax.experiments.claims.claims`.
      commands: what made them, for the reader.
    """
    replace_text(out / "results.md", _markdown(settings, tables, claims, commands))
    replace_text(out / "results.csv", _csv(settings))
    document = {
        "commands": commands,
        "settings": [
            {
                "name": setting.name,
                "config": dataclasses.asdict(setting.config) | {"seed": None},
                "paper": setting.paper,
                "results": list(setting.results.values()),
            }
            for setting in settings
        ],
        "claims": {claim.text: claim.findings for claim in claims},
    }
    replace_text(out / "results.json", json.dumps(document, indent=1) + "\n")


def _markdown(settings, tables, claims, commands):
    results = [result for setting in settings for result in setting.results.values()]

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
    for table in tables:
        lines += ["", f"**{table.title}**", "", f"| {' | '.join(table.columns)} |"]
        lines.append("|---" * len(table.columns) + "|")
        lines += [f"| {' | '.join(row)} |" for row in table.rows]
    lines += ["", "**The paper's claims, and these runs**", ""]
    for claim in claims:
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
    if any(setting.paper for setting in settings):
        notes.append('"paper" is the paper\'s median of five runs; it was not measured here.')
    return notes


def _csv(settings):
    baseline = find_baseline(settings)
    rows = []
    for setting in settings:
        to_baseline = differences(setting, baseline) if baseline is not None else {}
        for seed, result in setting.results.items():
            row = {
                "setting": setting.name,
                "seed": seed,
                "test_accuracy": result["test_accuracy"],
                "best_test_accuracy": result["best_test_accuracy"],
                "points_to_baseline": f"{to_baseline[seed]:.2f}" if seed in to_baseline else "",
                "init_sha256": result["init_sha256"],
                **{f"magnitude_{name}": value for name, value in result["magnitudes"].items()},
            }
            for layer, numbers in result["maps"].items():
                row |= {f"{name}:{layer}": numbers[name] for name in ("neighbours", "shuffled")}
            rows.append(row)
    fields = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
