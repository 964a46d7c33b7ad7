"""What classes excite on a map: above in the network's order of neurons, below once settled."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lgnn_jax.atlas.plots.cells import heat_map
from lgnn_jax.atlas.plots.page import PAGE, Page, folded, plain, styled
from lgnn_jax.atlas.plots.ticks import in_title
from lgnn_jax.atlas.view import View, whole
from lgnn_jax.maps.shapes import Map

_MARGIN, _BAR = 0.62, 0.5  # inches: to the left for what a row is, to the right for the colours
_GAP, _TITLE, _BELOW = 0.1, 0.36, 0.16  # inches between maps, for a name above, for a line below
_TALLEST, _WIDEST, _LEAST = 3.0, 1.4, 0.25  # inches
_STRIP = 8  # times as wide as tall: as wide as there is room
_NAME = 0.65  # inches for the name of a class, at least
_LIMIT = 3.0  # deviations: beyond it the colour is that of the limit


@styled
def settled_classes(
    responses: np.ndarray,
    names: Sequence[str],
    map: Map | tuple[int, int],
    places: np.ndarray,
    layer: str,
    *,
    patches: tuple[np.ndarray, np.ndarray],
) -> Figure:
    """Draws what classes excite, in the network's order and settled, all on one scale.

    Args:
      responses: `(classes, neurons)`, each neuron standardised over all classes; of the classes to
        draw, one or more.
      names: of these classes.
      map: on which the neurons lie; `(m, n)` for a grid.
      places: int `(places,)`, the neuron at each place once they have settled.
      layer: its name, and what else is to be said of it.
      patches: `(classes,)` each, in the network's order and settled: of the neurons that a class
        excites most, the share that lies in one patch.
    """
    view = whole(map)
    columns, width, height = _sizes(view, len(names))
    step = max(width, _NAME) + _GAP
    rows = -(-len(names) // columns)
    down = 2 * (height + _BELOW) + _GAP + _TITLE  # from one pair to the next
    page = Page.of(
        max(PAGE - 1.5, _MARGIN + columns * step + _BAR),
        rows * down,
        f"{layer}: which neurons classes excite, on the {in_title(view.map)}\n"
        "red: neurons that answer more to this class than to the average one, blue: less\n"
        "below each map: of the 5 % of neurons that answer most, the share in one patch",
    )
    orders = (np.arange(view.map.count), places)
    for k, name in enumerate(names):
        row, column = divmod(k, columns)
        left, top = _MARGIN + column * step, _TITLE + row * down
        for order, share in zip(orders, patches, strict=True):
            ax = page.axes(left, top, width, height)
            image = heat_map(ax, responses[k][order][view.places], view, _LIMIT)
            ax.set(xticks=[], yticks=[], aspect="auto")
            ax.set_xlabel(f"{share[k]:.0%}", labelpad=2)
            if order is orders[0]:
                ax.set_title(folded(name.replace("_", " "), step), pad=3)
            if not column:
                what = "in the\nnetwork's\norder" if order is orders[0] else "settled"
                ax.set_ylabel(plain(what), rotation=0, ha="right", va="center", labelpad=4)
            top += height + _BELOW + _GAP
    bar = page.bar(_MARGIN + columns * step - _GAP, _TITLE, down - _TITLE - _BELOW - _GAP)
    page.figure.colorbar(
        image, cax=bar, extend="both", ticks=[-_LIMIT, 0, _LIMIT],
        label="z-score over the classes",
    )  # fmt: skip
    return page.figure


def _sizes(view: View, count: int) -> tuple[int, float, float]:
    """Maps in a row, and the width and height of each in inches."""
    aspect = view.width / view.height
    columns = next(
        n for wide, n in ((1.6, 8), (3.2, 4), (_STRIP, 2), (np.inf, 1)) if aspect <= wide
    )
    columns = min(columns, count)
    room = (PAGE - _MARGIN - _BAR) / columns - _GAP
    width = min(room, _WIDEST) if aspect <= _STRIP else room
    height = min(width / aspect, _TALLEST)
    return columns, max(min(width, height * aspect), _LEAST), max(height, _LEAST)
