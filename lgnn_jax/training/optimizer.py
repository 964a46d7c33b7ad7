"""The optimiser of a run: its method -> weight decay -> momentum -> piecewise schedule."""

import re
from typing import Any

import numpy as np
import optax

from lgnn_jax.maps.grid import grid
from lgnn_jax.maps.table import SomTable, layer_maps, som_table
from lgnn_jax.methods.schedules import piecewise_schedule
from lgnn_jax.models.wide_resnet import SOM_EXCEPTIONS
from lgnn_jax.training.config import Config
from lgnn_jax.training.named_maps import named_map


def build_optimizer(
    config: Config, params: Any, steps_per_epoch: int, *, neuron_axis: int = -1
) -> optax.GradientTransformation:
    """Builds the optimiser of section IV-A.

    Args:
      config: the run; see `Config.method` for what comes first.
      params: the network's parameters, arrays or `jax.ShapeDtypeStruct`.
      steps_per_epoch: updates in an epoch, at least 1.
      neuron_axis: of the network's kernels.

    Returns:
      Filter -> weight decay on all parameters -> momentum -> learning rate: the order in which
      PyTorch's SGD sees a filtered gradient.
    """
    maps = layer_maps(
        params, build_table(config, params, neuron_axis=neuron_axis), neuron_axis=neuron_axis
    )
    return optax.chain(
        *config.method.transformations(
            # By path and with their axes: what reads it needs to know nothing of the network.
            {f"^{re.escape(path)}$": found for path, found in maps.items()},
            steps_per_epoch=steps_per_epoch,
            epochs=config.epochs,
        ),
        optax.add_decayed_weights(config.optimizer.weight_decay),
        optax.sgd(learning_rate(config, steps_per_epoch), momentum=config.optimizer.momentum),
    )


def build_table(config: Config, params: Any, *, neuron_axis: int = -1) -> SomTable:
    """Returns the run's SOM table: the config's patterns, the layers left out, then the counts."""
    som = config.som
    wrap = som.padding == "wrap"
    known = {key: dims and grid(*dims, wrap=wrap) for key, dims in som.table.items()}
    counts = {int(key): value for key, value in known.items() if key.isdecimal()}
    patterns = {key: value for key, value in known.items() if not key.isdecimal()}
    counted = som_table(params, neuron_axis=neuron_axis)
    found = {count: named_map(som.map, count, wrap=wrap) for count in counted}
    return {**patterns, **SOM_EXCEPTIONS[som.layers], **found, **counts}


def learning_rate(config: Config, steps_per_epoch: int) -> optax.Schedule:
    """Returns the run's learning rate: step -> value."""
    o = config.optimizer
    return piecewise_schedule(o.learning_rate, o.decay_factor, o.decay_epochs, steps_per_epoch)


def sigmas(config: Config) -> np.ndarray:
    """Returns the width of the neighbourhood by epoch, float32; 0 where there is no filter."""
    low_pass = config.method.filter
    if low_pass is None:
        return np.zeros(config.epochs, np.float32)
    width = low_pass.width(steps_per_epoch=1, epochs=config.epochs)
    found = np.asarray(width(np.arange(config.epochs)), np.float32)
    return np.broadcast_to(found, config.epochs)
