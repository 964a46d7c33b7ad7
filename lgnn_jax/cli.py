"""The `lgnn` command."""

import argparse
import ast
import dataclasses
import os
import re
import runpy
import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro
from rich.console import Console

from lgnn_jax import config as config_lib
from lgnn_jax import show
from lgnn_jax.config import Config, Variant


class UsageError(Exception):
    """A command that cannot be carried out; one clear line."""


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a network; `lgnn train` alone trains a small one on handwritten digits."""

    run: Annotated[Config, tyro.conf.arg(name="")]
    config: str = "quickstart"
    """Name of a config (see `lgnn configs`), or a Python file that defines `config`; it is run."""
    run_dir: Path | None = None
    """Where the run is kept; runs/<name> by default."""
    data_dir: Path | None = None
    """Where prepared data sets lie; tensorflow-datasets' default folder if not given."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in the run directory, from its newest checkpoint."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the config, the layers with their maps and the steps; write nothing."""
    coordinator: str | None = None
    """For a run of several processes: host:port of process 0, or auto on Cloud TPU and Slurm."""
    processes: int | None = None
    """Number of processes of such a run."""
    process: int | None = None
    """Number of this one, from 0."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluate the newest checkpoint of a run on its test images."""

    run_dir: tyro.conf.Positional[Path]
    """A run directory."""
    data_dir: Path | None = None
    """Where prepared data sets lie; tensorflow-datasets' default folder if not given."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Train every variant on every seed, and print the table; run it again to go on."""

    run: Annotated[Config, tyro.conf.arg(name="")]
    config: str = "quickstart"
    """Name of a config (see `lgnn configs`), or a Python file that defines `config`; it is run."""
    variants: tuple[Variant, ...] = get_args(Variant)
    """Variants of the filter to compare."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds; runs of one seed begin with the same weights and see the same images."""
    layers: tuple[Literal["main", "resblocks", "all"], ...] | None = None
    """Sets of a Wide ResNet's layers to compare; the config's som.layers by default."""
    windows: tuple[tuple[int, float], ...] | None = None
    """Sizes of the filter's window, each with its sigma: 3 0.5 5 1.0; the config's by default."""
    out: Path | None = None
    """Where the runs and the tables are kept; runs/<name>_sweep by default."""
    data_dir: Path | None = None
    """Where prepared data sets lie; tensorflow-datasets' default folder if not given."""


@dataclasses.dataclass(frozen=True)
class ShowTable:
    """Print the tables of a sweep again, from its finished runs."""

    out: tyro.conf.Positional[Path]
    """The folder of a sweep."""


@dataclasses.dataclass(frozen=True)
class Analyze:
    """Draw the maps of a run, or of several side by side, and put numbers to their order."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories, of one network on the same images."""
    layers: tuple[str, ...] = ()
    """Convolutions whose maps are drawn; the last one by default. Numbers are of all layers."""
    classes: tuple[str, ...] = ()
    """Sets of classes: a superclass such as trees, or classes joined by +."""
    visualize: Literal["shown", "all", "none"] = "shown"
    """Feature visualisations of the neurons in the figures, of a whole layer, or of none."""
    steps: int = 128
    """Steps of each feature visualisation."""
    out: Path | None = None
    """Where figures/ and analysis.json are written; the first run's directory by default."""
    data_dir: Path | None = None
    """Where prepared data sets lie; tensorflow-datasets' default folder if not given."""


@dataclasses.dataclass(frozen=True)
class Configs:
    """List the configs that --config knows by name."""


def main(argv: list[str] | None = None) -> None:
    """Runs `lgnn` with the given arguments, by default those of the command line."""
    # Slow to import, and their errors are not needed before.
    from lgnn_jax.data import DataError
    from lgnn_jax.session import RunError
    from lgnn_jax.signals import Stopped

    warnings.formatwarning = lambda message, *_, **__: f"lgnn: {message}\n"
    argv = sys.argv[1:] if argv is None else argv
    actions = {
        Train: _train,
        Evaluate: _evaluate,
        Sweep: lambda command: _sweep(command, shlex.join(["lgnn", *argv])),
        ShowTable: _show_table,
        Analyze: _analyze,
        Configs: _configs,
    }
    try:
        command = _parse(argv)
        actions[type(command)](command)
    except (UsageError, DataError, RunError) as error:
        print(f"lgnn: {error}", file=sys.stderr, flush=True)
        if "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized():
            # An orderly exit waits minutes for the other processes, which wait for this one.
            os._exit(1)
        sys.exit(1)
    except Stopped as stopped:
        how = "the same command" if argv[:1] == ["sweep"] else "--resume"
        print(f"lgnn: stopped by {stopped}; {how} goes on from the last step", file=sys.stderr)
        sys.exit(128 + stopped.number)
    except KeyboardInterrupt:
        how = {"train": "--resume", "sweep": "the same command"}.get((argv or [""])[0])
        more = f"; {how} goes on from the newest checkpoint" if how else ""
        print(f"lgnn: interrupted{more}", file=sys.stderr)
        sys.exit(130)


