"""Figure 3 of the paper: what classes light up on a map, and regions that they share."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lgnn_jax.analysis.activations import Region
from lgnn_jax.atlas.plots.cells import border, heat_map, mosaic
from lgnn_jax.atlas.plots.page import GAP, LEFT, OUTLINES, PAGE, Page, folded, styled
from lgnn_jax.atlas.plots.panels import Panels
from lgnn_jax.atlas.plots.ticks import axis_labels, in_title
from lgnn_jax.atlas.view import View, part_around, whole
from lgnn_jax.maps.shapes import Map


@styled
def class_maps(
    means: np.ndarray,
    names: Sequence[str],
    map: Map | tuple[int, int],
    layer: str,
    *,
    shared_by: Sequence[str],
    regions: Sequence[Region],
    pictures: np.ndarray | None = None,
) -> Figure:
    """Draws Figure 3: what classes light up on a map, and regions that they share.

    Args:
      means: `(classes, neurons)`, mean activations of these classes.
      names: of the classes.
      map: on which the neurons lie; `(m, n)` for a grid.
      layer: its name.
      shared_by: names of the classes, or sets of classes, that share the regions.
      regions: those to outline, and to show the filters of.
      pictures: visualisations `(neurons, height, width, colours)` of all neurons.
    """
    regions = regions[: len(OUTLINES)]
    view = whole(map)
    panels = Panels.of(view, len(names), most=1.4, least=0.7, room=PAGE - LEFT - 0.6)
    parts = [part_around(map, r.neurons, margin=0) for r in regions] if pictures is not None else []
    tile = min(0.6, (PAGE - LEFT) / max(1, sum(part.width + 1.5 for part in parts)))
    tallest = max((part.height for part in parts), default=0)
    page = Page.of(
        LEFT + panels.columns * panels.step + 0.5,
        panels.all_high + 0.8 + (tile * tallest + 1.0) * bool(parts),
        f"{layer}: mean activation by class, {in_title(view.map)}\n"
        + _shared(shared_by, names, regions),
    )
    _draw_classes(page, means, names, view, panels, regions)
    if parts:
        _draw_regions(page, panels.all_high + 1.2, tile, parts, regions, pictures)
    return page.figure


def _draw_classes(
    page: Page,
    means: np.ndarray,
    names: Sequence[str],
    view: View,
    panels: Panels,
    regions: Sequence[Region],
) -> None:
    """A map for each class, with the regions on it, and a bar of the colours of all."""
    limit = np.abs(means).max() or 1.0
    for k, (name, values) in enumerate(zip(names, means, strict=True)):
        left, down = panels.at(k)
        ax = page.axes(left, 0.3 + down, panels.width, panels.height)
        image = heat_map(ax, values[view.places], view, limit)
        ax.set_title(folded(name.replace("_", " "), panels.step))
        for region, colour in zip(regions, OUTLINES, strict=False):
            border(ax, region.neurons, view, colour, panels.line(view))
        if k % panels.columns == 0:
            ax.set_ylabel(axis_labels(view.map)[0])
    bar = page.bar(LEFT + panels.all_wide, 0.3, panels.all_high)
    page.figure.colorbar(image, cax=bar, label="activation before the ReLU")


def _draw_regions(
    page: Page,
    top: float,
    tile: float,
    parts: Sequence[View],
    regions: Sequence[Region],
    pictures: np.ndarray,
) -> None:
    """The pictures of each region, `tile` inches a place."""
    left = LEFT
    for part, region, colour in zip(parts, regions, OUTLINES, strict=False):
        ax = page.axes(left, top, tile * part.width, tile * part.height)
        mosaic(ax, pictures[part.places], part)
        border(ax, region.neurons, part, colour, width=2.5)
        size = len(region.neurons)
        what = f"{size} filters" if size > 1 else "one filter"
        ax.set_title(f"{what}\np = {region.p:.2g}", color=colour)
        if left == LEFT:
            ax.set_ylabel(axis_labels(part.map)[0])
        left += max(tile * part.width, 0.6) + GAP


def _shared(by: Sequence[str], classes: Sequence[str], regions: Sequence[Region]) -> str:
    """What is shared, in words; a single class has its regions for itself."""
    alone = len(classes) == 1 or (len(by) == 1 and by[0] in classes)
    by = [name.replace("_", " ") for name in by]
    who = " and ".join(filter(None, [", ".join(by[:-1]), by[-1]]))
    found = ", ".join(f"{region.p:.2g}" for region in regions)
    if alone:
        nothing, what = f"{who} has no region beyond chance", f"regions of {who}"
    else:
        nothing, what = f"{who} share no region beyond chance", f"regions that {who} share"
    return f"outlined: {what} (p = {found})" if regions else nothing
