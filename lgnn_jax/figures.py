"""The paper's figures, and those of a map's order: draws what `lgnn_jax.analysis` returns.

Every function returns a `matplotlib.figure.Figure`, readable at the width of a page; `save` writes
it as PNG and SVG. Colours are safe for the colour-blind: Okabe and Ito's for lines and outlines,
and a map from blue over white to red, which differ in more than hue.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lgnn_jax.analysis.activations import Region
from lgnn_jax.analysis.correlations import CorrelationMaps
from lgnn_jax.analysis.filters import Magnitudes
from lgnn_jax.analysis.topography import DistanceCurve
from lgnn_jax.som import SomDimensions

PAGE = 7.0  # inches
OUTLINES = ("#D55E00", "#009E73", "#0072B2", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DIVERGING = "RdBu_r"
_styled = matplotlib.rc_context({"font.size": 8, "axes.titlesize": 8, "figure.titlesize": 9})


def save(figure: Figure, path: Path) -> list[Path]:
    """Writes a figure as `path` with .png (200 dots an inch) and .svg; returns both paths."""
    paths = [path.with_name(path.name + suffix) for suffix in (".png", ".svg")]
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "lgnn_jax"}):  # the same file for the same figure
        figure.savefig(paths[0], dpi=200, bbox_inches="tight")
        figure.savefig(paths[1], bbox_inches="tight", metadata={"Date": None})
    return paths


@_styled
def first_layer(
    filters: Mapping[str, np.ndarray],
    dims: SomDimensions,
    layer: str,
    magnitudes: Mapping[str, Magnitudes],
) -> Figure:
    """Draws Figure 1, the filters of first layers on their map, with Table III below each.

    Args:
      filters: by run, `(neurons, height, width, colours)` in [0, 1], one colour or three; see
        `lgnn_jax.analysis.filters.normalized_filters`.
      dims: SOM dimensions `(m, n)`.
      layer: its name.
      magnitudes: by run.
    """
    m, n = dims
    side = min(2.3, PAGE / max(len(filters), 2))
    figure = _figure(
        max(side * len(filters), 4.0), side * m / n + 1.1, f"{layer}: filters on the {m}x{n} map"
    )
    axes = figure.subplots(1, len(filters), squeeze=False)[0]
    for ax, (run, pictures) in zip(axes, filters.items(), strict=True):
        _mosaic(ax, pictures, dims)
        ax.set_title(_plain(run))
        found = magnitudes[run]
        ax.set_xlabel(
            f"column\nL2 norms {found.minimum:.3g} to {found.maximum:.3g}\n"
            f"deviation of their log {found.deviation_of_log:.3f}"
        )
    axes[0].set_ylabel("row")
    return figure


@_styled
def correlations(
    found: Mapping[str, CorrelationMaps],
    layer: str,
    pictures: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Draws Figure 2: correlations with chosen filters, and pictures of that part of the map.

    Args:
      found: by run, for the same filters.
      layer: its name.
      pictures: by run, visualisations `(neurons, height, width, colours)` of all its neurons.
    """
    first = next(iter(found.values()))
    count, m, n = first.maps.shape
    top, left, bottom, right = part_around(first.positions, (m, n))
    picture_width = 2.4 if pictures else 0.0
    width = min(1.3, (PAGE - picture_width) / count)
    height = max(width * m / n, picture_width * (bottom - top) / (right - left))
    figure = _figure(
        count * width + picture_width + 0.9,
        len(found) * (height + 0.55) + 0.9,
        f"{layer}: correlation of the weights with those of chosen filters, {m}x{n} map",
    )
    ratios = [width] * count + [picture_width] * bool(pictures)
    grid = figure.subplots(len(found), len(ratios), squeeze=False, width_ratios=ratios)
    limit = max(np.abs(maps.maps).max() for maps in found.values()) or 1.0
    for axes, (run, maps) in zip(grid, found.items(), strict=True):
        for ax, place, values, colour in zip(
            axes, maps.positions, maps.maps, _colours(count), strict=False
        ):
            image = _heat_map(ax, values, limit)
            ax.set_title(f"filter [{place[0]}, {place[1]}]", color=colour)
            _outline(ax, [place], colour, width=1.5)
        axes[0].set_ylabel(_plain(f"{run}\nrow"))
        if pictures:
            ax = axes[-1]
            part = pictures[run].reshape(m, n, *pictures[run].shape[1:])
            part = part[top:bottom, left:right].reshape(-1, *pictures[run].shape[1:])
            _mosaic(ax, part, (bottom - top, right - left), first=(top, left))
            for place, colour, near in zip(
                maps.positions, _colours(count), maps.neighbours, strict=False
            ):
                inside = [p for p in near if top <= p[0] < bottom and left <= p[1] < right]
                for p in [place, *inside]:
                    _outline(ax, [p], colour, width=3.0 if p == place else 1.5)
            ax.set_title(f"outlined: neighbours from {maps.threshold:.2f}")
    figure.colorbar(image, ax=grid, location="bottom", shrink=0.6, aspect=40, label="correlation")
    if pictures:
        for ax in grid[:, -1]:
            ax.set_anchor("N")  # a colour bar centres those that it belongs to
    return figure


