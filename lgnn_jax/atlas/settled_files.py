"""Files and figures of settled layers: places.npz, map.json, and pictures."""

import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import lgnn_jax
from lgnn_jax.atlas import plots
from lgnn_jax.atlas.array_files import npz_bytes
from lgnn_jax.atlas.class_pictures import draw_pictures
from lgnn_jax.atlas.folder import Folder, file_names
from lgnn_jax.atlas.settled import Settled

PLACES, NUMBERS = "places.npz", "map.json"


def draw(settled: Settled) -> dict[str, Figure]:
    """Returns the figures of all layers, by names that any file system takes."""
    drawn = {}
    for name, layer in settled.layers.items():
        judged = layer.judged
        if layer.pictures is not None:
            drawn[f"{name}_classes"] = draw_pictures(
                layer.pictures, settled.shown, judged.map, judged.places,
                f"{name}, {judged.verdict}",
            )  # fmt: skip
        drawn[f"{name}_distance"] = plots.distance_curves(
            layer.curves, name, judged.map, of="activations"
        )
    return dict(zip(file_names(drawn), drawn.values(), strict=True))


def write(
    out: Path, settled: Settled, drawn: Mapping[str, Figure], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes all files of settled layers, each whole or not at all.

    Args:
      out: a folder, see `lgnn_jax.atlas.folder.Folder.write`.
      settled: the layers.
      drawn: their figures.
      about: what else map.json says: of what they were made, and how.

    Returns:
      What map.json holds.

    Raises:
      RunError: if a file cannot be written.
    """
    places = npz_bytes({name: layer.judged.places for name, layer in settled.layers.items()})
    numbers = {
        "date": time.strftime("%Y-%m-%d"),
        **about,
        "shown": list(settled.shown),
        "layers": {name: layer.as_json() for name, layer in settled.layers.items()},
        "versions": {
            "python": platform.python_version(),
            "lgnn_jax": lgnn_jax.__version__,
            **{package.__name__: package.__version__ for package in (jax, np)},
        },
    }
    return _folder(out).write(numbers, places, drawn)


def check_writable(out: Path) -> None:
    """Makes the folder, and raises RunError unless all files can be written there."""
    _folder(out).check()


def _folder(out: Path) -> Folder:
    return Folder(out, NUMBERS, PLACES)
