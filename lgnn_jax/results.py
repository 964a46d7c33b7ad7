"""From the runs of a sweep to tables: accuracy by seed against the baseline, filters, maps."""

import csv
import dataclasses
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from lgnn_jax.config import Config, Variant, from_json
from lgnn_jax.log import replace_text
from lgnn_jax.run import CONFIG
from lgnn_jax.session import RunError
from lgnn_jax.sweep import RESULT

_RESAMPLES = 9999

# Tables I and II of the paper: median test accuracy in %, of five runs on CIFAR-100.
PAPER = {
    ("vgg11", "baseline", "all"): 69.96,
    ("vgg11", "constant", "all"): 70.16,
    ("vgg11", "decreasing", "all"): 70.17,
    ("vgg19", "baseline", "all"): 72.01,
    ("vgg19", "constant", "all"): 72.39,
    ("vgg19", "decreasing", "all"): 72.46,
    ("wrn16_8", "baseline", "all"): 78.87,
    ("wrn16_8", "constant", "main"): 78.90,
    ("wrn16_8", "decreasing", "main"): 78.94,
    ("wrn16_8", "constant", "resblocks"): 79.08,
    ("wrn16_8", "decreasing", "resblocks"): 79.10,
    ("wrn16_8", "constant", "all"): 79.07,
    ("wrn16_8", "decreasing", "all"): 79.12,
    ("wrn28_10", "baseline", "all"): 80.62,
    ("wrn28_10", "constant", "resblocks"): 80.88,
    ("wrn28_10", "decreasing", "resblocks"): 81.08,
    ("wrn28_10", "constant", "all"): 80.99,
    ("wrn28_10", "decreasing", "all"): 80.81,
}
# Table III: one run of VGG-19.
PAPER_MAGNITUDES = {
    "baseline": (2.1775e-06, 2.2977, 3.6854),
    "constant": (0.0111, 1.6394, 1.0199),
    "decreasing": (0.0007, 1.9456, 2.0902),
}


@dataclass(frozen=True)
class Runs:
    """The finished runs of one setting.

    Attributes:
      name: of the setting.
      config: of its runs, but for the seed.
      results: what each run's result.json holds, by seed.
    """

    name: str
    config: Config
    results: dict[int, dict[str, Any]]

    @property
    def accuracies(self) -> dict[int, float]:
        """Test accuracy in % after the last epoch, by seed."""
        return {seed: 100 * result["test_accuracy"] for seed, result in self.results.items()}

    @property
    def paper(self) -> float | None:
        """The paper's test accuracy for this setting, in %, if it has one."""
        c, s = self.config, self.config.som
        same = c.data.name == "cifar100" and c.data.train_images is None and c.model.width == 1
        layers = "all" if c.variant == "baseline" else s.layers
        same &= c.variant == "baseline" or (s.kernel_size, s.sigma) == (3, 0.5)
        return PAPER.get((c.model.name, c.variant, layers)) if same else None


