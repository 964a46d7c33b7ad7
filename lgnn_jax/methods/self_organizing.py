"""The recommended recipe in one line: neurons settle while they learn with their neighbours."""

from typing import Literal

import numpy as np
import optax

from lgnn_jax.maps.table import SomTable
from lgnn_jax.maps.windows import one_line
from lgnn_jax.methods.settling import Settling
from lgnn_jax.methods.transform import transform

# Settlings in a run. The recipe was measured in runs of ten epochs, with one settling in each.
_TIMES = 10


def self_organizing(
    som_table: SomTable,
    *,
    steps: int,
    on: Literal["activations", "weights"] | float | None = None,
    gradients: float = 0.65,
    neuron_axis: int = -1,
) -> optax.GradientTransformationExtraArgs:
    """Trains a layer into a map: neurons find their places, and learn together with neighbours.

    It is `lgnn_jax.transform` with the paper's window, and `lgnn_jax.Settling` ten times in a run.
    It stands first in a chain, before any optimiser; never behind weight decay. That makes weights
    alike. What neurons do comes to be alike with `lgnn_jax.pull` in the loss. Beside a pull the
    filter makes weights still more alike, and nothing else of the map clearer;
    `lgnn_jax.transform(som_table, sigma=0, settle=...)` does without it.

    Args:
      som_table: which parameter lies on which map, as for `lgnn_jax.transform`.
      steps: updates of the whole run, at least 1.
      on: what neurons settle on, see `lgnn_jax.Settling`. None for activations if `update` is given
        them, as `activations={layer: (batch, ..., neurons)}`, and weights in their
        place, with a warning, if not.
      gradients: the share of gradients in what is alike, see `lgnn_jax.Settling`. In our runs it
        made a class depend more on its region of the map.
      neuron_axis: as for `lgnn_jax.transform`.

    Raises:
      ValueError: as `lgnn_jax.transform` and `lgnn_jax.Settling`; for `steps` below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> import lgnn_jax as lgnn
      >>> params = {"conv": {"kernel": jnp.zeros((3, 3, 8, 64))}}
      >>> recipe = lgnn.self_organizing(lgnn.som_table(params), steps=1000)
      >>> tx = optax.chain(recipe, optax.add_decayed_weights(5e-4), optax.sgd(0.1, momentum=0.9))
      >>> state = tx.init(params)
      >>> answers = jnp.zeros((128, 6, 6, 64))  # of the whole batch
      >>> updates, state = tx.update(params, state, params, activations={"conv": answers})
    """
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1:
        raise ValueError(
            f"steps must be a whole number, at least 1, got {one_line(steps):.80}. Under "
            "optax.inject_hyperparams, pass "
            'static_args=("steps", "on", "gradients", "neuron_axis").'
        )
    settle = Settling(every=-(-steps // _TIMES), on=on, gradients=gradients)
    return transform(som_table, neuron_axis=neuron_axis, settle=settle)