@_styled
def class_maps(
    means: np.ndarray,
    names: Sequence[str],
    dims: SomDimensions,
    layer: str,
    *,
    shared_by: str,
    regions: Sequence[Region],
    pictures: np.ndarray | None = None,
) -> Figure:
    """Draws Figure 3: what classes light up on a map, and regions that they share.

    Args:
      means: `(classes, neurons)`, mean activations of these classes.
      names: of the classes.
      dims: SOM dimensions `(m, n)`.
      layer: its name.
      shared_by: the classes that share the regions, in words.
      regions: those to outline, and to show the filters of.
      pictures: visualisations `(neurons, height, width, colours)` of all neurons.
    """
    m, n = dims
    regions = regions[: len(OUTLINES)]
    width = min(1.5, (PAGE - 0.9) / len(names))
    boxes = [_box(region, n) for region in regions]
    shown = bool(boxes) and pictures is not None
    tile = min(0.6, (PAGE - 0.9) / max(1, sum(b[3] - b[1] + 2 for b in boxes)))
    heights = [width * m / n + 0.6]
    if shown:
        heights.append(tile * max(b[2] - b[0] for b in boxes) + 0.7)
    title = f"{shared_by} share no region beyond chance"
    if boxes:
        found = ", ".join(f"{region.p:.2g}" for region in regions)
        title = f"outlined: regions that {shared_by} share (p = {found})"
    figure = _figure(
        max(width * len(names) + 1.0, 4.2),
        sum(heights) + 0.45,
        f"{layer}: mean activation by class, {m}x{n} map\n{title}",
    )
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    axes = parts[0].subplots(1, len(names), squeeze=False)[0]
    limit = np.abs(means).max() or 1.0
    for ax, name, values in zip(axes, names, means, strict=True):
        image = _heat_map(ax, values.reshape(m, n), limit)
        ax.set_title(_plain(name.replace("_", " ")))
        for region, colour in zip(regions, OUTLINES, strict=False):
            _outline(ax, _places(region, n), colour, width=1.5)
    axes[0].set_ylabel("row")
    parts[0].colorbar(image, ax=axes.tolist(), label="activation before the ReLU", aspect=30)
    if shown:
        ratios = [b[3] - b[1] + 2 for b in boxes]
        axes = parts[1].subplots(1, len(boxes), squeeze=False, width_ratios=ratios)[0]
        for ax, region, box, colour in zip(axes, regions, boxes, OUTLINES, strict=False):
            top, left, bottom, right = box
            part = pictures.reshape(m, n, *pictures.shape[1:])[top:bottom, left:right]
            part = part.reshape(-1, *pictures.shape[1:])
            _mosaic(ax, part, (bottom - top, right - left), first=(top, left))
            _outline(ax, _places(region, n), colour, width=2.5)
            size = len(region.neurons)
            what = f"{size} filters" if size > 1 else "one filter"
            ax.set_title(f"{what}\np = {region.p:.2g}", color=colour)
    return figure


@_styled
def visualizations(pictures: np.ndarray, dims: SomDimensions, layer: str, run: str) -> Figure:
    """Draws pictures `(neurons, height, width, colours)` of what a layer looks for, on its map."""
    m, n = dims
    side = min(0.42, PAGE / n)
    figure = _figure(
        side * n + 0.7, side * m + 0.9, f"{layer}, {run}:\n{m}x{n} map, feature visualisations"
    )
    ax = figure.subplots()
    _mosaic(ax, pictures, dims)
    ax.set_ylabel("row")
    return figure


@_styled
def distance_curves(curves: Mapping[str, DistanceCurve], layer: str, dims: SomDimensions) -> Figure:
    """Draws the mean correlation of pairs of filters against their distance on the map, by run.

    Distances that fewer pairs have than there are filters are left out.
    """
    figure = _figure(
        4.6, 3.2, f"{layer}: correlation of weights by distance, {dims[0]}x{dims[1]} map"
    )
    ax = figure.subplots()
    for (run, curve), colour in zip(curves.items(), cycle(OUTLINES), strict=False):
        curve = _frequent(curve, dims[0] * dims[1])
        ax.plot(curve.distance, curve.value, "o-", ms=3, color=colour, label=_label_of(run))
        low, high = (curve.mean + k * curve.deviation for k in (-2, 2))
        ax.fill_between(curve.distance, low, high, color=colour, alpha=0.15, lw=0)
    ax.set_xlabel("distance on the map\n(bands: shuffled maps, two deviations)")
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


