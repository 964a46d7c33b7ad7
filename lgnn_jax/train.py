"""Training step by step: the state, pure steps on it, and their form for many devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from lgnn_jax import data
from lgnn_jax.config import Config

AXIS = "devices"


@flax.struct.dataclass
class TrainState:
    """All that changes from step to step.

    Attributes:
      step: int32 `()`, updates so far.
      params: the network's parameters.
      batch_stats: running statistics of its batch normalisation.
      opt_state: the optimiser's state.
      sums: float32 `(3,)`: loss, correct predictions and images, summed over the epoch so far.
      skipped: int32 `()`, updates that were left out, as a loss or gradient was not finite.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    sums: jax.Array
    skipped: jax.Array


class Metrics(NamedTuple):
    """Means over the epoch so far (training), or over the test images."""

    loss: jax.Array  # shape=(), dtype=float32, nats
    accuracy: jax.Array  # shape=(), dtype=float32, in [0, 1]
    # shape=(), dtype=int32: which parameter's gradient was the first that is not finite, of those
    # that a step looks at; the number of parameters, if only the loss was not; -1, if all were
    bad: jax.Array | int = -1


def init_state(
    model: nn.Module, tx: optax.GradientTransformation, image_shape: tuple[int, ...], seed: int
) -> TrainState:
    """Returns the state before the first step.

    Args:
      model: the network.
      tx: its optimiser.
      image_shape: `(height, width, channels)`.
      seed: of the initial parameters.
    """

    def init(key):
        variables = model.init(key, jnp.zeros((1, *image_shape)))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            opt_state=tx.init(variables["params"]),
            sums=jnp.zeros(3),
            skipped=jnp.zeros((), jnp.int32),
        )

    return jax.jit(init)(jax.random.fold_in(jax.random.key(seed), 0))


