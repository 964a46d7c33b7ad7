"""Configs x seeds: many runs of one question, resumable, each with the numbers of its maps."""

import dataclasses
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pydantic
from rich.console import Console
from rich.live import Live
from rich.table import Table

from lgnn_jax.analysis.filters import Magnitudes, magnitudes
from lgnn_jax.analysis.topography import neighbour_correlation
from lgnn_jax.maps.grid import as_json
from lgnn_jax.methods.settling import find_places
from lgnn_jax.training.config import Config
from lgnn_jax.training.data import Dataset
from lgnn_jax.training.files import replace_text
from lgnn_jax.training.log import Log, duration
from lgnn_jax.training.run import run
from lgnn_jax.training.run_dir import CONFIG, check_run_dir, load_config
from lgnn_jax.training.session import Plan

RESULT = "result.json"


@dataclasses.dataclass(frozen=True)
class _Map:
    neighbours: float
    shuffled: float


@dataclasses.dataclass(frozen=True)
class _Result:
    """What a table needs of a result.json, which holds more."""

    test_accuracy: float
    init_sha256: str
    magnitudes: Magnitudes
    maps: dict[str, _Map]


def read_result(path: Path) -> dict[str, Any]:
    """Returns what a result.json holds.

    Raises:
      ValueError: if it is damaged, in one line that names what is wrong.
    """
    try:
        result = json.loads(path.read_text())
        pydantic.TypeAdapter(_Result).validate_python(result)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise ValueError(f"{path} is damaged: {where}: {first['msg'].lower()}.") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}.") from None
    return result


def sweep(
    configs: dict[str, Config], seeds: Sequence[int], dataset: Dataset, out: Path, console: Console
) -> dict[str, str]:
    """Trains each config on each seed; what is there already is not done again.

    Run directories are `out / name / seed_<seed>`. One seed means the same initial weights and the
    same images in the same order for all configs. A finished run is left as it is, one that was
    begun, or is to have more epochs now, is resumed, and one that fails does not stop the others.

    Args:
      configs: by a name that is also that of their folder; their own names and seeds are not used.
      seeds: of the runs.
      dataset: the images of all.
      out: where the runs are kept.
      console: for the progress.

    Returns:
      Why a run failed, by "name, seed s"; empty if none did.

    Raises:
      RunError: if `out` holds a run of another config, before any is begun.
    """
    runs = {
        (name, seed): dataclasses.replace(config, name=name, seed=seed)
        for seed in seeds
        for name, config in configs.items()
    }
    folders = {key: out / key[0] / f"seed_{key[1]}" for key in runs}
    for key, folder in folders.items():  # before anything is changed
        check_run_dir(folder, runs[key], resume=(folder / CONFIG).exists())
    failures = {}
    with _Board(list(configs), seeds, console) as board:
        accuracies = {key: _finished(folder, runs[key]) for key, folder in folders.items()}
        for key, accuracy in accuracies.items():
            if accuracy is not None:
                board.found(key, accuracy)
        for key, config in runs.items():
            if accuracies[key] is not None:
                continue
            board.begin(key)
            try:
                accuracy = _run(config, dataset, folders[key], _Progress(board))["test_accuracy"]
            except Exception as error:  # of whatever class: the other runs are worth having
                cause = (str(error).strip().splitlines() or [""])[0]
                failures[f"{key[0]}, seed {key[1]}"] = f"{type(error).__name__}: {cause}"
                board.end(key, None)
            else:
                board.end(key, accuracy)
    return failures


