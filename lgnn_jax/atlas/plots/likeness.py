"""Figure 2 of the paper: which filters are like chosen ones, and where they lie."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lgnn_jax.analysis.correlations import CorrelationMaps
from lgnn_jax.atlas.plots.cells import border, heat_map, mosaic
from lgnn_jax.atlas.plots.page import LEFT, PAGE, Page, colours, styled
from lgnn_jax.atlas.plots.panels import Panels
from lgnn_jax.atlas.plots.ticks import axis_labels, in_title
from lgnn_jax.atlas.view import View, has_rows_and_columns, part_around, row_and_column, whole
from lgnn_jax.maps.shapes import Map

_PICTURES = 2.4  # inches for the pictures of a part


@styled
def correlations(
    found: Mapping[str, CorrelationMaps],
    map: Map | tuple[int, int],
    layer: str,
    pictures: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Draws Figure 2: correlations with chosen filters, and pictures of that part of the map.

    Args:
      found: by run, for the same filters.
      map: on which the filters lie; `(m, n)` for a grid.
      layer: its name.
      pictures: by run, visualisations `(neurons, height, width, colours)` of all its neurons.
    """
    first = next(iter(found.values()))
    view = whole(map)
    part = part_around(map, first.places)
    room = _PICTURES if pictures else 0.0
    panels = Panels.of(view, len(first.places), most=1.25, least=0.8, room=PAGE - room - LEFT)
    shown = panels.columns * panels.step
    part_height = room * part.height / part.width
    block = max(panels.all_high, part_height) + 1.0
    page = Page.of(
        LEFT + shown + room,
        len(found) * block + 0.5,
        f"{layer}: correlation of the weights with those of chosen filters, {in_title(view.map)}",
    )
    limit = max(np.abs(maps.values).max() for maps in found.values()) or 1.0
    for i, (run, maps) in enumerate(found.items()):
        top = i * block + 0.5
        page.text(0.05, top - 0.3, run)
        image = _heat_maps(page, top, maps, view, panels, limit)
        if pictures:
            ax = page.axes(LEFT + shown, top, room, part_height)
            mosaic(ax, pictures[run][part.places], part)
            _outline_neighbours(ax, maps, part)
    page.figure.colorbar(
        image,
        cax=page.axes(LEFT, len(found) * block, panels.all_wide, 0.1),
        orientation="horizontal",
        label="correlation (grey: the filter itself)",
    )
    return page.figure


def _heat_maps(
    page: Page, top: float, maps: CorrelationMaps, view: View, panels: Panels, limit: float
):
    """A map for each chosen filter; returns the last one."""
    chosen = zip(maps.places, maps.values, maps.alive, colours(len(maps.places)), strict=True)
    for k, (place, values, alive, colour) in enumerate(chosen):
        left, down = panels.at(k)
        ax = page.axes(left, top + down, panels.width, panels.height)
        itself = view.places == place
        image = heat_map(ax, np.ma.array(values[view.places], mask=itself), view, limit)
        dead = "" if alive else ": dead"
        ax.set_title(f"filter {_name(view.map, place)}{dead}", color=colour)
        border(ax, [place], view, colour, panels.line(view))
        if k % panels.columns == 0:
            ax.set_ylabel(axis_labels(view.map)[0])
    return image


def _name(map: Map, place: int) -> str:
    """A place in a title: row and column where there are any."""
    return str(list(row_and_column(map, place))) if has_rows_and_columns(map) else str(place)


def _outline_neighbours(ax: Axes, maps: CorrelationMaps, part: View) -> None:
    """Outlines chosen filters, and neighbours that are like them: several times, those of several.

    The one that is outlined first lies outside.
    """
    shown = set(part.places.tolist())
    outlines: dict[int, list[tuple[str, float]]] = {}
    chosen = zip(maps.places, maps.neighbours, colours(len(maps.places)), strict=True)
    for place, near, colour in chosen:
        outlines.setdefault(place, []).insert(0, (colour, 3.0))
        for other in shown.intersection(near):
            outlines.setdefault(other, []).append((colour, 1.5))
    for place, lines in outlines.items():
        depth = sum(width for _, width in lines)
        for colour, width in reversed(lines):
            border(ax, [place], part, colour, depth)
            depth -= width
    ax.set_title(_what_is_outlined(maps.threshold, maps.alive))


def _what_is_outlined(threshold: float, alive: Sequence[bool]) -> str:
    if not any(alive):
        return "no neighbours that correlate:\nthe filters' weights are all equal"
    if threshold <= 0:
        return "outlined: neighbours with\ncorrelation > 0"
    return f"outlined: neighbours with\ncorrelation \u2265 {threshold:.2f}"
