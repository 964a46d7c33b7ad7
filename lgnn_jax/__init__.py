"""Locality guided neural networks in JAX: neurons that organise themselves on a map.

One line lays out the neurons of a trained layer as a map, by what they do:

    import lgnn_jax as lgnn

    places = lgnn.settle(activations)  # (images, neurons), from any framework

Places are int32 `(neurons,)`: the neuron at each place of a grid, like beside like. One line in an
optax chain trains a network so that the filters of its layers come to lie in order:

    table = lgnn.som_table(params)
    tx = optax.chain(lgnn.transform(table), optax.sgd(0.1, momentum=0.9))

This part of the package needs jax, optax and numpy alone. The networks, the data, the training loop
and the analysis of maps are in submodules, imported by name.
"""

from lgnn_jax.maps.explain import explain
from lgnn_jax.maps.grid import grid, line, ring, som_dimensions
from lgnn_jax.maps.hexagonal import hexagonal
from lgnn_jax.maps.settling import settle
from lgnn_jax.maps.settling_layers import settle_layers
from lgnn_jax.maps.shapes import Map
from lgnn_jax.maps.sphere import sphere
from lgnn_jax.maps.table import LayerMap, layer_maps, som_table
from lgnn_jax.maps.windows import gaussian_kernel
from lgnn_jax.methods.pull import pull
from lgnn_jax.methods.schedules import (
    annealed_sigma,
    constant_sigma,
    decreasing_sigma,
    piecewise_schedule,
)
from lgnn_jax.methods.self_organizing import self_organizing
from lgnn_jax.methods.settling import Settling, places, with_places
from lgnn_jax.methods.transform import LGNNState, transform
from lgnn_jax.models.activations import activations
from lgnn_jax.models.network import Stream
from lgnn_jax.models.streams import layer_chain, reorder

__version__ = "0.1.0"

__all__ = [
    "LGNNState",
    "LayerMap",
    "Map",
    "Settling",
    "Stream",
    "activations",
    "annealed_sigma",
    "constant_sigma",
    "decreasing_sigma",
    "explain",
    "gaussian_kernel",
    "grid",
    "hexagonal",
    "layer_chain",
    "layer_maps",
    "line",
    "piecewise_schedule",
    "places",
    "pull",
    "reorder",
    "ring",
    "self_organizing",
    "settle",
    "settle_layers",
    "som_dimensions",
    "som_table",
    "sphere",
    "transform",
    "with_places",
]
