"""What can be said to `lgnn`: a dataclass a command, whose fields are its options."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lgnn_jax.atlas import class_sets
from lgnn_jax.methods.method import PAPER
from lgnn_jax.training.config import Config, Variant

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
class Shared(Config):
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
        tuple[str, ...],
        tyro.conf.arg(metavar="{baseline,constant,decreasing,self_organizing}|FILE.py ..."),
    ] = PAPER
    """Variants to compare, see lgnn train --help."""
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
    run: Annotated[Shared, tyro.conf.arg(name="")]


@dataclasses.dataclass(frozen=True)
class Table:
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


_SOURCE = (
    "A .npy file with an array (samples, neurons), what each neuron answers to each sample; or an "
    ".npz file with one such array for each layer, and perhaps labels (samples,) and class_names "
    "(classes,); or a run directory, whose test images are the samples."
)
_LABELS = (
    "The class of each sample: a .npy file of whole numbers or names, or an .npz file with labels "
    "and perhaps class_names."
)
_SHAPE = (
    "Shape of the maps: ROWSxCOLUMNS, torus:ROWSxCOLUMNS or hexagonal:ROWSxCOLUMNS for layers of "
    "as many neurons; grid, torus, hexagonal, line, ring, sphere; or a Python file that defines "
    "map(neurons), which is run."
)
_START = (
    "Where neurons begin: by modes of the graph of neurons that are alike, by principal "
    "components, or at random."
)


@dataclasses.dataclass(frozen=True)
class ShowMap:
    """See layers of any trained network as maps, where like neurons lie side by side."""

    source: Annotated[
        tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE|RUN_DIR", help=_SOURCE)
    ]
    layers: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="LAYER ...", help_behavior_hint="(default: all)")
    ] = ()
    """Layers to look at."""
    classes: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="CLASS ...",
            help_behavior_hint="(default: eight different ones with the largest patches)",
        ),
    ] = ()
    """Classes to draw."""
    labels: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FILE", help=_LABELS, help_behavior_hint="(default: those in the .npz file)"
        ),
    ] = None
    map: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="SHAPE",
            help=_SHAPE,
            help_behavior_hint="(default: the most nearly square grid; of a run, its own maps)",
        ),
    ] = None
    samples: int = 4000
    """Samples to take at most, drawn at random."""
    start: Annotated[Literal["spectral", "pca", "random"], tyro.conf.arg(help=_START)] = "spectral"
    sweeps: int = 60
    """How often all neurons may change places."""
    seed: int = 0
    """Seed of the draw of samples, their halves, shuffled maps and random starts."""
    out: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="DIR", help_behavior_hint="(default: NAME_map beside the file, or RUN_DIR/map)"
        ),
    ] = None
    """Where figures, map.json and places.npz are written."""
    data_dir: _DataDir = None


HOW_TO_READ = """
Nothing is trained. The neurons of a layer settle on half of the samples; the
other half is held out, and judges the map: is it clear, weak, or is there none?

LAYER_classes: what classes excite in held-out samples, above in the network's
order of neurons, below settled. Red neurons answer more to the class than to
the average one, blue ones less. Where there is a map, red gathers in patches
below, and classes that are alike have their patches in one place.

LAYER_distance: how much neurons correlate by their distance on the map. Where
there is a map, the curve of held-out samples begins well above the band of
shuffled maps, and falls. What the other samples show beyond it is chance.

places.npz has the map of each layer that is judged and drawn: the neuron at
each place. map.json has all numbers."""


@dataclasses.dataclass(frozen=True)
class Configs:
    """List the configs that --config knows by name."""


COMMANDS = {
    "train": Train,
    "evaluate": Evaluate,
    "sweep": Sweep,
    "table": Table,
    "analyze": Analyze,
    "map": ShowMap,
    "configs": Configs,
}
