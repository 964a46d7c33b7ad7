"""Training step by step: the state, pure steps on it, and their form for many devices."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from lgnn_jax.maps.table import LayerMap
from lgnn_jax.methods import settling
from lgnn_jax.methods.pull import means, pull
from lgnn_jax.models.network import Network
from lgnn_jax.training import data
from lgnn_jax.training.config import Config

AXIS = "devices"


@flax.struct.dataclass
class TrainState:
    """All that changes from step to step.

    Attributes:
      step: int32 `()`, updates so far.
      params: the network's parameters.
      batch_stats: what else it keeps, the running statistics of its batch normalisation; `{}` if
        nothing.
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

    @property
    def network(self) -> tuple[Any, Any]:
        """The parameters and the state of the network: the first two arguments of its `apply`."""
        return self.params, self.batch_stats

    @staticmethod
    def parts(params: Any, state: Any) -> dict[str, Any]:
        """What a reader of a checkpoint needs of it: the network, and how far it was trained."""
        return {"step": np.int32(0), "params": params, "batch_stats": state}


class Metrics(NamedTuple):
    """Means over the epoch so far (training), or over the test images."""

    loss: jax.Array  # shape=(), dtype=float32, nats
    accuracy: jax.Array  # shape=(), dtype=float32, in [0, 1]
    # shape=(), dtype=int32: which parameter's gradient was the first that is not finite, of those
    # that a step looks at; the number of parameters, if only the loss was not; -1, if all were
    bad: jax.Array | int = -1


@partial(jax.jit, static_argnums=(0, 1, 2))
def init_state(
    network: Network,
    tx: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    seed: jax.typing.ArrayLike,
) -> TrainState:
    """Returns the state before the first step. One program serves all seeds.

    Args:
      network: what is trained.
      tx: its optimiser.
      image_shape: `(height, width, channels)`.
      seed: of the initial parameters, in [0, 2**31).
    """
    params, batch_stats = network.init(initial_key(seed), image_shape)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=tx.init(params),
        sums=jnp.zeros(3),
        skipped=jnp.zeros((), jnp.int32),
    )


def initial_key(seed: jax.typing.ArrayLike) -> jax.Array:
    """Returns the key that a run's initial parameters are drawn with."""
    return jax.random.fold_in(jax.random.key(seed), 0)


class Drawn(NamedTuple):
    """The random part of a step, on one device."""

    crops: data.Crops
    dropout: jax.Array  # a key


def make_draw(config: Config, axis_name: str | None = None) -> Callable[..., Drawn]:
    """Returns `(seed, step, indices) -> drawn`: what a step leaves to chance.

    Args:
      config: the run, for its augmentation.
      axis_name: see `make_train_step`.
    """

    def draw(seed, step, indices):
        base_key = jax.random.fold_in(jax.random.key(seed), 1)
        device = 0 if axis_name is None else lax.axis_index(axis_name)
        key_augment, key_dropout = jax.random.split(jax.random.fold_in(base_key, step))
        positions = device * len(indices) + jnp.arange(len(indices))
        return Drawn(
            data.draw_crops(key_augment, positions, pad=config.data.pad, flip=config.data.flip),
            jax.random.fold_in(key_dropout, device),
        )

    return draw