def load_config(name_or_file: str) -> Config:
    """Loads a config by its name, or from a Python file that defines `config`.

    Raises:
      UsageError: if there is no such config, or the file defines none.
    """
    known = _config_files()
    path = known.get(name_or_file, Path(name_or_file))
    if not path.is_file():
        raise UsageError(
            f"no config {name_or_file!r}{config_lib.nearest(name_or_file, list(known))} "
            f"Known are {', '.join(known)}; or name a Python file."
        )
    try:
        config = runpy.run_path(str(path)).get("config")
    except Exception as error:
        raise UsageError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise UsageError(f"{path} must define `config`, an lgnn_jax.config.Config, got {config!r}.")
    try:  # through JSON: what is kept beside a run, and where types are checked
        return config_lib.from_json(config_lib.to_json(config))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from error


def _parse(argv: list[str]) -> Train | Evaluate | Sweep | ShowTable | Analyze | Configs:
    """Parses the arguments; the config that is named supplies the defaults of all its fields."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config", nargs="?")
    early.add_argument("--run-dir", "--run_dir", nargs="?", type=Path)
    early.add_argument("--resume", action="store_true")
    early.add_argument("--variant", nargs="?", default="")
    early.add_argument("--seed", nargs="?", default="")
    known, _ = early.parse_known_args(argv)
    if argv[:1] == ["sweep"] and (known.variant, known.seed) != ("", ""):
        raise UsageError("a sweep takes --variants and --seeds instead of --variant and --seed.")
    if known.resume and known.run_dir and known.config is None:
        from lgnn_jax.run import load_config as load_saved

        default = load_saved(known.run_dir)
    else:
        default = load_config("quickstart" if known.config is None else known.config)
    try:
        # By hand, since tyro's messages name a command's fields by its own inner ones.
        if argv[:1] == ["train"]:
            return tyro.cli(Train, args=argv[1:], prog="lgnn train", default=Train(default))
        if argv[:1] == ["sweep"]:
            return tyro.cli(Sweep, args=argv[1:], prog="lgnn sweep", default=Sweep(default))
        train = Annotated[Train, tyro.conf.subcommand("train")]
        evaluate = Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        sweep = Annotated[Sweep, tyro.conf.subcommand("sweep")]
        table = Annotated[ShowTable, tyro.conf.subcommand("table")]
        analyze = Annotated[Analyze, tyro.conf.subcommand("analyze")]
        configs = Annotated[Configs, tyro.conf.subcommand("configs")]
        return tyro.cli(
            tyro.conf.OmitSubcommandPrefixes[train | evaluate | sweep | table | analyze | configs],
            args=argv,
            prog="lgnn",
            description="Neural networks whose neurons organise themselves on a map.",
        )
    except ValueError as error:  # from a config's own checks; tyro reports those of a section
        raise UsageError(str(error)) from error


def _train(command: Train) -> None:
    if command.dry_run:
        _dry_run(command)
        return
    import jax

    from lgnn_jax import data
    from lgnn_jax.log import Log
    from lgnn_jax.run import check_run_dir, run

    _join_processes(command)
    console = Console(quiet=jax.process_index() != 0)
    config = command.run
    run_dir = command.run_dir or Path("runs") / config.name
    check_run_dir(run_dir, config, resume=command.resume)  # reading the images can take a while
    images = data.load(config.data.name, command.data_dir, train_images=config.data.train_images)
    with Log(console) as log:
        log.say(
            f"{config.model.name}, {config.variant}, seed {config.seed}: "
            f"{len(images.train_images):,} images of {images.name}, {config.epochs} epochs, "
            f"{jax.device_count()} x {jax.devices()[0].device_kind}, to {run_dir}"
        )
        summary, plan, state = run(config, images, run_dir, log, resume=command.resume)
    show.topography(console, plan, state.params)
    console.print(
        f"\ntest accuracy {summary['test_accuracy']:.2%} after {config.epochs} epochs "
        f"(best {summary['best_test_accuracy']:.2%}), {summary['wall_seconds']:,.0f} s",
        highlight=False,
        soft_wrap=True,
    )


def _dry_run(command: Train) -> None:
    """Prints what `train` would do."""
    from lgnn_jax import data, session

    config = command.run
    info = data.describe(config.data.name, command.data_dir, train_images=config.data.train_images)
    console = Console()
    console.print_json(config_lib.to_json(config))
    show.plan(console, config, session.plan(config, info), info.train_count)


def _join_processes(command: Train) -> None:
    """Connects to the other processes of a run, if there are any."""
    import jax

    place = command.processes, command.process
    if command.coordinator is None:
        if place != (None, None):
            raise UsageError("--processes and --process need --coordinator HOST:PORT.")
        return
    address = None if command.coordinator == "auto" else command.coordinator
    if address is not None:
        if not re.fullmatch(r".+:\d+", address):
            raise UsageError(f"--coordinator must be HOST:PORT or auto, got {address!r}.")
        if None in place or not 0 <= place[1] < place[0]:
            raise UsageError(
                "--coordinator HOST:PORT needs --processes N and --process I, 0 <= I < N, got "
                f"{place[0]} and {place[1]}."
            )
    try:
        jax.distributed.initialize(address, *place)
    except (RuntimeError, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise UsageError(f"--coordinator {command.coordinator}: {cause}") from error


def _evaluate(command: Evaluate) -> None:
    from lgnn_jax import data
    from lgnn_jax import run as run_lib

    config = run_lib.load_config(command.run_dir)
    images = data.load(config.data.name, command.data_dir, train_images=config.data.train_images)
    session, state = run_lib.restore(config, images, command.run_dir)
    metrics = session.evaluate(state)
    console = Console()
    show.topography(console, session.plan, state.params)
    console.print(
        f"\nstep {int(state.step):,}: test accuracy {metrics.accuracy:.2%}, loss "
        f"{metrics.loss:.4f}, on {len(images.test_images):,} images",
        highlight=False,
        soft_wrap=True,
    )


def _sweep(command: Sweep, line: str) -> None:
    from lgnn_jax import data
    from lgnn_jax.session import plan
    from lgnn_jax.sweep import settings, sweep

    base = command.run
    if not (command.variants and command.seeds):
        raise UsageError("a sweep needs at least one of --variants and one of --seeds.")
    layers = command.layers or (base.som.layers,)
    windows = command.windows or ((base.som.kernel_size, base.som.sigma),)
    try:
        configs = settings(base, command.variants, layers, windows)
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
    show.sweep_tables(console, out, [line])
    if failures:
        sys.exit(1)


def _show_table(command: ShowTable) -> None:
    show.sweep_tables(Console(), command.out, [])


def _analyze(command: Analyze) -> None:
    from lgnn_jax import data
    from lgnn_jax.run import load_config as load_saved

    if not command.run_dirs:
        raise UsageError("name one or more run directories.")
    if command.steps < 1:
        raise UsageError(f"--steps must be at least 1, got {command.steps}.")
    config = load_saved(command.run_dirs[0])
    images = data.load(config.data.name, command.data_dir, train_images=config.data.train_images)

    from lgnn_jax import analyze, trained

    runs = trained.load(command.run_dirs, images)
    out = command.out or command.run_dirs[0]
    request = analyze.Request(command.layers, command.classes, command.visualize, command.steps)
    console = Console()
    with show.Stages(console) as stages:
        document = analyze.analyze(runs, images, out, request, progress=stages)
    show.analysis(console, document)
    figures = out / analyze.FOLDER
    show.say(console, f"\n{len(document['figures'])} figures, PNG and SVG, in {figures}/;")
    show.say(console, f"all numbers in {out / analyze.NUMBERS}")


def _configs(command: Configs) -> None:
    del command
    table = show.make_table(("name", "left"), ("what it is", "left"))
    for name, path in _config_files().items():
        doc = ast.get_docstring(ast.parse(path.read_text())) or ""
        table.add_row(name, doc.partition("\n")[0])
    Console().print(table)


def _config_files() -> dict[str, Path]:
    """Configs by name: those of the installed package, or of the checkout that it runs from."""
    package = Path(__file__).parent
    folder = next(f for f in (package / "configs", package.parent / "configs") if f.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.py"))}
