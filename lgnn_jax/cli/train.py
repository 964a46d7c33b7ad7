"""`lgnn train`."""

import importlib.util
import shlex
from pathlib import Path

import jax
from rich.console import Console

from lgnn_jax.cli import layer_tables
from lgnn_jax.cli.commands import Train
from lgnn_jax.cli.errors import UsageError
from lgnn_jax.cli.processes import join
from lgnn_jax.methods.settling import find_places
from lgnn_jax.training import data, session
from lgnn_jax.training import run as run_lib
from lgnn_jax.training import run_dir as run_dir_lib
from lgnn_jax.training.config import difference, to_json
from lgnn_jax.training.log import Log


def run(command: Train) -> None:
    """Trains a network, or says what would be done.

    Raises:
      UsageError, DataError, RunError: in one line.
    """
    if command.dry_run:
        _plan(command)
    else:
        _train(command)


def _plan(command):
    config = command.run
    info = data.describe(config.data.name, command.data_dir, train_images=config.data.train_images)
    plan = session.plan(config, info)
    console = Console()
    console.print_json(to_json(config))
    layer_tables.plan(console, config, plan, info.train_count)


def _train(command):
    if command.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise UsageError("--tensorboard needs tensorboardX: pip install tensorboardX.")
    join(command.several)
    console = Console(quiet=jax.process_index() != 0)
    config = command.run
    run_dir = command.run_dir or Path("runs") / config.name
    # Before the images, for reading them can take a while.
    run_dir_lib.check_run_dir(run_dir, config, resume=command.resume)
    begun = run_dir_lib.load_config(run_dir) if command.resume else config
    images = data.load(config.data.name, command.data_dir, train_images=config.data.train_images)
    with Log(console, tensorboard=command.tensorboard) as log:
        log.say(
            f"{config.model.name}, {config.variant}, seed {config.seed}: "
            f"{len(images.train_images):,} images of {images.name}, {config.epochs} epochs, "
            f"{jax.device_count()} x {jax.devices()[0].device_kind}, to {run_dir}"
        )
        for name, old, new in difference(begun, config):
            log.say(f"{name}: {old} -> {new}")
        summary, plan, state = run_lib.run(config, images, run_dir, log, resume=command.resume)
    layer_tables.topography(console, plan, state.params, find_places(state.opt_state))
    console.print(
        f"\ntest accuracy {summary['test_accuracy']:.2%} after {config.epochs} epochs "
        f"(best {summary['best_test_accuracy']:.2%}), {summary['wall_seconds']:,.0f} s\n"
        f"{shlex.join(['lgnn', 'analyze', str(run_dir)])} draws the maps",
        highlight=False,
        soft_wrap=True,
    )