def make_train_step(
    network: Network,
    tx: optax.GradientTransformation,
    config: Config,
    *,
    image_shape: tuple[int, ...],
    steps_per_epoch: int,
    mean: np.ndarray,
    deviation: np.ndarray,
    layers: Mapping[str, tuple[str, LayerMap]] = MappingProxyType({}),
    axis_name: str | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns the pure step `(state, images, labels, seed, indices) -> (state, metrics)`.

    The step gathers its images, augments and standardises them, and updates the state by the
    gradient of the mean cross entropy. Where the loss is not finite, or the gradient of a bias or
    scale, the metrics say so. Under `config.on_nan` "skip" that is looked for in all gradients, and
    parameters, batch statistics and the optimiser's moments then stay as they were: only the step
    is counted. `images` is uint8 `(count, height * width * channels)`: with four axes a TPU would
    bring the whole data set to another layout in each step. All randomness comes from `seed`, an
    int32, and `state.step` alone; for dropout also from the device. Under a mapped axis
    `axis_name`, each device gets its share of a batch's `indices`, in the order of the axis, and
    the update is that of the whole batch. What else the step is given, by name, goes to the
    optimiser: see `lgnn_jax.transform` for `sigma`.

    Args:
      network: what is trained; built for the same `axis_name`, if it is `synced`.
      tx: the optimiser.
      config: the run, for its augmentation and `on_nan`.
      image_shape: `(height, width, channels)`.
      steps_per_epoch: after so many steps the metrics start anew.
      mean: of the images, by channel.
      deviation: of the images, by channel.
      layers: those with a map, for a method that looks at activations: the path of the kernel and
        the map by the layer's name.
      axis_name: the mapped axis, if any.
    """
    method = config.method
    tx = optax.with_extra_args_support(tx)
    draw = make_draw(config, axis_name)
    dtype = jnp.dtype(config.model.dtype)

    def train_step(state, images, labels, seed, indices, *, drawn=None, **extra_args):
        drawn = draw(seed, state.step, indices) if drawn is None else drawn
        x = images[indices].reshape(-1, *image_shape)
        x = data.augment(x, drawn.crops, pad=config.data.pad)
        x = data.standardize(x, mean, deviation)
        y = labels[indices]

        def activations_of(out):
            """Of the whole batch, by the path of a layer's kernel."""
            found = {path: means(out.activations[name]) for name, (path, _) in layers.items()}
            if axis_name is not None:
                found = lax.all_gather(found, axis_name, tiled=True)
            return found

        def pulled(activations):
            if method.pull is None:
                return 0.0
            at = settling.places(state.opt_state) if method.settles is not None else None
            pulled_layers = [(path, m) for path, m in layers.values() if m.map.count > 1]
            if not pulled_layers:
                return 0.0
            # A neuron counts as much as any other; in a mean over layers those of small early
            # layers would weigh most.
            found = [
                part.shape[1] * pull(part, places, m.map, method.pull.width, method.pull.inhibition)
                for path, m in pulled_layers
                for part, places in _by_group(
                    activations[path], np.arange(m.count) if at is None else at[path], m
                )
            ]
            return method.pull.weight * sum(found) / sum(m.count for _, m in pulled_layers)

        def loss_fn(params):
            looks = "means" if method.reads_activations else False
            out = network.apply(
                params, state.batch_stats, x, train=True, rng=drawn.dropout, activations=looks
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(out.logits, y)
            correct = (out.logits.argmax(-1) == y).sum().astype(jnp.float32)
            sums = jnp.stack([losses.sum(), correct, jnp.float32(len(indices))])
            loss = losses.mean()
            if not looks:
                return loss, (sums, out.state, {})
            activations = activations_of(out)
            return loss + pulled(activations), (sums, out.state, activations)

        # By the kernels in the compute type: a gradient has that type's digits, and no more bytes.
        params = jax.tree.map(lambda p: p if p.ndim < 2 else p.astype(dtype), state.params)
        grads, (sums, batch_stats, activations) = jax.grad(loss_fn, has_aux=True)(params)
        if axis_name is not None:
            mean_of = partial(lax.pmean, axis_name=axis_name)
            grads = jax.tree.map(lambda g: mean_of(g.astype(jnp.float32)).astype(g.dtype), grads)
            sums = lax.psum(sums, axis_name)
            if not network.synced:
                batch_stats = jax.tree.map(_mean_of_floats(axis_name), batch_stats)
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

        if method.settles is not None and activations:
            extra_args["activations"] = activations
        updates, opt_state = tx.update(grads, state.opt_state, state.params, **extra_args)
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


def _by_group(activations, places, layer_map):
    """The activations and places of each group of neurons, with a map of its own."""
    size = layer_map.map.count
    for first in range(0, layer_map.count, size):
        group = slice(first, first + size)
        yield activations[:, group], places[group] - first


def _mean_of_floats(axis_name):
    """The mean over the devices of what is a number; counters and flags are the same on all."""

    def mean(leaf):
        return lax.pmean(leaf, axis_name) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf

    return mean


def make_eval_step(
    network: Network,
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
        logits = network.apply(params, batch_stats, x).logits
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        sums = jnp.stack(
            [weights @ losses, weights @ (logits.argmax(-1) == y).astype(weights.dtype)]
        )
        return sums if axis_name is None else lax.psum(sums, axis_name)

    return eval_step


def many_train_steps(
    step: Callable, draw: Callable[..., Drawn], *, takes_sigma: bool
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns `(state, images, labels, seed, sigma, rows) -> (state, metrics)`, of many steps.

    One call for many steps is what keeps a fast device busy. `rows` has the `indices` of each step;
    the metrics have a leading axis, one entry a step. All steps have one `sigma`, float32: as an
    argument it lets one program serve every schedule.

    Args:
      step: see `make_train_step`.
      draw: see `make_draw`. It draws for all steps at once: for each by itself it would take as
        many kernels as two layers.
      takes_sigma: whether `sigma` is handed to the optimiser. Without a filter of ours there must
        be none: a user's own transformation may well have a sigma of its own.
    """

    def steps(state, images, labels, seed, sigma, rows):
        def one(state, row):
            indices, drawn = row
            extra = {"sigma": sigma} if takes_sigma else {}
            return step(state, images, labels, seed, indices, drawn=drawn, **extra)

        drawn = jax.vmap(partial(draw, seed))(state.step + jnp.arange(len(rows)), rows)
        return lax.scan(one, state, (rows, drawn))

    return steps


def many_eval_steps(step: Callable) -> Callable[..., jax.Array]:
    """Returns `(params, batch_stats, images, labels, rows, weights) -> sums`, `(len(rows), 2)`.

    Args:
      step: see `make_eval_step`.
    """

    def steps(params, batch_stats, images, labels, rows, weights):
        return lax.map(lambda row: step(params, batch_stats, images, labels, *row), (rows, weights))

    return steps


def make_parallel_steps(
    network: Network,
    tx: optax.GradientTransformation,
    config: Config,
    *,
    devices: tuple[jax.Device, ...],
    many: bool,
    steps_per_epoch: int,
    layers: Mapping[str, tuple[str, LayerMap]],
    **images: Any,
) -> tuple[Callable, Callable]:
    """Returns the training and the evaluation step over devices, compiled when first called.

    Args:
      network: what is trained, built for the axis `AXIS`.
      tx: the optimiser.
      config: the run.
      devices: those of all processes.
      many: whether a call makes many steps, see `many_train_steps`.
      steps_per_epoch: see `make_train_step`.
      layers: see there, too.
      **images: `image_shape`, `mean` and `deviation`, see `make_train_step`.
    """
    train = make_train_step(
        network,
        tx,
        config,
        steps_per_epoch=steps_per_epoch,
        layers=layers,
        axis_name=AXIS,
        **images,
    )
    evaluate = make_eval_step(network, axis_name=AXIS, **images)
    if many:
        has_filter = config.method.filter is not None
        train = many_train_steps(train, make_draw(config, AXIS), takes_sigma=has_filter)
        evaluate = many_eval_steps(evaluate)
    return (
        parallelize(train, devices, whole=4 + many, shares=1, axis=int(many), donate=True),
        parallelize(evaluate, devices, whole=4, shares=2, axis=int(many)),
    )


def parallelize(
    step: Callable,
    devices: list[jax.Device],
    *,
    whole: int,
    shares: int,
    axis: int = 0,
    donate: bool = False,
) -> Callable:
    """Maps a step over devices, as the axis `AXIS`.

    Args:
      step: a pure step that was made for that axis.
      devices: those of all processes.
      whole: so many arguments are the same on every device.
      shares: so many arguments after them have an axis for the devices of this process.
      axis: which one it is.
      donate: whether the step may use up the memory of its first argument.

    Returns:
      The mapped step. Its results are the same on all devices and have no device axis.
    """
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None,) * whole + (axis,) * shares,
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
