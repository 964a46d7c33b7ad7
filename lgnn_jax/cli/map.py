"""`lgnn map`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from lgnn_jax.cli.commands import ShowMap
from lgnn_jax.cli.errors import UsageError
from lgnn_jax.cli.show import say
from lgnn_jax.cli.stages import Stages
from lgnn_jax.maps.shapes import Map
from lgnn_jax.training import data
from lgnn_jax.training.named_maps import map_from_text
from lgnn_jax.training.run_dir import load_config as load_saved


def run(command: ShowMap) -> None:
    """Settles the layers of a network on maps, judges these and draws them.

    Raises:
      UsageError, DataError, RunError: in one line.
    """
    for name, least in (("samples", 4), ("sweeps", 0), ("seed", 0)):
        if getattr(command, name) < least:
            raise UsageError(f"--{name} must be at least {least}, got {getattr(command, name)}.")

    # Slow to import, and not needed before.
    from lgnn_jax.analysis.settled import NO_MAP
    from lgnn_jax.atlas import settled, settled_files

    console = Console()
    features, own_maps = _of_run(command) if command.source.is_dir() else _of_file(command)
    maps = {name: own_maps.get(name) for name in features.layers}
    if command.map is not None:
        maps = {name: _shape(command.map, name, x.shape[1]) for name, x in features.layers.items()}
    settled.check_classes(features, command.classes)
    out = command.out or _beside(command.source)
    settled_files.check_writable(out)
    if features.left_out:
        say(console, f"no layers, and left out: {features.left_out}")
    with Stages(console) as stages:
        found = settled.settle_all(
            features, maps, classes=command.classes, progress=stages,
            start=command.start, sweeps=command.sweeps, seed=command.seed,
        )  # fmt: skip
        stages("figures", 0, 1)
        drawn = settled_files.draw(found)
    document = settled_files.write(out, found, drawn, _about(command, features.samples))
    for name, layer in found.layers.items():
        say(console, f"\n{name}\n{layer.judged}")
    say(console, "")
    without = [name for name, layer in found.layers.items() if layer.judged.verdict == NO_MAP]
    if without:
        say(console, f"There is no map to see in {', '.join(without)}.")
    if features.labels is None:
        say(console, "Without labels there are no figures of classes; --labels brings them.")
    figures = len(document["figures"])
    say(console, f"{figures} figure{'s' * (figures > 1)}, PNG and SVG, in {out}/;")
    say(console, f"the neuron at each place in {out / settled_files.PLACES};")
    say(console, f"all numbers in {out / settled_files.NUMBERS}")


def _of_file(command: ShowMap) -> tuple[Any, Mapping[str, Map]]:
    """The features in a file."""
    from lgnn_jax.atlas import features

    found = features.read(
        command.source,
        layers=command.layers,
        labels=command.labels,
        samples=command.samples,
        seed=command.seed,
    )
    return found, {}


def _of_run(command: ShowMap) -> tuple[Any, Mapping[str, Map]]:
    """The activations of a run for its test images, and its maps."""
    if command.labels is not None:
        raise UsageError("--labels is for files: the images of a run have labels of their own.")
    config = load_saved(command.source)
    images = data.load(config.data.name, command.data_dir, train_images=config.data.train_images)

    from lgnn_jax.atlas import features
    from lgnn_jax.training import trained

    (found,) = trained.load([command.source], images)
    kept = features.kept_samples(len(images.test_images), command.samples, command.seed)
    return features.of_run(found, images, kept, command.layers), found.maps


def _shape(text: str, layer: str, neurons: int) -> Map:
    try:
        return map_from_text(text, neurons)
    except ValueError as error:
        raise UsageError(f"--map, for {layer}: {error}") from error


def _beside(source: Path) -> Path:
    """Where the files of a map lie, if nothing else is said."""
    return source / "map" if source.is_dir() else source.with_name(f"{source.stem}_map")


def _about(command: ShowMap, samples: int) -> dict[str, Any]:
    """What map.json says of how the maps were made."""
    return {
        "input": str(command.source),
        "samples": samples,
        "start": command.start,
        "sweeps": command.sweeps,
        "seed": command.seed,
    }
