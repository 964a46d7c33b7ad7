"""The `lgnn` command."""

import argparse
import ast
import contextlib
import dataclasses
import importlib.util
import io
import os
import re
import runpy
import shlex
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args, get_type_hints

import tyro
from rich.console import Console
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from lgnn_jax.atlas import class_sets
from lgnn_jax.cli import show
from lgnn_jax.training import config as config_lib
from lgnn_jax.training.config import Config, Som, Variant


class UsageError(Exception):
    """A command that cannot be carried out; one clear line."""


class ParseError(UsageError):
    """A command with flags or values that are none."""


_Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]
_ConfigName = Annotated[str, tyro.conf.arg(metavar="NAME|FILE.py")]
_DataDir = Annotated[
    Path | None,
    tyro.conf.arg(
        metavar="DIR",
        help="Where prepared data sets lie.",
        help_behavior_hint="(default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)",
    ),
]


def _several(metavar):
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="(default: one process)")


@dataclasses.dataclass(frozen=True)
class Processes:
    """A run of several processes."""

    coordinator: Annotated[str | None, _several("HOST:PORT")] = None
    """For a run of several processes: where process 0 listens; or auto, on Cloud TPU and Slurm."""
    processes: Annotated[int | None, _several("INT")] = None
    """Number of processes of such a run."""
    process: Annotated[int | None, _several("INT")] = None
    """Number of this one, from 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Train a network; without options a small one, on handwritten digits."""

    config: _ConfigName = "quickstart"
    """A config by name (lgnn configs lists them), or a Python file that defines `config`, which is
    run. It supplies the defaults of the other options; with --resume, the run itself does."""
    run: Annotated[Config, tyro.conf.arg(name="")]
    run_dir: Annotated[
        Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: runs/NAME)")
    ] = None
    """Where the run is kept."""
    resume: _Switch = False
    """Go on with the run in the run directory, from its newest checkpoint and with its own config.
    Epochs can be added: --resume --epochs 60. With --config too, the two must agree."""
    dry_run: _Switch = False
    """Print the config, the layers with their maps and the steps; write nothing."""
    tensorboard: _Switch = False
    """Write event files for TensorBoard too, into tensorboard/ in the run directory: scalars, and
    the first layer's map after each epoch. Needs the extra of this name."""
    data_dir: _DataDir = None
    several: Annotated[Processes, tyro.conf.arg(name="")] = Processes()


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluate the newest checkpoint of a run on its test images."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """A run directory, such as runs/quickstart."""
    data_dir: _DataDir = None


@dataclasses.dataclass(frozen=True)
class _Shared(Config):
    """What the runs of a sweep share."""

    name: str = "run"
    """Name of the sweep, in that of its folder; letters, digits, '.', '_' and '-'."""
    variant: tyro.conf.Suppress[Variant] = "constant"
    seed: tyro.conf.Suppress[int] = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """Train every variant on every seed and print tables; run again, it goes on.

    They are results.md, results.csv and results.json in the sweep's folder.
    """

    config: _ConfigName = "quickstart"
    """A config by name (lgnn configs lists them), or a Python file that defines `config`, which is
    run. It supplies the defaults of the options from --name on."""
    variants: Annotated[
        tuple[Variant, ...], tyro.conf.arg(metavar="{baseline,constant,decreasing} ...")
    ] = get_args(Variant)
    """Variants to compare; baseline: no filter; constant: sigma stays; decreasing: sigma falls with
    every epoch, towards 0."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (0, 1, 2, 3, 4)
    """Runs of one seed begin with the same weights and see the same images."""
    layers: Annotated[
        tuple[Literal["main", "resblocks", "all"], ...],
        tyro.conf.arg(
            metavar="{main,resblocks,all} ...", help_behavior_hint="(default: som.layers)"
        ),
    ] = ()
    """Sets of a Wide ResNet's layers to compare."""
    windows: Annotated[
        tuple[tuple[int, float], ...],
        tyro.conf.arg(
            metavar="SIZE SIGMA ...", help_behavior_hint="(default: som.kernel-size and som.sigma)"
        ),
    ] = ()
    """Windows of the filter to compare, each its side and its sigma in map units: 3 0.5 5 1.0."""
    out: Annotated[
        Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: runs/NAME_sweep)")
    ] = None
    """Where the runs and the tables are kept."""
    data_dir: _DataDir = None
    run: Annotated[_Shared, tyro.conf.arg(name="")]


