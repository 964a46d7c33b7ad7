"""What benchmarks share: alternation, medians with their spread, a header, Markdown and JSON."""

import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from lgnn_jax.experiments.sweep import machine
from lgnn_jax.models.build import build_model
from lgnn_jax.training.config import Config, Model, from_json, to_json

_REST = 0.02  # seconds


def parse_case(case: str) -> Config:
    """Returns the run that `name[@width],batch[,dtype]` stands for; ends the script if none."""
    name, batch, dtype = (*case.split(","), "", "float32")[:3]
    name, _, width = name.partition("@")
    try:
        build_model(name, num_classes=1)
        model = Model(name, float(width or 1), dtype=dtype or "float32")
        return from_json(to_json(Config(model=model, batch_size=int(batch))))
    except ValueError as error:
        raise SystemExit(f"--cases: {case!r} is not name[@width],batch[,dtype]: {error}") from None


def alternate(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, np.ndarray]:
    """Times calls in turn, A B C A B C ..., after one round of warm-up.

    A short rest before each lets threads that wait for more work go to sleep, rather than take
    time from the next.

    Args:
      calls: by name; each returns when its work is done.
      repeats: rounds that count, at least 1.

    Returns:
      Seconds by name, float64 `(repeats,)`.
    """
    if repeats < 1:
        raise SystemExit(f"--repeats must be at least 1, got {repeats}.")
    seconds = {name: [] for name in calls}
    for i in range(repeats + 1):
        for name, call in calls.items():
            time.sleep(_REST)
            started = time.perf_counter()
            call()
            if i > 0:
                seconds[name].append(time.perf_counter() - started)
    return {name: np.array(values) for name, values in seconds.items()}


def ratio(a: np.ndarray, b: np.ndarray) -> str:
    """Returns the median of the ratios, round by round, with their 10th and 90th percentile."""
    low, middle, high = np.percentile(a / b, [10, 50, 90])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def environment(*packages: str) -> dict[str, str]:
    """Returns the machine and the versions that a result was measured with."""
    found = {"machine": machine(), "python": platform.python_version()}
    found["load before"] = f"{os.getloadavg()[0]:.1f}"  # PyTorch's threads suffer from any other
    for variable in ("GLIBC_TUNABLES", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "XLA_FLAGS"):
        if variable in os.environ:
            found[variable] = os.environ[variable]
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def report(
    title: str,
    environment: dict[str, str],
    columns: list[str],
    rows: list[list[str]],
    data: object,
    output: Path | None,
) -> None:
    """Prints a Markdown table under its header; writes the same with all timings as JSON."""
    print(f"## {title}\n")
    print(", ".join(f"{name} {value}" for name, value in environment.items()) + "\n")
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    if output is not None:
        document = {"title": title, "environment": environment, "data": data}
        try:
            output.write_text(json.dumps(document, indent=2) + "\n")
        except OSError as error:
            raise SystemExit(f"--output: cannot write {output}: {error.strerror}.") from error