class Grid(NamedTuple):
    """A table, ready to be printed."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def collect(out: Path) -> list[Runs]:
    """Reads the finished runs of a sweep, the baseline first.

    Raises:
      RunError: if there are none, a file is damaged, or runs of one seed began with different
        weights.
    """
    found = {}
    for path in sorted(out.glob(f"*/seed_*/{RESULT}")):
        try:
            result = json.loads(path.read_text())
            config = from_json((path.parent / CONFIG).read_text())
            result["test_accuracy"], result["init_sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged: {error}.") from None
        runs = found.setdefault(config.name, Runs(config.name, config, {}))
        runs.results[config.seed] = result
    if not found:
        raise RunError(f"{out} holds no finished run of a sweep.")
    by_seed = {}
    for runs in found.values():
        runs.results.update({seed: runs.results.pop(seed) for seed in sorted(runs.results)})
        for seed, result in runs.results.items():
            first = by_seed.setdefault(seed, (runs.name, result["init_sha256"]))
            if first[1] != result["init_sha256"]:
                raise RunError(
                    f"{out}: {first[0]} and {runs.name} began seed {seed} with different weights; "
                    "they cannot be compared. Were they run with different versions?"
                )

    def place(runs):
        s = runs.config.som
        layers = ("main", "resblocks", "all").index(s.layers)
        return get_args(Variant).index(runs.config.variant), layers, s.kernel_size, s.sigma

    return sorted(found.values(), key=place)


def differences(runs: Runs, baseline: Runs) -> dict[int, float]:
    """Returns by how many percentage points a setting's accuracy exceeds the baseline's, by seed.

    Seeds that only one of them has are left out.
    """
    theirs = baseline.accuracies
    return {seed: a - theirs[seed] for seed, a in runs.accuracies.items() if seed in theirs}


def median_interval(values: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """Returns a 95 % bootstrap interval of the median: percentiles over 9,999 resamples.

    Args:
      values: at least two.
      seed: of the resamples.

    Reference:
      Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.

    Example:
      >>> median_interval(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
      (1.0, 5.0)
    """
    values = np.asarray(values, np.float64)
    drawn = np.random.default_rng(seed).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.percentile(np.median(values[drawn], axis=1), [2.5, 97.5])
    return float(low), float(high)


def tables(settings: list[Runs]) -> list[Grid]:
    """Returns the tables of a sweep: accuracies (I and II), magnitudes (III), and maps by layer."""
    return [_accuracies(settings), _magnitudes(settings), _maps(settings)]


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
    }
    replace_text(out / "results.json", json.dumps(document, indent=1) + "\n")


def _baseline(settings):
    return next((runs for runs in settings if runs.config.variant == "baseline"), None)


def _accuracies(settings):
    baseline = _baseline(settings)
    paper = any(runs.paper is not None for runs in settings)
    rows = []
    for runs in settings:
        accuracies = list(runs.accuracies.values())
        row = [runs.name, str(len(accuracies))]
        row += [f"{f(accuracies):.2f}" for f in (np.median, min, max)]
        gain, interval = "", ""
        if baseline is not None and runs is not baseline:
            values = list(differences(runs, baseline).values())
            if values:
                gain = f"{np.median(values):+.2f}"
            if len(values) > 1:
                interval = "{:+.2f} to {:+.2f}".format(*median_interval(values))
        row += [gain, interval, _order(runs)]
        rows.append(row + [f"{runs.paper:.2f}" if runs.paper else ""] * paper)
    title = "Test accuracy in %, and correlation of neighbours (of shuffled maps)"
    columns = ["setting", "n", "median", "min", "max", "gain", "95 %", "neighbours"]
    return Grid(title, columns + ["paper"] * paper, rows)


def _order(runs):
    """Correlation of neighbours (of shuffled maps): mean over layers, median over seeds."""
    maps = [list(result["maps"].values()) for result in runs.results.values()]
    return "{:.3f} ({:.3f})".format(
        *(
            np.median([np.mean([layer[name] for layer in layers]) for layers in maps])
            for name in ("neighbours", "shuffled")
        )
    )


def _magnitudes(settings):
    labels = {"minimum": "smallest", "maximum": "largest", "deviation_of_log": "deviation of log"}
    rows = []
    for i, (name, label) in enumerate(labels.items()):
        row = [label]
        for runs in settings:
            values = [result["magnitudes"][name] for result in runs.results.values()]
            row.append(f"{np.median(values):.4g}")
        if settings[0].config.model.name == "vgg19":
            row += [f"{PAPER_MAGNITUDES[variant][i]:.4g}" for variant in get_args(Variant)]
        rows.append(row)
    columns = ["magnitudes", *(runs.name for runs in settings)]
    if settings[0].config.model.name == "vgg19":
        columns += [f"paper, {variant}" for variant in get_args(Variant)]
    title = "Filters of the first layer: L2 norms, natural logarithm, median over seeds"
    return Grid(title, columns, rows)


def _maps(settings):
    layers = list(dict.fromkeys(
        layer for runs in settings for result in runs.results.values() for layer in result["maps"]
    ))  # fmt: skip
    rows = []
    for layer in layers:
        row = [layer]
        for runs in settings:
            maps = [r["maps"][layer] for r in runs.results.values() if layer in r["maps"]]
            figures = [np.median([m[name] for m in maps]) for name in ("neighbours", "shuffled")]
            row.append("{:.3f} ({:.3f})".format(*figures) if maps else "")
        rows.append(row)
    title = "Correlation of neighbours by layer (of shuffled maps), median over seeds"
    return Grid(title, ["layer", *(runs.name for runs in settings)], rows)


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
    lines += ["", *_notes(settings)]
    return "\n".join(lines) + "\n"


def _notes(settings):
    notes = [
        "Runs of one seed begin with the same weights and see the same images in the same order. "
        '"gain" is the median over seeds of the difference to the baseline\'s run, in percentage '
        'points; "95 %" is a bootstrap interval of that median (percentiles, '
        f"{_RESAMPLES:,} resamples). Correlations in the first table are means over the layers."
    ]
    if any(runs.paper for runs in settings):
        notes.append('"paper" is the paper\'s median of five runs; it was not measured here.')
    return notes


def _csv(settings):
    baseline = _baseline(settings)
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
