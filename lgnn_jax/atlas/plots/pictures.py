"""What all neurons of a layer look for, on their map."""

import numpy as np
from matplotlib.figure import Figure

from lgnn_jax.atlas.plots.cells import mosaic
from lgnn_jax.atlas.plots.page import PAGE, plain_figure, styled
from lgnn_jax.atlas.plots.ticks import axis_labels, in_title
from lgnn_jax.atlas.view import whole
from lgnn_jax.maps.shapes import Map


@styled
def visualizations(
    pictures: np.ndarray, map: Map | tuple[int, int], layer: str, run: str
) -> Figure:
    """Draws pictures of what a layer looks for, on its map.

    Args:
      pictures: `(neurons, height, width, colours)` in [0, 1], one colour or three.
      map: on which the neurons lie; `(m, n)` for a grid.
      layer: its name.
      run: the name of the network.
    """
    view = whole(map)
    side = min(0.42, PAGE / view.width)
    figure = plain_figure(
        side * view.width + 0.7,
        side * view.height + 0.9,
        f"{layer}, {run}:\n{in_title(view.map)}, feature visualisations",
    )
    ax = figure.subplots()
    mosaic(ax, pictures[view.places], view)
    ax.set_ylabel(axis_labels(view.map)[0])
    return figure
