"""Locality guided neural networks in JAX: neurons that organise themselves on a map.

It takes one line, in an optax chain:

    import lgnn_jax as lgnn

    table = lgnn.som_table(params)
    tx = optax.chain(lgnn.transform(table), optax.sgd(0.1, momentum=0.9))

This part of the package needs jax, optax and numpy alone. The networks, the data, the training loop
and the analysis of maps are in submodules, imported by name.
"""

from lgnn_jax.schedules import constant_sigma, decreasing_sigma, piecewise_schedule
from lgnn_jax.som import gaussian_kernel, layer_maps, som_dimensions, som_table
from lgnn_jax.transform import LGNNState, transform

__version__ = "0.1.0"

__all__ = [
    "LGNNState",
    "constant_sigma",
    "decreasing_sigma",
    "gaussian_kernel",
    "layer_maps",
    "piecewise_schedule",
    "som_dimensions",
    "som_table",
    "transform",
]
