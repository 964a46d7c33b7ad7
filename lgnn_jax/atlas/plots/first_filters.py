"""Figure 1 of the paper: the filters of first layers on their map."""

from collections.abc import Mapping

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from lgnn_jax.analysis.filters import Magnitudes
from lgnn_jax.atlas.plots.cells import mosaic
from lgnn_jax.atlas.plots.page import GAP, LEFT, PAGE, Page, folded, styled
from lgnn_jax.atlas.plots.ticks import axis_labels, in_title
from lgnn_jax.atlas.view import whole
from lgnn_jax.maps.shapes import Map


@styled
def first_filters(
    filters: Mapping[str, np.ndarray],
    map: Map | tuple[int, int],
    layer: str,
    magnitudes: Mapping[str, Magnitudes],
) -> Figure:
    """Draws Figure 1, the filters of first layers on their map, with Table III below each.

    Args:
      filters: by run, `(neurons, height, width, colours)` in [0, 1], one colour or three; see
        `lgnn_jax.analysis.filters.normalized_filters`.
      map: on which the neurons lie; `(m, n)` for a grid.
      layer: its name.
      magnitudes: by run.
    """
    view = whole(map)
    wide = view.block is None and view.width > 2 * view.height
    rows = len(filters) if wide else -(-len(filters) // 3)
    columns = -(-len(filters) // rows)
    widest = min(PAGE - 1, 0.5 * view.width) if wide else 2.2
    width = min(widest, 3.4 * view.width / view.height)
    step = max(width, 1.6) + GAP
    height = width * view.height / view.width
    page = Page.of(
        LEFT + columns * step + 0.5,
        rows * (height + 1.2),
        f"{layer}: filters on the {in_title(view.map)},\n"
        "each scaled by itself from its least weight to its largest",
    )
    down, right = axis_labels(view.map)
    for i, (run, pictures) in enumerate(filters.items()):
        row, column = divmod(i, columns)
        left, top = LEFT + column * step, 0.3 + row * (height + 1.2)
        ax = page.axes(left, top, width, height)
        mosaic(ax, pictures[view.places], view)
        ax.set_title(folded(run, step))
        ax.set_xlabel(f"{right}\n{_spread(magnitudes[run])}".lstrip())
        if column == 0:
            ax.set_ylabel(down)
        if pictures.shape[-1] == 1 and (column == columns - 1 or i == len(filters) - 1):
            bar = page.figure.colorbar(
                ScalarMappable(cmap="gray"), cax=page.bar(left + width, top, height)
            )
            bar.set_ticks([0, 1], labels=["least", "largest"])
            bar.set_label("weight of a filter", labelpad=-16)
    return page.figure


def _spread(found: Magnitudes) -> str:
    """Table III in words."""
    if found.maximum == 0:
        return "all filters are zero"
    low, high = (f"{norm:#.3g}".rstrip(".") for norm in (found.minimum, found.maximum))
    return f"L2 norms {low} to {high}\ndeviation of their log {found.deviation_of_log:.3f}"