@dataclasses.dataclass(frozen=True)
class ShowTable:
    """Print the tables of a sweep, and write results.md, .csv and .json anew."""

    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SWEEP_DIR")]
    """The folder of a sweep; runs that are not finished are left out."""


_CLASSES = (
    "What to look for on the maps: classes, or sets of classes, several joined by +, as in trees "
    "pine_tree+palm_tree. Sets are, "
    + "; ".join(f"of {data}: {', '.join(sets)}" for data, sets in class_sets.NAMED.items())
    + "."
)


@dataclasses.dataclass(frozen=True)
class Analyze:
    """Draw the maps of a run, or of several, and put numbers to their order."""

    run_dirs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="RUN_DIR ...", help_behavior_hint="(required)"),
    ]
    """One or more run directories, of one network on the same images."""
    layers: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="LAYER ...", help_behavior_hint="(default: the last one)"),
    ] = ()
    """Convolutions whose maps are drawn, such as conv5_2. Numbers are of all layers."""
    classes: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="CLASSES ...",
            help=_CLASSES,
            help_behavior_hint="(default: a choice that suits the data set)",
        ),
    ] = ()
    visualize: Literal["shown", "all", "none"] = "shown"
    """Feature visualisations of the neurons in the figures, of a whole layer, or of none."""
    steps: int = 128
    """Steps of each feature visualisation."""
    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: the first run's directory)"),
    ] = None
    """Where figures/, analysis.json and analysis.npz are written."""
    data_dir: _DataDir = None


@dataclasses.dataclass(frozen=True)
class Configs:
    """List the configs that --config knows by name."""


_COMMANDS = {
    "train": Train,
    "evaluate": Evaluate,
    "sweep": Sweep,
    "table": ShowTable,
    "analyze": Analyze,
    "configs": Configs,
}
_REGISTRY = ConstructorRegistry()


def main(argv: list[str] | None = None) -> None:
    """Runs `lgnn` with the given arguments, by default those of the command line."""
    # Slow to import, and their errors are not needed before.
    from lgnn_jax.training import compilation
    from lgnn_jax.training.data import DataError
    from lgnn_jax.training.session import RunError
    from lgnn_jax.training.signals import Stopped

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
        if not isinstance(command, (ShowTable, Configs)):  # they compute nothing
            compilation.prepare()
        actions[type(command)](command)
    except (UsageError, DataError, RunError) as error:
        status = 2 if isinstance(error, ParseError) else 1
        print(f"lgnn: {error}", file=sys.stderr)
        _exit(status)
    except Stopped as stopped:
        how = "the same command" if argv[:1] == ["sweep"] else "--resume"
        print(f"lgnn: stopped by {stopped}; {how} goes on from the last step", file=sys.stderr)
        sys.exit(128 + stopped.number)
    except KeyboardInterrupt:
        how = {"train": "--resume", "sweep": "the same command"}.get((argv or [""])[0])
        more = f"; {how} goes on from the newest checkpoint" if how else ""
        print(f"lgnn: interrupted{more}", file=sys.stderr)
        _exit(130)
    except Exception as error:
        if type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error):
            cause = str(error).splitlines()[0]
            advice = ""
            if argv[:1] == ["train"]:
                advice = (
                    " A smaller --batch-size or --model.dtype bfloat16 needs less; it is another "
                    "run, with another --run-dir."
                )
            print(f"lgnn: the device's memory is too small: {cause}{advice}", file=sys.stderr)
        elif not _is_one_of_several():
            raise
        else:
            traceback.print_exc()
        _exit(1)


def _exit(status: int) -> NoReturn:
    """Ends the process; if it is one of several, at once.

    An orderly exit waits minutes for the others, which wait for this one.
    """
    if _is_one_of_several():
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _is_one_of_several() -> bool:
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


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
        raise UsageError(f"{path} must define `config`, a Config, got {config!r}.")
    try:  # through JSON: what is kept beside a run, and where types are checked
        return config_lib.from_json(config_lib.to_json(config))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from error


