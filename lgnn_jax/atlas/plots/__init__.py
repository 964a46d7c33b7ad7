"""The paper's figures, and those of a map's order: draws what `lgnn_jax.analysis` returns.

Every function returns a `matplotlib.figure.Figure`, readable at the width of a page; `save` writes
it as PNG and SVG. Maps may have any shape; `(m, n)` is short for a grid. Colours are safe for the
colour-blind: Okabe and Ito's for lines and outlines, and a map from blue over white to red, which
differ in more than hue.
"""

from lgnn_jax.atlas.plots.classes import class_maps
from lgnn_jax.atlas.plots.distance import distance_curves
from lgnn_jax.atlas.plots.first_filters import first_filters
from lgnn_jax.atlas.plots.likeness import correlations
from lgnn_jax.atlas.plots.order import order_by_layer
from lgnn_jax.atlas.plots.page import OUTLINES, PAGE, SUFFIXES, save
from lgnn_jax.atlas.plots.pictures import visualizations
from lgnn_jax.atlas.plots.settled import settled_classes

__all__ = [
    "OUTLINES",
    "PAGE",
    "SUFFIXES",
    "class_maps",
    "correlations",
    "distance_curves",
    "first_filters",
    "order_by_layer",
    "save",
    "settled_classes",
    "visualizations",
]
