"""The numbers of analysis.json: what `lgnn_jax.analysis` returns, ready for JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lgnn_jax.analysis.activations import SharedRegions
from lgnn_jax.analysis.correlations import CorrelationMaps
from lgnn_jax.analysis.feature_vis import Visualization, exceeds_best
from lgnn_jax.analysis.shuffles import AgainstShuffles
from lgnn_jax.analysis.topography import Topography
from lgnn_jax.atlas.view import row_and_column
from lgnn_jax.maps.grid import grid
from lgnn_jax.maps.shapes import Map


def map_entry(map: Map) -> dict[str, Any]:
    """Returns a map: its sides if it is a plain grid, else its name and how many neurons it has.

    Example:
      >>> from lgnn_jax.maps.grid import ring
      >>> map_entry(grid(8, 4)), map_entry(ring(8))
      ({'map': [8, 4]}, {'map': 'ring of 8', 'neurons': 8})
    """
    if is_plain(map):
        return {"map": list(map.sides)}
    return {"map": str(map), "neurons": map.count}


def is_plain(map: Map) -> bool:
    """Tells whether a map is a grid of two dimensions with edges."""
    sides = getattr(map, "sides", ())
    return len(sides) == 2 and map == grid(*sides)


def topography_entry(found: Topography) -> dict[str, Any]:
    """Returns the figures of a layer on its map."""
    curve = found.by_distance
    names = ("neighbours", "morans_i", "smoothness", "trustworthiness")
    return {
        **{name: _figure(getattr(found, name)) for name in names},
        "by_distance": {
            "distance": curve.distance.tolist(),
            "correlation": curve.value.tolist(),
            "shuffled": curve.mean.tolist(),
            "shuffled_deviation": curve.deviation.tolist(),
        },
        "effective_dimensionality": found.effective_dimensionality,
        "dead": found.dead.tolist(),
    }


def correlations_entry(found: CorrelationMaps, map: Map) -> dict[str, Any]:
    """Returns which filters were chosen, and their neighbours that are like them."""
    return {
        "threshold": found.threshold,
        "filters": _names(found.places, map),
        "neighbours": [_names(near, map) for near in found.neighbours],
    }


def _names(places: Sequence[int], map: Map) -> list[Any]:
    """Places as they stand in analysis.json: by row and column on a plain grid."""
    return [list(row_and_column(map, place)) if is_plain(map) else place for place in places]


def places_of(names: Sequence[Any], map: Map) -> tuple[int, ...]:
    """Returns the places that `correlations_entry` names.

    Example:
      >>> places_of([[1, 1], [1, 3]], grid(8, 4))
      (5, 7)
    """
    if is_plain(map):
        return tuple(row * map.sides[1] + column for row, column in names)
    return tuple(names)


def regions_entry(shared: SharedRegions, classes: Sequence[str]) -> dict[str, Any]:
    """Returns the regions that classes share."""
    return {
        "classes": list(classes),
        "threshold": shared.threshold,
        "regions": [
            {"neurons": region.neurons.tolist(), "mass": region.mass, "p": region.p}
            for region in shared.regions
        ],
    }


def visualisations_entry(made: Visualization, tested: np.ndarray) -> dict[str, Any]:
    """Returns how good visualisations are, beside the activations of images `(n, neurons)`."""
    return {
        "neurons": made.channels.tolist(),
        "activations": made.activations.tolist(),
        "exceed_best_of_images": exceeds_best(made, tested).fraction,
        "images": len(tested),
    }


def _figure(figure: AgainstShuffles) -> dict[str, Any]:
    return {
        "value": figure.value,
        "shuffled": figure.shuffled.mean().item(),
        "shuffled_deviation": figure.shuffled.std().item(),
        "z": figure.z,
        "p": figure.p,
    }