def make_train_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    config: Config,
    *,
    image_shape: tuple[int, ...],
    steps_per_epoch: int,
    mean: np.ndarray,
    deviation: np.ndarray,
    axis_name: str | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns the pure training step `(state, images, labels, indices) -> (state, metrics)`.

    The step gathers its images, augments and standardises them, and updates the state by the
    gradient of the mean cross entropy. Where the loss is not finite, or the gradient of a bias or
    scale, the metrics say so. Under `config.on_nan` "skip" that is looked for in all gradients, and
    parameters, batch statistics and the optimiser's moments then stay as they were: only the step
    is counted. `images` is uint8 `(count, height * width * channels)`: with four axes a TPU would
    bring the whole data set to another layout in each step. All randomness comes from the seed and
    `state.step` alone; for dropout also from the device. Under a mapped axis `axis_name`, each
    device gets its share of a batch's `indices`, in the order of the axis, and the update is that
    of the whole batch.

    Args:
      model: the network, built with the same `axis_name`.
      tx: the optimiser.
      config: the run, for its seed, its augmentation and `on_nan`.
      image_shape: `(height, width, channels)`.
      steps_per_epoch: after so many steps the metrics start anew.
      mean: of the images, by channel.
      deviation: of the images, by channel.
      axis_name: the mapped axis, if any.
    """
    base_key = jax.random.fold_in(jax.random.key(config.seed), 1)

    def train_step(state, images, labels, indices):
        device = 0 if axis_name is None else lax.axis_index(axis_name)
        key_augment, key_dropout = jax.random.split(jax.random.fold_in(base_key, state.step))
        positions = device * len(indices) + jnp.arange(len(indices))
        x = images[indices].reshape(-1, *image_shape)
        x = data.augment(key_augment, x, positions, pad=config.data.pad, flip=config.data.flip)
        x = data.standardize(x, mean, deviation)
        y = labels[indices]

        def loss_fn(params):
            logits, updated = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                x,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.fold_in(key_dropout, device)},
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            correct = (logits.argmax(-1) == y).sum().astype(jnp.float32)
            sums = jnp.stack([losses.sum(), correct, jnp.float32(len(indices))])
            return losses.mean(), (sums, updated["batch_stats"])

        grads, (sums, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
        if axis_name is not None:
            grads = lax.pmean(grads, axis_name)
            sums = lax.psum(sums, axis_name)
        # An infinite loss may have finite gradients: that of a label whose logit is -inf. A run
        # that stops looks at biases and scales alone: it throws the update away anyway, and where
        # only a kernel's gradient overflows the next loss tells. On one TPU chip all gradients
        # would add 3 % to the memory traffic of VGG-11's step, 8 % with the filter, by the
        # compiler's figures; waiting for all, as a step must that may be skipped, made it 3 %
        # longer on a CPU.
        may_skip = config.on_nan == "skip"
        finite = [
            jnp.isfinite(leaf).all() if may_skip or leaf.ndim < 2 else jnp.bool_(True)
            for leaf in jax.tree.leaves(grads)
        ]
        before = jnp.where(state.step % steps_per_epoch == 0, 0.0, state.sums)
        added = before + sums
        finite = jnp.stack([*finite, jnp.isfinite(added[0])])
        ok = finite.all()

        def unless_skipped(new, old):
            """The new state, or the old; but steps are counted in any case."""
            if not may_skip or jnp.issubdtype(new.dtype, jnp.integer):
                return new
            return jnp.where(ok, new, old)

        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        sums = unless_skipped(added, before)
        state = TrainState(
            step=state.step + 1,
            params=jax.tree.map(unless_skipped, params, state.params),
            batch_stats=jax.tree.map(unless_skipped, batch_stats, state.batch_stats),
            opt_state=jax.tree.map(unless_skipped, opt_state, state.opt_state),
            sums=sums,
            skipped=state.skipped + jnp.where(ok, 0, 1) if may_skip else state.skipped,
        )
        bad = jnp.where(ok, -1, jnp.argmin(finite).astype(jnp.int32))
        return state, Metrics(*(sums[:2] / jnp.maximum(sums[2], 1.0)), bad)

    return train_step


def make_eval_step(
    model: nn.Module,
    *,
    image_shape: tuple[int, ...],
    mean: np.ndarray,
    deviation: np.ndarray,
    axis_name: str | None = None,
) -> Callable[..., jax.Array]:
    """Returns the pure step `(params, batch_stats, images, labels, indices, weights) -> sums`.

    What it is made for, and `images`, are as for `make_train_step`. `sums` is float32 `(2,)`: loss
    and correct predictions over the images at `indices`, each counted `weights` times (0 for an
    index that only fills up a batch), over all devices of `axis_name`.
    """

    def eval_step(params, batch_stats, images, labels, indices, weights):
        x = data.standardize(images[indices].reshape(-1, *image_shape), mean, deviation)
        y = labels[indices]
        logits = model.apply({"params": params, "batch_stats": batch_stats}, x, train=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        sums = jnp.stack(
            [weights @ losses, weights @ (logits.argmax(-1) == y).astype(weights.dtype)]
        )
        return sums if axis_name is None else lax.psum(sums, axis_name)

    return eval_step


def parallelize(
    step: Callable, devices: list[jax.Device], *, whole: int, shares: int, donate: bool = False
) -> Callable:
    """Maps a step over devices, as the axis `AXIS`.

    Args:
      step: a pure step that was made for that axis.
      devices: those of all processes.
      whole: so many arguments are the same on every device.
      shares: so many arguments after them have a leading axis, a row for each device of this
        process.
      donate: whether the step may use up the memory of its first argument.

    Returns:
      The mapped step. Its results are the same on all devices and have no device axis.
    """
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None,) * whole + (0,) * shares,
        out_axes=None,
        devices=devices,
        donate_argnums=0 if donate else (),
    )


def replicate(tree: Any, devices: list[jax.Device]) -> Any:
    """Puts a whole copy of every array of `tree` on each device, over all processes."""
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def put(leaf):
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(put, tree)
