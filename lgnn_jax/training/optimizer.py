"""The paper's optimiser from a config: filter, weight decay, momentum, piecewise schedule."""

from typing import Any

import optax

from lgnn_jax.maps.table import SomTable, som_table
from lgnn_jax.methods.schedules import constant_sigma, decreasing_sigma, piecewise_schedule
from lgnn_jax.methods.transform import transform
from lgnn_jax.models.wide_resnet import SOM_EXCEPTIONS
from lgnn_jax.training.config import Config


def build_optimizer(
    config: Config, params: Any, steps_per_epoch: int
) -> optax.GradientTransformation:
    """Builds the optimiser of section IV-A.

    Args:
      config: the run; `variant` "baseline" leaves the filter out.
      params: the network's parameters, arrays or `jax.ShapeDtypeStruct`.
      steps_per_epoch: updates in an epoch, at least 1.

    Returns:
      Filter -> weight decay on all parameters -> momentum -> learning rate: the order in which
      PyTorch's SGD sees a filtered gradient.
    """
    chain = [
        optax.add_decayed_weights(config.optimizer.weight_decay),
        optax.sgd(learning_rate(config, steps_per_epoch), momentum=config.optimizer.momentum),
    ]
    if config.variant != "baseline":
        lgnn = transform(
            build_table(config, params),
            sigma=sigma(config, steps_per_epoch),
            kernel_size=config.som.kernel_size,
            padding=config.som.padding,
            method=config.som.method,
        )
        chain.insert(0, lgnn)
    return optax.chain(*chain)


def build_table(config: Config, params: Any) -> SomTable:
    """Returns the run's SOM table: the config's patterns, the layers left out, then the counts."""
    counts = {int(key): dims for key, dims in config.som.table.items() if key.isdecimal()}
    patterns = {key: dims for key, dims in config.som.table.items() if not key.isdecimal()}
    return {**patterns, **SOM_EXCEPTIONS[config.som.layers], **som_table(params), **counts}


def learning_rate(config: Config, steps_per_epoch: int) -> optax.Schedule:
    """Returns the run's learning rate: step -> value."""
    o = config.optimizer
    return piecewise_schedule(o.learning_rate, o.decay_factor, o.decay_epochs, steps_per_epoch)


def sigma(config: Config, steps_per_epoch: int) -> optax.Schedule:
    """Returns the run's width of the neighbourhood: step -> sigma; 0 for the baseline."""
    if config.variant == "decreasing":
        return decreasing_sigma(
            config.som.sigma, steps_per_epoch=steps_per_epoch, epochs=config.epochs
        )
    return constant_sigma(0.0 if config.variant == "baseline" else config.som.sigma)