@_styled
def order_by_layer(
    values: Mapping[str, Mapping[str, float]], shuffled: Mapping[str, tuple[float, float]]
) -> Figure:
    """Draws the mean correlation of map neighbours by layer, for networks to compare.

    Args:
      values: by network, then by layer.
      shuffled: by layer, mean and deviation over shuffled maps.
    """
    layers = list(shuffled)
    figure = _figure(PAGE, 3.4, "mean correlation of the weights of neighbours on the map")
    ax = figure.subplots()
    places = np.arange(len(layers))
    mean, deviation = np.array([shuffled[layer] for layer in layers]).T
    ax.bar(
        places, 4 * deviation, bottom=mean - 2 * deviation, width=0.7, color="0.85",
        label="shuffled maps, two deviations",
    )  # fmt: skip
    markers = ("o", "s", "^", "D", "v")
    styles = zip(cycle(OUTLINES), cycle(markers), strict=False)
    for (name, by_layer), (colour, marker) in zip(values.items(), styles, strict=False):
        known = [i for i, layer in enumerate(layers) if layer in by_layer]
        ax.plot(
            known,
            [by_layer[layers[i]] for i in known],
            marker,
            ms=5,
            color=colour,
            label=_label_of(name),
        )
    ax.axhline(0, color="0.6", lw=0.6)
    ax.use_sticky_edges = False
    ax.set_xticks(places, layers, rotation=30 if max(map(len, layers)) < 10 else 90, ha="right")
    ax.set_ylabel("correlation")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _figure(width: float, height: float, title: str) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(_plain(title))
    return figure


def _plain(text: str) -> str:
    """A text with no formulas in it."""
    return text.replace("$", r"\$")


def _label_of(name: str) -> str:
    """A name as a label; matplotlib leaves those out of a legend that begin with an underscore."""
    return _plain(f" {name}" if name.startswith("_") else name)


def _colours(count: int) -> list[str]:
    return [OUTLINES[i % len(OUTLINES)] for i in range(count)]


def _heat_map(ax: Axes, values: np.ndarray, limit: float):
    image = ax.imshow(values, cmap=_DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
    _label(ax)
    return image


def _label(ax: Axes) -> None:
    ax.set_xlabel("column")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    ax.tick_params(labelsize=7)


def _mosaic(
    ax: Axes, pictures: np.ndarray, dims: SomDimensions, first: tuple[int, int] = (0, 0)
) -> None:
    """Lays pictures out on a map with places one unit wide; `first` is that at the top left."""
    m, n = dims
    # Small pictures are enlarged, so that a gap is a small share of them.
    times = -(-24 // pictures.shape[2])
    pictures = pictures.repeat(times, axis=1).repeat(times, axis=2)
    height, width, colours = pictures.shape[1:]
    image = np.ones((m, n, height + 2, width + 2, 3), np.float32)
    image[:, :, 1:-1, 1:-1] = pictures.reshape(m, n, height, width, colours)  # one colour is grey
    image = image.transpose(0, 2, 1, 3, 4).reshape(m * (height + 2), n * (width + 2), 3)
    top, left = first[0] - 0.5, first[1] - 0.5
    ax.imshow(image, extent=(left, left + n, top + m, top), interpolation="nearest")
    _label(ax)


def _outline(ax: Axes, places: Sequence[tuple[int, int]], colour: str, width: float) -> None:
    """Draws the border of a set of places on a map."""
    places = set(places)
    for i, j in places:
        top, left, bottom, right = i - 0.5, j - 0.5, i + 0.5, j + 0.5
        sides = {
            (i - 1, j): ((left, right), (top, top)),
            (i + 1, j): ((left, right), (bottom, bottom)),
            (i, j - 1): ((left, left), (top, bottom)),
            (i, j + 1): ((right, right), (top, bottom)),
        }
        for beyond, line in sides.items():
            if beyond not in places:
                ax.plot(*line, color=colour, lw=width, solid_capstyle="projecting", clip_on=False)


def _places(region: Region, n: int) -> list[tuple[int, int]]:
    return [divmod(int(neuron), n) for neuron in region.neurons]


def _box(region: Region, n: int) -> tuple[int, int, int, int]:
    """The part of a map that holds a region: top, left, bottom, right."""
    rows, columns = zip(*_places(region, n), strict=True)
    return min(rows), min(columns), max(rows) + 1, max(columns) + 1


def part_around(
    positions: Sequence[tuple[int, int]], dims: SomDimensions, margin: int = 2
) -> tuple[int, int, int, int]:
    """The part of a map around chosen places: top, left, bottom, right."""
    rows, columns = zip(*positions, strict=True)
    top, left = max(0, min(rows) - margin), max(0, min(columns) - margin)
    bottom, right = min(dims[0], max(rows) + margin + 1), min(dims[1], max(columns) + margin + 1)
    return top, left, bottom, right