def _parse(argv: list[str]) -> Any:
    """Parses the arguments; the config that is named supplies the defaults of all its fields."""
    name, rest = (argv or [""])[0], argv[1:]
    if name in _COMMANDS:
        options = {"args": rest, "prog": f"lgnn {name}"}
        if name == "train":
            return _cli(Train, default=Train(run=_defaults(argv)), **options)
        if name == "sweep":
            return _cli(Sweep, default=Sweep(run=_Shared(**vars(_defaults(argv)))), **options)
        return _cli(_COMMANDS[name], **options)
    if name and not name.startswith("-"):
        close = config_lib.nearest(name, list(_COMMANDS))
        raise ParseError(f"no command {name!r}{close} Known are {', '.join(_COMMANDS)}.")
    # By hand above, since tyro's messages name a command's fields by its own inner ones.
    train, evaluate, sweep, table, analyze, configs = (
        Annotated[command, tyro.conf.subcommand(name)] for name, command in _COMMANDS.items()
    )
    return _cli(
        tyro.conf.OmitSubcommandPrefixes[train | evaluate | sweep | table | analyze | configs],
        args=argv,
        prog="lgnn",
        description="Neural networks whose neurons organise themselves on a map.",
    )


def _defaults(argv: list[str]) -> Config:
    """The config that is named; where none is and a run goes on, the one that it was begun with."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config", nargs="?")
    early.add_argument("--run-dir", "--run_dir", nargs="?", type=Path)
    early.add_argument("--name", nargs="?", default="quickstart")
    early.add_argument("--resume", action="store_true")
    early.add_argument("--variant", nargs="?", default="")
    early.add_argument("--seed", nargs="?", default="")
    known, _ = early.parse_known_args(argv)
    if argv[0] == "sweep" and (known.variant, known.seed) != ("", ""):
        raise UsageError("a sweep takes --variants and --seeds instead of --variant and --seed.")
    goes_on = argv[0] == "train" and known.resume and not _asks_for_help(argv)
    if goes_on and known.config is None:
        from lgnn_jax.training.run import load_config as load_saved

        return load_saved(known.run_dir or Path("runs") / str(known.name))
    return load_config("quickstart" if known.config is None else known.config)


def _asks_for_help(argv: list[str]) -> bool:
    return not {"-h", "--help"}.isdisjoint(argv)


def _cli(command: Any, *, args: list[str], prog: str, **options: Any) -> Any:
    """Calls `tyro.cli`; what it says in a box of many lines becomes a ParseError of one."""
    options |= {"args": args, "prog": prog, "registry": _REGISTRY}
    if _asks_for_help(args):
        return tyro.cli(command, **options)
    columns, said = os.environ.get("COLUMNS"), io.StringIO()
    os.environ["COLUMNS"] = "1000000"  # so that nothing is broken in two
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(command, **options)
    except ValueError as error:  # from a config's own checks; tyro reports those of a section
        raise UsageError(str(error)) from error
    except SystemExit as exit_:
        if not exit_.code:
            raise
        # Below a title and, where a terminal has ASCII only, a rule; below the next rule is help.
        lines = [line.strip("│ ") for line in said.getvalue().splitlines()[1:-1]]
        text, *more = re.split(r"\n[─-]+\n", "\n".join(lines).lstrip("-\n"), maxsplit=1)
        text = re.sub(r"^Error parsing run[.\w]*: ", "", " ".join(text.split())).rstrip(".")
        close = re.search(r"Perhaps you meant:\n(--[\w.-]+)", "".join(more))
        meant = f"; did you mean {close[1]}?" if close else "."
        raise ParseError(f"{text}{meant} See {prog} --help.") from None
    finally:
        del os.environ["COLUMNS"]
        if columns is not None:
            os.environ["COLUMNS"] = columns


@_REGISTRY.primitive_rule
def _table_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """How som.table is given: tyro would take the last of several values of one key."""
    if info.type != get_type_hints(Som)["table"]:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="KEY ROWS COLUMNS ...",
        instance_from_str=_table,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda table: [
            str(word) for key, dims in table.items() for word in (key, *(dims or (None,)))
        ],
    )


def _table(words: list[str]) -> dict[str, tuple[int, int] | None]:
    table, left = {}, list(words)
    while left:
        key, *dims = left[: 2 if left[1:2] == ["None"] else 3]
        if dims != ["None"] and not re.fullmatch(r"\d{1,9} \d{1,9}", " ".join(dims)):
            raise ValueError(
                "it takes keys, each with rows and columns or with None, as in 64 8 8 stem None; "
                f"got {' '.join(left):.80}"
            )
        if key in table:
            raise ValueError(f"it has {key!r} twice: leave one out")
        table[key] = None if dims == ["None"] else (int(dims[0]), int(dims[1]))
        del left[: 1 + len(dims)]
    return table


def _train(command: Train) -> None:
    if command.dry_run:
        _dry_run(command)
        return
    import jax

    from lgnn_jax.training import data
    from lgnn_jax.training import run as run_lib
    from lgnn_jax.training.log import Log

    if command.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise UsageError("--tensorboard needs tensorboardX: pip install tensorboardX.")
    _join_processes(command.several)
    console = Console(quiet=jax.process_index() != 0)
    config = command.run
    run_dir = command.run_dir or Path("runs") / config.name
    # Before the images, for reading them can take a while.
    run_lib.check_run_dir(run_dir, config, resume=command.resume)
    begun = run_lib.load_config(run_dir) if command.resume else config
    images = data.load(config.data.name, command.data_dir, train_images=config.data.train_images)
    with Log(console, tensorboard=command.tensorboard) as log:
        log.say(
            f"{config.model.name}, {config.variant}, seed {config.seed}: "
            f"{len(images.train_images):,} images of {images.name}, {config.epochs} epochs, "
            f"{jax.device_count()} x {jax.devices()[0].device_kind}, to {run_dir}"
        )
        for name, old, new in config_lib.difference(begun, config):
            log.say(f"{name}: {old} -> {new}")
        summary, plan, state = run_lib.run(config, images, run_dir, log, resume=command.resume)
    show.topography(console, plan, state.params)
    console.print(
        f"\ntest accuracy {summary['test_accuracy']:.2%} after {config.epochs} epochs "
        f"(best {summary['best_test_accuracy']:.2%}), {summary['wall_seconds']:,.0f} s\n"
        f"{shlex.join(['lgnn', 'analyze', str(run_dir)])} draws the maps",
        highlight=False,
        soft_wrap=True,
    )


def _dry_run(command: Train) -> None:
    """Prints what `train` would do."""
    from lgnn_jax.training import data, session

    config = command.run
    info = data.describe(config.data.name, command.data_dir, train_images=config.data.train_images)
    plan = session.plan(config, info)
    console = Console()
    console.print_json(config_lib.to_json(config))
    show.plan(console, config, plan, info.train_count)


def _join_processes(command: Processes) -> None:
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
    from lgnn_jax.training import data
    from lgnn_jax.training import run as run_lib

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
    from lgnn_jax.experiments.sweep import settings, sweep
    from lgnn_jax.training import data
    from lgnn_jax.training.session import plan

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
    show.sweep_tables(console, out, [line])
    if failures:
        sys.exit(1)


def _show_table(command: ShowTable) -> None:
    show.sweep_tables(Console(), command.out, [])


def _analyze(command: Analyze) -> None:
    from lgnn_jax.training import data
    from lgnn_jax.training.run import load_config as load_saved

    if not command.run_dirs:
        raise UsageError("name one or more run directories.")
    if command.steps < 1:
        raise UsageError(f"--steps must be at least 1, got {command.steps}.")
    config = load_saved(command.run_dirs[0])
    images = data.load(config.data.name, command.data_dir, train_images=config.data.train_images)

    from lgnn_jax.atlas import analyze
    from lgnn_jax.training import trained

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
    package = Path(__file__).parents[1]
    folder = next(f for f in (package / "configs", package.parent / "configs") if f.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.py"))}
