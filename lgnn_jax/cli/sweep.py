"""`lgnn sweep`."""

import dataclasses
import sys
from pathlib import Path

from rich.console import Console

from lgnn_jax.cli.commands import Sweep
from lgnn_jax.cli.errors import UsageError
from lgnn_jax.cli.table import show
from lgnn_jax.experiments.sweep import settings, sweep
from lgnn_jax.training import data
from lgnn_jax.training.config import Config
from lgnn_jax.training.session import plan


def run(command: Sweep, line: str) -> None:
    """Trains what is not trained yet, and prints tables; exits with 1 if a run failed.

    Args:
      command: what to train.
      line: the command as it was typed, for the reader of the tables.

    Raises:
      UsageError, DataError, RunError: in one line.
    """
    base = Config(**vars(command.run))
    if not (command.variants and command.seeds):
        raise UsageError("a sweep needs at least one of --variants and one of --seeds.")
    layers = command.layers or (base.som.layers,)
    windows = command.windows or ((base.som.kernel_size, base.som.sigma),)
    try:
        configs = settings(base, command.variants, layers, windows)
        folders = {}
        for size, sigma in windows:
            (folder,) = settings(base, ("constant",), layers[:1], [(size, sigma)])
            if folder in folders:
                raise ValueError(
                    f"--windows: {folders[folder]} and {size} {sigma} are one setting, {folder}: "
                    "leave one out."
                )
            folders[folder] = f"{size} {sigma}"
        for seed in command.seeds:
            dataclasses.replace(base, seed=seed)
    except ValueError as error:
        raise UsageError(str(error)) from error
    out = command.out or Path("runs") / f"{base.name}_sweep"
    what = {"train_images": base.data.train_images}
    for config in configs.values():
        plan(config, data.describe(config.data.name, command.data_dir, **what))
    images = data.load(base.data.name, command.data_dir, **what)
    console = Console()
    failures = sweep(configs, tuple(dict.fromkeys(command.seeds)), images, out, console)
    for which, why in failures.items():
        print(f"lgnn: {which} failed: {why}", file=sys.stderr)
    show(console, out, [line])
    if failures:
        sys.exit(1)
