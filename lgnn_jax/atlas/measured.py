"""What is known of runs once they have been measured: numbers, arrays, and the maps of layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lgnn_jax.maps.shapes import Map


@dataclass(frozen=True, eq=False)
class Measured:
    """All that figures are drawn from.

    Attributes:
      numbers: what analysis.json holds, apart from the names of the figures.
      arrays: what analysis.npz holds, by `array_name`. Of every layer "neighbours", the correlation
        of neighbours on shuffled maps, float64 `(shuffles,)`; and "distance", "distance_pairs",
        "distance_values" and "distance_shuffled", the fields of
        `lgnn_jax.analysis.topography.DistanceCurve`. Of those that are looked at "correlations",
        float64 `(places, neurons)`; "means", float64 `(classes, neurons)`; and "pictures", float32
        `(neurons, height, width, colours)` in [0, 1], if any were made; and, where they settled,
        "settled_places", int32 `(places,)`, the neuron at each place, and "settled_responses",
        float64 `(classes, neurons)`, see `lgnn_jax.atlas.class_pictures`. Of the first layer
        "kernel" and "initial_kernel", if they can be shown.
      maps: by layer, of every layer.
      class_names: in the order of their labels.
      looked_at: the layers with figures of their own.
      first_filters: whose weights are shown, or None.
      pictures_of_all: whether all neurons of the layers that are looked at have their pictures.
    """

    numbers: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    maps: Mapping[str, Map]
    class_names: tuple[str, ...]
    looked_at: tuple[str, ...]
    first_filters: str | None
    pictures_of_all: bool

    @property
    def runs(self) -> list[str]:
        """Their names."""
        return list(self.numbers["runs"])

    def layer(self, run: str, layer: str) -> dict[str, Any]:
        """Returns the numbers of a layer."""
        return self.numbers["runs"][run]["layers"][layer]

    def array(self, run: str, layer: str, what: str) -> np.ndarray:
        """Returns an array of a layer."""
        return self.arrays[array_name(self.runs.index(run), layer, what)]


def array_name(run: int, layer: str, what: str) -> str:
    """Returns the name of an array of run number `run`, from 0, as in "0/conv5_2/means"."""
    return f"{run}/{layer}/{what}"
