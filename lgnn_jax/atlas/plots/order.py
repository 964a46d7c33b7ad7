"""How alike neighbours on the map are, layer by layer."""

from collections.abc import Mapping
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lgnn_jax.analysis.shuffles import AgainstShuffles
from lgnn_jax.atlas.plots.page import OUTLINES, PAGE, label_of, plain_figure, styled

_MARKERS = ("o", "s", "^", "D", "v")


@styled
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
    figure = plain_figure(PAGE, 3.4, "mean correlation of the weights of neighbours on the map")
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
        ax.plot(places, values, marker, ms=4, color=colour, label=label_of(name))
    for (name, by_layer), marker in zip(controls.items(), cycle(_MARKERS[::-1]), strict=False):
        places = [layers.index(layer) + 0.4 - width / 2 for layer in by_layer]
        ax.plot(
            places, list(by_layer.values()), marker, ms=4, color="0.25", mfc="none", mew=0.8,
            label=label_of(name),
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
