"""How alike filters are by their distance on the map."""

from collections.abc import Mapping
from itertools import cycle

from matplotlib.figure import Figure

from lgnn_jax.analysis.topography import DistanceCurve
from lgnn_jax.atlas.plots.page import OUTLINES, label_of, plain_figure, styled
from lgnn_jax.atlas.plots.ticks import in_title
from lgnn_jax.maps.grid import Grid, as_map
from lgnn_jax.maps.shapes import Map


@styled
def distance_curves(
    curves: Mapping[str, DistanceCurve],
    layer: str,
    map: Map | tuple[int, int],
    *,
    of: str = "weights",
) -> Figure:
    """Draws the mean correlation of pairs of filters against their distance on the map, by run.

    Distances that fewer pairs have than there are filters are left out.

    Args:
      curves: by run, or by what else they are.
      layer: its name.
      map: on which the filters lie; `(m, n)` for a grid.
      of: what is correlated.
    """
    map = as_map(map)
    figure = plain_figure(4.6, 3.2, f"{layer}: correlation of {of} by distance, {in_title(map)}")
    ax = figure.subplots()
    for (run, curve), colour in zip(curves.items(), cycle(OUTLINES), strict=False):
        if not (curve.value.any() or curve.shuffled.any()):
            ax.plot([], [], "o-", ms=3, color=colour, label=label_of(f"{run}: all filters dead"))
            continue
        curve = _frequent(curve, map.count)
        ax.plot(curve.distance, curve.value, "o-", ms=3, color=colour, label=label_of(run))
        low, high = (curve.mean + k * curve.deviation for k in (-2, 2))
        ax.fill_between(curve.distance, low, high, color=colour, alpha=0.15, lw=0)
    ax.set_xlabel(f"{_distance(map)}\n(bands: shuffled maps, mean ± two deviations)")
    ax.set_ylabel("mean correlation")
    ax.axhline(0, color="0.6", lw=0.6)
    ax.legend(frameon=False)
    return figure


def _frequent(curve: DistanceCurve, pairs: int) -> DistanceCurve:
    """Leaves out distances that fewer pairs have: chance alone rules there."""
    keep = (curve.pairs >= pairs) | (curve.distance == 1)
    return DistanceCurve(
        curve.distance[keep], curve.pairs[keep], curve.value[keep], curve.shuffled[:, keep]
    )


def _distance(map: Map) -> str:
    """What the distance is, in words."""
    by_steps = isinstance(map, Grid) and len(map.sides) > 1
    return "distance on the map, rounded" + ": 1 has the diagonals too" * by_steps