def machine() -> str:
    """Returns the name of this machine's processor and the number of its cores."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        cpu = next((s.partition(":")[2].strip() for s in lines if s.startswith("model name")), cpu)
    return f"{cpu}, {os.cpu_count()} cores"


def _finished(folder: Path, config: Config) -> float | None:
    """The accuracy of a run that has all its epochs and a result, or None."""
    try:
        result = read_result(folder / RESULT)
    except ValueError:
        return None  # it is made again
    return result["test_accuracy"] if load_config(folder).epochs == config.epochs else None


def _run(config: Config, dataset: Dataset, folder: Path, log: Log) -> dict[str, Any]:
    """Trains, or finishes, one run; writes and returns its result."""
    (folder / RESULT).unlink(missing_ok=True)  # of fewer epochs
    with log:
        summary, plan, state = run(config, dataset, folder, log, resume=(folder / CONFIG).exists())
    params = jax.device_get(state.params)
    result = summary | {"machine": machine(), "date": time.strftime("%Y-%m-%d")}
    result |= measure(plan, params, jax.device_get(find_places(state.opt_state)))
    replace_text(folder / RESULT, json.dumps(result, indent=2) + "\n")
    return result


def measure(plan: Plan, params: Any, places: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the numbers of a trained network's filters and maps, ready for JSON.

    `places` are those of `Plan.weights`.

    "magnitudes" are those of the first layer, "maps" has an entry for each layer with a map of more
    than one neuron.
    """
    maps = {}
    for layer, path in plan.layers.items():
        found = plan.maps.get(path)
        if found is not None and found.map.count > 1:
            near = neighbour_correlation(np.asarray(plan.weights(params, layer, places)), found.map)
            maps[layer] = {
                "map": as_json(found.map),
                "neighbours": near.value,
                "shuffled": float(near.shuffled.mean()),
                "shuffled_deviation": float(near.shuffled.std()),
            }
    first = np.asarray(plan.weights(params, next(iter(plan.layers))))
    return {"magnitudes": magnitudes(first)._asdict(), "maps": maps}


class _Progress(Log):
    """Tells a board how far a run is, and nobody else."""

    def __init__(self, board):
        super().__init__(Console(quiet=True, force_terminal=False))
        self._board = board

    def progress(self, step, metrics):
        self._board.move(step / self._total_steps)


class _Board:
    """What of a sweep is done, running and left: a live table on a terminal, lines elsewhere."""

    def __init__(self, names, seeds, console):
        self._names, self._seeds, self._console = names, seeds, console
        self._states = {(name, seed): "\u00b7" for name in names for seed in seeds}
        self._left = len(self._states)
        self._live = None
        self._started, self._done = time.perf_counter(), 0.0  # in runs, by this process
        self._running, self._fraction, self._first = None, 0.0, None

    def __enter__(self):
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._table, console=self._console, refresh_per_second=1
            )
            self._live.start()
        return self

    def __exit__(self, *exception):
        if self._live is not None:
            self._live.stop()

    def found(self, key, accuracy):
        self._states[key] = f"{accuracy:.2%}"
        self._left -= 1

    def begin(self, key):
        self._running, self._fraction, self._first = key, 0.0, None
        self._states[key] = "begun"

    def move(self, fraction):
        self._first = fraction if self._first is None else self._first
        self._fraction = fraction
        self._states[self._running] = f"{fraction:.0%} \u2026"

    def end(self, key, accuracy):
        self._states[key] = "failed" if accuracy is None else f"{accuracy:.2%}"
        self._done += 1 - (self._first or 0.0)
        self._left -= 1
        self._running, self._fraction, self._first = None, 0.0, None
        if self._live is None:
            outcome = "failed" if accuracy is None else f"test accuracy {accuracy:.2%}"
            self._console.print(
                f"{key[0]}, seed {key[1]}: {outcome}; {self._remaining()}",
                highlight=False,
                soft_wrap=True,
            )

    def _remaining(self):
        text = f"{len(self._states) - self._left} of {len(self._states)} runs"
        work = self._done + self._fraction - (self._first or 0.0)
        if self._left and work > 0:
            seconds = (time.perf_counter() - self._started) / work * (self._left - self._fraction)
            text += f", {duration(seconds)} left"
        return text

    def _table(self):
        table = Table(box=None, pad_edge=False, header_style="bold", caption=self._remaining())
        table.add_column("seed")
        for seed in self._seeds:
            table.add_column(str(seed), justify="right")
        for name in self._names:
            table.add_row(name, *(self._states[name, seed] for seed in self._seeds))
        return table
