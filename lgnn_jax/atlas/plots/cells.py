"""How one map is drawn: a colour or a picture for each place, and borders around some of them."""

from collections.abc import Iterable

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.path import Path as Outline

from lgnn_jax.atlas.plots.ticks import set_ticks
from lgnn_jax.atlas.view import View

_DIVERGING = "RdBu_r"
_GREY = "0.6"  # where there is no value
_EDGE = "0.8"  # around pictures that do not fill their places


def heat_map(ax: Axes, values: np.ndarray, view: View, limit: float) -> ScalarMappable:
    """Colours each place by its value, from blue for `-limit` over white to red for `limit`.

    Args:
      ax: where to draw.
      values: `(shown,)`, of the places of the view; grey where they are masked.
      view: of the map.
      limit: above 0.
    """
    cmap = matplotlib.colormaps[_DIVERGING].with_extremes(bad=_GREY)
    if view.block:
        top, left, bottom, right = view.box
        image = ax.imshow(
            values.reshape(view.block), cmap=cmap, vmin=-limit, vmax=limit,
            interpolation="nearest", extent=(left, right, bottom, top),
        )  # fmt: skip
    else:
        image = _polygons(ax, view, array=values, cmap=cmap, edgecolors="face", linewidths=0.3)
        image.set_clim(-limit, limit)
        _frame(ax, view)
        ax.set_aspect("auto")  # what the page gives it: a row of places has tall ones
    set_ticks(ax, view)
    return image


def mosaic(ax: Axes, pictures: np.ndarray, view: View) -> None:
    """Lays out pictures `(shown, height, width, colours)` in [0, 1], each at its place."""
    # Small pictures are enlarged, so that a gap is a small share of them.
    times = -(-24 // pictures.shape[2])
    pictures = pictures.repeat(times, axis=1).repeat(times, axis=2)
    height, width = pictures.shape[1:3]
    framed = np.ones((len(pictures), height + 2, width + 2, 3), np.float32)
    framed[:, 1:-1, 1:-1] = pictures  # one colour is grey
    if view.block:
        m, n = view.block
        image = framed.reshape(m, n, height + 2, width + 2, 3).transpose(0, 2, 1, 3, 4)
        image = image.reshape(m * (height + 2), n * (width + 2), 3)
        top, left, bottom, right = view.box
        ax.imshow(image, extent=(left, right, bottom, top), interpolation="nearest")
    else:
        reach = _square_within(view.outline)
        _polygons(ax, view, facecolors="none", edgecolors=_EDGE, linewidths=0.5)
        for image, (down, right) in zip(framed, view.centres, strict=True):
            sides = (right - reach, right + reach, down + reach, down - reach)
            ax.imshow(image, extent=sides, interpolation="nearest")
        _frame(ax, view)
        ax.set_aspect("equal")
    set_ticks(ax, view)


def border(ax: Axes, places: Iterable[int], view: View, colour: str, width: float) -> None:
    """Draws the border of a set of places, inside of them.

    It is made of the sides of their cells beyond which there is no place of the set, be it beside
    them on paper or across a seam.

    Args:
      ax: where the map is drawn.
      places: of the map; those that the view does not show are left out.
      view: of the map.
      colour: of the border.
      width: in points.
    """
    places = {int(place) for place in places}
    corners = [tuple(map(tuple, c)) for c in view.corners[:, :, ::-1].tolist()]
    known = {
        place: around
        for place, around in zip(view.places.tolist(), corners, strict=True)
        if place in places
    }
    inside = Outline.make_compound_path(*(Outline(known[place]) for place in sorted(known)))
    beyond = view.map.layout().beyond
    # Caps fill the corners between sides; at sharper ones than a square's only round caps do.
    cap = "projecting" if len(view.outline) == 4 else "round"
    for place, around in known.items():
        following = (*around[1:], around[0])
        for start, end, other in zip(around, following, beyond[place].tolist(), strict=True):
            if other not in places:  # twice as wide, of which the half outside is clipped
                ends = zip(start, end, strict=True)
                (side,) = ax.plot(*ends, color=colour, lw=2 * width, solid_capstyle=cap)
                side.set_clip_path(inside, ax.transData)


def _polygons(ax: Axes, view: View, **style) -> PolyCollection:
    """A polygon for each place, to the right and down."""
    polygons = PolyCollection(view.corners[:, :, ::-1], **style)
    ax.add_collection(polygons)
    return polygons


def _frame(ax: Axes, view: View) -> None:
    """The page ends where the map does, and has no frame: the map is no rectangle."""
    top, left, bottom, right = view.box
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _square_within(outline: np.ndarray) -> float:
    """Half the side of the largest square around the middle of an outline."""
    ways = (outline + np.roll(outline, -1, axis=0)) / 2  # to the middle of each side
    return float((np.square(ways).sum(axis=1) / np.abs(ways).sum(axis=1)).min())
