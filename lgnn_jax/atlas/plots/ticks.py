"""What the axes of a map are called, and what stands along them."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lgnn_jax.atlas.view import View, has_rows_and_columns
from lgnn_jax.maps.grid import Grid
from lgnn_jax.maps.hexagonal import Hexagonal
from lgnn_jax.maps.shapes import Map
from lgnn_jax.maps.sphere import Sphere

_ROW = np.sqrt(0.75)  # from one row of hexagons to the next


def axis_labels(map: Map) -> tuple[str, str]:
    """Returns what lies along a map's axes, down and to the right; "" for nothing."""
    if has_rows_and_columns(map):
        return "row", "column"
    if isinstance(map, Grid):
        return "", "place" if len(map.sides) == 1 else "slice"
    return ("pole to pole", "once around") if isinstance(map, Sphere) else ("", "")


def in_title(map: Map) -> str:
    """Returns what a map is called in a title: "32x16 map", "ring of 64"."""
    return f"{map} map" if str(map)[0].isdigit() else str(map)


def set_ticks(ax: Axes, view: View) -> None:
    """Numbers rows, columns, places or slices, over again beyond a seam."""
    map = view.map
    ax.set_xlabel(axis_labels(map)[1])
    ax.tick_params(labelsize=7)
    if isinstance(map, Grid) and len(map.sides) < 3:
        if len(map.sides) == 1:
            ax.set_yticks([])
        axes = (ax.xaxis, ax.yaxis)[: len(map.sides)]
        for axis, side, wraps in zip(axes, map.sides[::-1], map.wrap[::-1], strict=True):
            _number(axis, side if wraps else None)
    elif isinstance(map, Grid):
        _number_slices(ax, view)
    elif isinstance(map, Hexagonal):
        _number_hexagons(ax, view)
    else:
        ax.set_xticks([])
        ax.set_yticks([])


def _number(axis, around: int | None) -> None:
    """Whole numbers, some of them; `around` begins anew with 0."""
    axis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    if around is not None:
        axis.set_major_formatter(lambda x, _: str(round(x) % around))


def _number_slices(ax: Axes, view: View) -> None:
    """The slices of a grid of three dimensions, each below its middle."""
    slices = view.places // (view.map.sides[1] * view.map.sides[2])
    shown = np.unique(slices)
    ax.set_xticks([view.centres[slices == s, 1].mean() for s in shown], [str(s) for s in shown])
    ax.set_yticks([])


def _number_hexagons(ax: Axes, view: View) -> None:
    """Rows and columns of hexagons, some of them; columns where they lie in row 0."""
    rows = _some(np.round(view.centres[:, 0] / _ROW))
    columns = _some(np.floor(view.centres[:, 1] + 1e-9))
    ax.set_yticks(rows * _ROW, [str(row % view.map.rows) for row in rows])
    ax.set_xticks(columns, [str(column % view.map.columns) for column in columns])


def _some(numbers: np.ndarray) -> np.ndarray:
    """Each number once, at most seven of them."""
    numbers = np.unique(numbers.astype(int))
    return numbers[:: -(-len(numbers) // 7)]
