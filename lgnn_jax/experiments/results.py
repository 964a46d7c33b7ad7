"""From the runs of a sweep to tables: accuracy by seed against the baseline, filters, maps."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lgnn_jax.experiments import paper
from lgnn_jax.experiments.sweep import RESULT, read_result
from lgnn_jax.methods.method import NAMED, Method
from lgnn_jax.training.config import Config, difference
from lgnn_jax.training.errors import RunError
from lgnn_jax.training.run_dir import FREE, load_config

RESAMPLES = 9999


@dataclass(frozen=True)
class Setting:
    """What a sweep compares: the finished runs of one config, that differ in their seed.

    Attributes:
      name: that of its folder.
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
        return paper.accuracy(self.config)


class Table(NamedTuple):
    """A table, ready to be printed."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def collect(out: Path) -> list[Setting]:
    """Reads the finished runs of a sweep, the baseline first.

    Raises:
      RunError: if there are none, a file is damaged, runs differ in more than their setting and
        seed, in their epochs, say, or runs of one seed began with different weights.
    """
    found = {}
    for path in sorted(out.glob(f"*/seed_*/{RESULT}")):
        config = load_config(path.parent)
        try:
            result = read_result(path)
        except ValueError as error:
            raise RunError(str(error)) from None
        setting = found.setdefault(config.name, Setting(config.name, config, {}))
        _check_alike(out, next(iter(found.values())), setting, config)
        setting.results[config.seed] = result
    if not found:
        raise RunError(f"{out} holds no finished run of a sweep.")
    by_seed = {}
    for setting in found.values():
        for seed in sorted(setting.results):
            result = setting.results[seed] = setting.results.pop(seed)
            first = by_seed.setdefault(seed, (setting.name, result["init_sha256"]))
            if first[1] != result["init_sha256"]:
                raise RunError(
                    f"{out}: {first[0]} and {setting.name} began seed {seed} with different "
                    "weights; they cannot be compared. Were they run with different versions?"
                )

    def place(setting):
        config, s = setting.config, setting.config.som
        known = list(NAMED)
        variant = known.index(config.variant) if config.variant in known else len(known)
        layers = ("main", "resblocks", "all").index(s.layers)
        return variant, config.variant, layers, s.kernel_size or math.inf, s.sigma

    return sorted(found.values(), key=place)


def _check_alike(out: Path, first: Setting, setting: Setting, config: Config) -> None:
    """Raises RunError if a run differs in more than its setting and seed from the others."""
    for other, of_setting in ((setting.config, False), (first.config, True)):
        for name, theirs, ours in difference(other, config):
            may_differ = of_setting and (name == "variant" or name.startswith("som."))
            if name not in ("seed", *FREE) and not may_differ:
                raise RunError(
                    f"{out}: {other.name}, seed {other.seed}, and {config.name}, seed "
                    f"{config.seed}, cannot be compared: {name} is {theirs!r} in one and {ours!r} "
                    "in the other."
                )


def differences(setting: Setting, baseline: Setting) -> dict[int, float]:
    """Returns by how many percentage points a setting's accuracy exceeds the baseline's, by seed.

    Seeds that only one of them has are left out.
    """
    theirs = baseline.accuracies
    return {seed: a - theirs[seed] for seed, a in setting.accuracies.items() if seed in theirs}


def median_interval(values: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """Returns a bootstrap interval of the median: the middle 95 % of 9,999 resamples.

    Of a few values it is too narrow: of three, one in four such intervals misses the median, of
    five one in sixteen.

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
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(np.median(values[drawn], axis=1), [2.5, 97.5])
    return float(low), float(high)


def tables(settings: list[Setting]) -> list[Table]:
    """Returns the tables of a sweep: accuracies (I and II), magnitudes (III), and maps by layer."""
    return [_accuracies(settings), _magnitudes(settings), _maps(settings)]


def find_baseline(settings: list[Setting]) -> Setting | None:
    """Returns the setting in which nothing makes a map, if there is one."""
    return next((setting for setting in settings if setting.config.method == Method()), None)


def _accuracies(settings):
    baseline = find_baseline(settings)
    known = any(setting.paper is not None for setting in settings)
    rows = []
    for setting in settings:
        accuracies = list(setting.accuracies.values())
        row = [setting.name, str(len(accuracies))]
        row += [f"{f(accuracies):.2f}" for f in (np.median, min, max)]
        gain, interval = "", ""
        if baseline is not None and setting is not baseline:
            values = list(differences(setting, baseline).values())
            if values:
                gain = f"{np.median(values):+.2f}"
            if len(values) > 1:
                interval = "{:+.2f} to {:+.2f}".format(*median_interval(values))
        row += [gain, interval, _order(setting)]
        rows.append(row + [f"{setting.paper:.2f}" if setting.paper else ""] * known)
    title = "Test accuracy in %, and correlation of neighbours (of shuffled maps)"
    columns = ["setting", "n", "median", "min", "max", "gain", "bootstrap", "neighbours"]
    return Table(title, columns + ["paper"] * known, rows)


def _order(setting):
    """Correlation of neighbours (of shuffled maps): mean over layers, median over seeds."""
    maps = [list(result["maps"].values()) for result in setting.results.values() if result["maps"]]
    numbers = [
        np.median([np.mean([layer[name] for layer in layers]) for layers in maps])
        for name in ("neighbours", "shuffled")
        if maps
    ]
    return "{:.3f} ({:.3f})".format(*numbers) if maps else ""


def _magnitudes(settings):
    labels = {"minimum": "smallest", "maximum": "largest", "deviation_of_log": "deviation of log"}
    papers = paper.magnitudes(settings[0].config)
    rows = []
    for i, (name, label) in enumerate(labels.items()):
        row = [label]
        for setting in settings:
            values = [result["magnitudes"][name] for result in setting.results.values()]
            row.append(f"{np.median(values):.4g}")
        row += [f"{values[i]:.4g}" for values in papers.values()]
        rows.append(row)
    columns = ["magnitudes", *(setting.name for setting in settings)]
    columns += [f"paper, {variant}" for variant in papers]
    title = "Filters of the first layer: L2 norms, natural logarithm, median over seeds"
    return Table(title, columns, rows)


def _maps(settings):
    layers = list(dict.fromkeys(
        layer for s in settings for result in s.results.values() for layer in result["maps"]
    ))  # fmt: skip
    rows = []
    for layer in layers:
        row = [layer]
        for setting in settings:
            maps = [r["maps"][layer] for r in setting.results.values() if layer in r["maps"]]
            numbers = [np.median([m[name] for m in maps]) for name in ("neighbours", "shuffled")]
            row.append("{:.3f} ({:.3f})".format(*numbers) if maps else "")
        rows.append(row)
    title = "Correlation of neighbours by layer (of shuffled maps), median over seeds"
    return Table(title, ["layer", *(setting.name for setting in settings)], rows)
