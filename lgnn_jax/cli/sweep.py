"""`lgnn sweep`."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lgnn_jax.cli.commands import Sweep
from lgnn_jax.cli.errors import UsageError
from lgnn_jax.cli.table import show
from lgnn_jax.experiments.sweep import sweep
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
        folders = {}
        for size, sigma in windows:
            (folder,) = to_compare(base, ("constant",), layers[:1], [(size, sigma)])
            if folder in folders:
                raise ValueError(
                    f"--windows: {folders[folder]} and {size} {sigma} are one setting, {folder}: "
                    "leave one out."
                )
            folders[folder] = f"{size} {sigma}"
        configs = to_compare(base, command.variants, layers, windows)
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


def to_compare(
    config: Config,
    variants: Sequence[str],
    layers: Sequence[str],
    windows: Sequence[tuple[int | None, float]],
) -> dict[str, Config]:
    """Returns the configs to compare, by a name that is also that of their folder.

    Args:
      config: what they share.
      variants: see `Config.variant`; one without a filter has no window, so it appears once.
      layers: sets of a Wide ResNet's layers, see `lgnn_jax.training.config.Som.layers`.
      windows: sizes of the filter's window and their sigma.

    Raises:
      ValueError: for a value that a config does not allow.

    Example:
      >>> list(to_compare(Config(), ["baseline", "constant"], ["all"], [(3, 0.5), (5, 1.0)]))
      ['baseline', 'constant', 'constant-5x5-sigma1']
    """
    found = {}

    def add(name, setting):
        if found.setdefault(name, setting) != setting:
            raise ValueError(f"two settings would be kept as {name!r}: rename a file.")

    own = config.som.kernel_size, config.som.sigma
    for variant in variants:
        named = dataclasses.replace(config, variant=variant)
        if named.method.filter is None:
            add(Path(variant).stem, named)
            continue
        for which in layers:
            for size, sigma in windows:
                name = [variant]
                if config.model.name.startswith("wrn"):
                    name.append(which)
                if (size, sigma) != own:
                    window = f"{size}x{size}" if size else "whole"
                    name.append(f"{window}-sigma{sigma:g}")
                som = dataclasses.replace(config.som, layers=which, kernel_size=size, sigma=sigma)
                add("-".join(name), dataclasses.replace(named, som=som))
    return found
