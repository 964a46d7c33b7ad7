"""The paper's figures, and those of a map's order: draws what `lgnn_jax.analysis` returns.

Every function returns a `matplotlib.figure.Figure`, readable at the width of a page; `save` writes
it as PNG and SVG. Colours are safe for the colour-blind: Okabe and Ito's for lines and outlines,
and a map from blue over white to red, which differ in more than hue.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.path import Path as Outline
from matplotlib.ticker import MaxNLocator

from lgnn_jax.analysis.activations import Region
from lgnn_jax.analysis.correlations import CorrelationMaps
from lgnn_jax.analysis.filters import Magnitudes
from lgnn_jax.analysis.shuffles import AgainstShuffles
from lgnn_jax.analysis.topography import DistanceCurve
from lgnn_jax.maps.table import SomDimensions

SUFFIXES = (".png", ".svg")
PAGE = 7.0  # inches
OUTLINES = ("#D55E00", "#009E73", "#0072B2", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v")
_DIVERGING = "RdBu_r"
_LEFT, _GAP = 0.5, 0.4  # inches before the first map, and between two
_styled = matplotlib.rc_context({"font.size": 8, "axes.titlesize": 8, "figure.titlesize": 9})


def save(figure: Figure, path: Path) -> list[Path]:
    """Writes a figure as `path` with .png (200 dots an inch) and .svg; returns both paths."""
    paths = [path.with_name(path.name + suffix) for suffix in SUFFIXES]
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
    rows = -(-len(filters) // 3)
    columns = -(-len(filters) // rows)
    width = min(2.2, 3.4 * n / m)
    step = max(width, 1.6) + _GAP
    height = width * m / n
    page = _Page.of(
        _LEFT + columns * step + 0.5,
        rows * (height + 1.2),
        f"{layer}: filters on the {m}x{n} map,\neach scaled by itself from its least weight to its "
        "largest",
    )
    for i, (run, pictures) in enumerate(filters.items()):
        row, column = divmod(i, columns)
        left, top = _LEFT + column * step, 0.3 + row * (height + 1.2)
        ax = page.axes(left, top, width, height)
        _mosaic(ax, pictures, dims)
        ax.set_title(_folded(run, step))
        ax.set_xlabel(f"column\n{_spread(magnitudes[run])}")
        if column == 0:
            ax.set_ylabel("row")
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
    box = part_around(first.positions, (m, n))
    picture_width = 2.4 if pictures else 0.0
    width = min(1.25, (PAGE - picture_width - _LEFT) / count - _GAP, 3.4 * n / m)
    step = max(width, 0.8) + _GAP
    picture_height = picture_width * (box[2] - box[0]) / (box[3] - box[1])
    height = width * m / n
    block = max(height, picture_height) + 1.0
    page = _Page.of(
        _LEFT + count * step + picture_width,
        len(found) * block + 0.5,
        f"{layer}: correlation of the weights with those of chosen filters, {m}x{n} map",
    )
    limit = max(np.abs(maps.maps).max() for maps in found.values()) or 1.0
    colours = _colours(count)
    for i, (run, maps) in enumerate(found.items()):
        top = i * block + 0.5
        page.text(0.05, top - 0.3, run)
        for k, (place, values, colour) in enumerate(
            zip(maps.positions, maps.maps, colours, strict=True)
        ):
            ax = page.axes(_LEFT + k * step, top, width, height)
            itself = np.zeros((m, n), bool)
            itself[place] = True
            image = _heat_map(ax, np.ma.array(values, mask=itself), limit)
            dead = "" if maps.alive[k] else ": dead"
            ax.set_title(f"filter [{place[0]}, {place[1]}]{dead}", color=colour)
            _outline(ax, [place], colour, _line(width / n))
            if k == 0:
                ax.set_ylabel("row")
        if pictures:
            ax = page.axes(_LEFT + count * step, top, picture_width, picture_height)
            _part(ax, pictures[run], (m, n), box)
            _outline_neighbours(ax, maps, colours, box)
    below = len(found) * block
    page.figure.colorbar(
        image,
        cax=page.axes(_LEFT, below, (count - 1) * step + width, 0.1),
        orientation="horizontal",
        label="correlation (grey: the filter itself)",
    )
    return page.figure


def _outline_neighbours(ax, maps, colours, box):
    """Outlines chosen filters, and neighbours that are like them: several times, those of several.

    The one that is outlined first lies outside.
    """
    top, left, bottom, right = box
    outlines = {}
    for place, near, colour in zip(maps.positions, maps.neighbours, colours, strict=True):
        outlines.setdefault(place, []).insert(0, (colour, 3.0))
        for p in near:
            if top <= p[0] < bottom and left <= p[1] < right:
                outlines.setdefault(p, []).append((colour, 1.5))
    for place, lines in outlines.items():
        depth = sum(width for _, width in lines)
        for colour, width in reversed(lines):
            _outline(ax, [place], colour, depth)
            depth -= width
    title = f"outlined: neighbours with\ncorrelation \u2265 {maps.threshold:.2f}"
    if not any(maps.alive):
        title = "no neighbours that correlate:\nthe filters' weights are all equal"
    elif maps.threshold <= 0:
        title = "outlined: neighbours with\ncorrelation > 0"
    ax.set_title(title)


@_styled
def class_maps(
    means: np.ndarray,
    names: Sequence[str],
    dims: SomDimensions,
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
      dims: SOM dimensions `(m, n)`.
      layer: its name.
      shared_by: names of the classes, or sets of classes, that share the regions.
      regions: those to outline, and to show the filters of.
      pictures: visualisations `(neurons, height, width, colours)` of all neurons.
    """
    m, n = dims
    regions = regions[: len(OUTLINES)]
    width = min(1.4, (PAGE - _LEFT - 0.6) / len(names) - _GAP, 3.4 * n / m)
    step = max(width, 0.7) + _GAP
    height = width * m / n
    boxes = [_box(region, n) for region in regions] if pictures is not None else []
    tile = min(0.6, (PAGE - _LEFT) / max(1, sum(b[3] - b[1] + 1.5 for b in boxes)))
    tallest = max((b[2] - b[0] for b in boxes), default=0)
    page = _Page.of(
        _LEFT + len(names) * step + 0.5,
        height + 0.8 + (tile * tallest + 1.0) * bool(boxes),
        f"{layer}: mean activation by class, {m}x{n} map\n" + _shared(shared_by, names, regions),
    )
    limit = np.abs(means).max() or 1.0
    top = 0.3
    for k, (name, values) in enumerate(zip(names, means, strict=True)):
        ax = page.axes(_LEFT + k * step, top, width, height)
        image = _heat_map(ax, values.reshape(m, n), limit)
        ax.set_title(_folded(name.replace("_", " "), step))
        for region, colour in zip(regions, OUTLINES, strict=False):
            _outline(ax, _places(region, n), colour, _line(width / n))
        if k == 0:
            ax.set_ylabel("row")
    bar = page.bar(_LEFT + (len(names) - 1) * step + width, top, height)
    page.figure.colorbar(image, cax=bar, label="activation before the ReLU")
    left, top = _LEFT, top + height + 0.9
    for box, region, colour in zip(boxes, regions, OUTLINES, strict=False):
        rows, columns = box[2] - box[0], box[3] - box[1]
        ax = page.axes(left, top, tile * columns, tile * rows)
        _part(ax, pictures, dims, box)
        _outline(ax, _places(region, n), colour, width=2.5)
        size = len(region.neurons)
        what = f"{size} filters" if size > 1 else "one filter"
        ax.set_title(f"{what}\np = {region.p:.2g}", color=colour)
        if left == _LEFT:
            ax.set_ylabel("row")
        left += max(tile * columns, 0.6) + _GAP
    return page.figure


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
        if not (curve.value.any() or curve.shuffled.any()):
            ax.plot([], [], "o-", ms=3, color=colour, label=_label_of(f"{run}: all filters dead"))
            continue
        curve = _frequent(curve, dims[0] * dims[1])
        ax.plot(curve.distance, curve.value, "o-", ms=3, color=colour, label=_label_of(run))
        low, high = (curve.mean + k * curve.deviation for k in (-2, 2))
        ax.fill_between(curve.distance, low, high, color=colour, alpha=0.15, lw=0)
    ax.set_xlabel(
        "distance on the map, rounded: 1 has the diagonals too\n"
        "(bands: shuffled maps, mean ± two deviations)"
    )
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
    runs: Mapping[str, Mapping[str, AgainstShuffles | None]],
    controls: Mapping[str, Mapping[str, float]],
) -> Figure:
    """Draws the mean correlation of map neighbours by layer, for networks to compare.

    Args:
      runs: by network, then by layer; beside each its own shuffled maps. None for a layer whose
        filters are dead, where there is no correlation.
      controls: by what they are, then by layer.
    """
    layers = list(dict.fromkeys(layer for by_layer in runs.values() for layer in by_layer))
    figure = _figure(PAGE, 3.4, "mean correlation of the weights of neighbours on the map")
    ax = figure.subplots()
    width = 0.8 / (len(runs) + 1)  # the last place is for the controls
    for i, (name, by_layer) in enumerate(runs.items()):
        colour, marker = OUTLINES[i % len(OUTLINES)], _MARKERS[i % len(_MARKERS)]
        places, known = [], []
        for layer, found in by_layer.items():
            place = layers.index(layer) - 0.4 + width * (i + 0.5)
            if found is None:
                ax.text(place, 0, " dead", color=colour, rotation=90, ha="center", va="bottom")
                continue
            places.append(place)
            known.append(found)
        values = np.array([found.value for found in known])
        mean = np.array([found.shuffled.mean() for found in known])
        deviation = np.array([found.shuffled.std() for found in known])
        ax.bar(places, 4 * deviation, width, mean - 2 * deviation, color=colour, alpha=0.25)
        ax.plot(places, values, marker, ms=4, color=colour, label=_label_of(name))
    for (name, by_layer), marker in zip(controls.items(), cycle(_MARKERS[::-1]), strict=False):
        places = [layers.index(layer) + 0.4 - width / 2 for layer in by_layer]
        ax.plot(
            places, list(by_layer.values()), marker, ms=4, color="0.25", mfc="none", mew=0.8,
            label=_label_of(name),
        )  # fmt: skip
    ax.axhline(0, color="0.6", lw=0.6, zorder=0.5)
    _limit(ax)
    ax.set_xticks(
        range(len(layers)), layers, rotation=30 if max(map(len, layers)) < 10 else 90, ha="right"
    )
    ax.set_ylabel("correlation")
    bars = Patch(color="0.8", label="a network's own maps,\nshuffled: mean\n± two deviations")
    handles = [*ax.get_legend_handles_labels()[0], bars]
    ax.legend(handles=handles, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _limit(ax: Axes) -> None:
    """Leaves room above and below all that is drawn; by itself, matplotlib cuts bars off."""
    low, high = ax.dataLim.intervaly
    room = 0.05 * (high - low) or 0.1
    ax.set_ylim(low - room, high + room)


def _figure(width: float, height: float, title: str) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(_plain(title))
    return figure


@dataclass(frozen=True)
class _Page:
    """A figure whose parts lie where they are told to, in inches from the left and the title.

    Maps have a fixed aspect: matplotlib's layouts leave bands around them, and its colour bars are
    of another height.
    """

    figure: Figure
    width: float
    height: float
    head: float

    @classmethod
    def of(cls, width: float, height: float, title: str) -> "_Page":
        head = 0.2 * (title.count("\n") + 1)
        figure = Figure(figsize=(width, height + head))
        figure.suptitle(_plain(title), y=1, va="top")
        return cls(figure, width, height + head, head)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        bottom = self.height - self.head - top - height
        x, y = self.width, self.height
        return self.figure.add_axes((left / x, bottom / y, width / x, height / y))

    def bar(self, left: float, top: float, height: float) -> Axes:
        """For a colour bar beside a map that ends at `left`."""
        return self.axes(left + 0.12, top, 0.1, height)

    def text(self, left: float, top: float, text: str) -> None:
        x, y = left / self.width, 1 - (self.head + top) / self.height
        self.figure.text(x, y, _plain(text), weight="bold", va="bottom")


def _plain(text: str) -> str:
    """A text with no formulas in it."""
    return text.replace("$", r"\$")


def _folded(text: str, width: float) -> str:
    """A text in lines of so many inches."""
    lines = textwrap.wrap(text.replace("/", "/ "), max(4, int(width / 0.07)))  # paths as well
    return _plain("\n".join(lines).replace("/ ", "/"))


def _label_of(name: str) -> str:
    """A name in a legend; matplotlib leaves those out of a legend that begin with an underscore."""
    return " " * name.startswith("_") + _folded(name, 2)


def _colours(count: int) -> list[str]:
    return [OUTLINES[i % len(OUTLINES)] for i in range(count)]


def _heat_map(ax: Axes, values: np.ndarray, limit: float):
    cmap = matplotlib.colormaps[_DIVERGING].with_extremes(bad="0.6")
    image = ax.imshow(values, cmap=cmap, vmin=-limit, vmax=limit, interpolation="nearest")
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


def _part(
    ax: Axes, pictures: np.ndarray, dims: SomDimensions, box: tuple[int, int, int, int]
) -> None:
    """Lays out the pictures of a part of a map: top, left, bottom, right."""
    top, left, bottom, right = box
    part = pictures.reshape(*dims, *pictures.shape[1:])[top:bottom, left:right]
    part = part.reshape(-1, *pictures.shape[1:])
    _mosaic(ax, part, (bottom - top, right - left), first=(top, left))


def _outline(ax: Axes, places: Sequence[tuple[int, int]], colour: str, width: float) -> None:
    """Draws the border of a set of places on a map, inside of them."""
    places = set(places)
    squares = [
        Outline([(j - 0.5, i - 0.5), (j + 0.5, i - 0.5), (j + 0.5, i + 0.5), (j - 0.5, i + 0.5)])
        for i, j in sorted(places)
    ]
    inside = Outline.make_compound_path(*squares)
    for i, j in places:
        top, left, bottom, right = i - 0.5, j - 0.5, i + 0.5, j + 0.5
        sides = {
            (i - 1, j): ((left, right), (top, top)),
            (i + 1, j): ((left, right), (bottom, bottom)),
            (i, j - 1): ((left, left), (top, bottom)),
            (i, j + 1): ((right, right), (top, bottom)),
        }
        for beyond, line in sides.items():
            if beyond not in places:  # twice as wide, of which the half outside is clipped
                (side,) = ax.plot(*line, color=colour, lw=2 * width, solid_capstyle="projecting")
                side.set_clip_path(inside, ax.transData)


def _line(inches: float) -> float:
    """The width in points of a line that leaves most of a place of so many inches to be seen."""
    return min(1.5, 0.2 * 72 * inches)


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
