"""A run made ready: the network for its images, the optimiser, and the steps on the devices."""

import hashlib
import re
import time
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lgnn_jax import data, optimizer, som
from lgnn_jax.config import Config
from lgnn_jax.models import build_model
from lgnn_jax.train import (
    AXIS,
    Metrics,
    TrainState,
    init_state,
    make_eval_step,
    make_train_step,
    parallelize,
    replicate,
)


class RunError(Exception):
    """A run that cannot be started or resumed as asked; one clear line."""


class Plan(NamedTuple):
    """What a config comes to, before any memory or time is spent."""

    model: nn.Module
    shapes: Any  # the parameters, as jax.ShapeDtypeStruct
    maps: dict[str, som.SomDimensions | None]  # by parameter path
    steps_per_epoch: int  # the images of a last, incomplete batch rest


def plan(config: Config, info: data.Info) -> Plan:
    """Works out the network, its maps and the steps of a run.

    Args:
      config: the run.
      info: its data set.

    Raises:
      RunError: if the network, its maps, the batch or the padding do not fit the images.
    """
    height, width, _ = info.image_shape
    if config.batch_size > info.train_count:
        raise RunError(
            f"batch_size {config.batch_size} exceeds the {info.train_count} training images."
        )
    if config.data.pad >= min(height, width):
        raise RunError(
            f"data.pad must be less than the sides of {height}x{width} images, "
            f"got {config.data.pad}."
        )
    try:
        model = build_model(
            config.model.name,
            num_classes=len(info.class_names),
            width=config.model.width,
            dropout=config.model.dropout,
            dtype=config.model.dtype,
            axis_name=AXIS,
        )
        shapes = jax.eval_shape(
            lambda key: model.init(key, jnp.zeros((1, *info.image_shape))), jax.random.key(0)
        )["params"]
        maps = som.layer_maps(shapes, optimizer.build_table(config, shapes))
    except ValueError as error:
        raise RunError(str(error)) from error
    paths = [som.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    for key in config.som.table:
        if not key.isdecimal() and not any(re.search(key, path) for path in paths):
            raise RunError(
                f"som.table: no parameter has {key!r} in its path; --dry-run lists them."
            )
    # From wherever it stands, a window that wide sees the whole map and beyond each of its edges; a
    # window of a million would take minutes to compile.
    longest = max((max(dims) for dims in maps.values() if dims is not None), default=1)
    if config.som.kernel_size > 2 * longest + 1:
        raise RunError(
            f"som.kernel_size must be at most {2 * longest + 1}, twice the longest side of a map "
            f"and 1, got {config.som.kernel_size}."
        )
    return Plan(model, shapes, maps, info.train_count // config.batch_size)


class Session:
    """A config, its images and the devices, ready to train and to evaluate.

    Attributes:
      plan: see `Plan`.
      devices: those of all processes.
      initial_state: the state before the first step.
      init_sha256: digest of the initial parameters.
      parameter_names: paths of the parameters, in their order.
    """

    def __init__(
        self, config: Config, dataset: data.Dataset, devices: list[jax.Device] | None = None
    ):
        """Builds the network, its optimiser and the parallel steps.

        Args:
          config: the run.
          dataset: its images.
          devices: those to train on; all devices of all processes if None.

        Raises:
          RunError: see `plan`; and if the batch is not divisible by the devices.
        """
        devices = jax.devices() if devices is None else devices
        self.plan = plan(config, dataset.info)
        if config.batch_size % len(devices):
            raise RunError(
                f"batch_size {config.batch_size} is not divisible by the {len(devices)} devices: "
                f"choose a multiple of {len(devices)}."
            )
        self.config, self.dataset, self.devices = config, dataset, devices
        model, steps_per_epoch = self.plan.model, self.plan.steps_per_epoch
        tx = optimizer.build_optimizer(config, self.plan.shapes, steps_per_epoch)
        mean, deviation = data.statistics(dataset.train_images)
        image_shape = dataset.info.image_shape
        images = {"image_shape": image_shape, "mean": mean, "deviation": deviation}
        self.initial_state = init_state(model, tx, image_shape, config.seed)
        self.init_sha256 = tree_sha256(self.initial_state.params)
        train_step = make_train_step(
            model, tx, config, **images, steps_per_epoch=steps_per_epoch, axis_name=AXIS
        )
        eval_step = make_eval_step(model, **images, axis_name=AXIS)
        self._train_step = parallelize(train_step, devices, whole=3, shares=1, donate=True)
        self._eval_step = parallelize(eval_step, devices, whole=4, shares=2)
        train, test = (x.reshape(len(x), -1) for x in (dataset.train_images, dataset.test_images))
        self._train_arrays = replicate((train, dataset.train_labels), devices)
        self._test_arrays = replicate((test, dataset.test_labels), devices)
        paths = jax.tree_util.tree_leaves_with_path(self.plan.shapes)
        self.parameter_names = [som.path_name(path) for path, _ in paths]
        self._local = np.array([d.process_index == jax.process_index() for d in devices])

    def place(self, state: TrainState) -> TrainState:
        """Copies a state to the devices; the copy is what a step may use up."""
        return replicate(state, self.devices)

    def epoch_order(self, epoch: int) -> np.ndarray:
        """Returns the indices of an epoch, `(steps, local devices, images a device)`."""
        indices = data.order(self.config.seed, epoch, len(self.dataset.train_images))
        indices = indices[: self.plan.steps_per_epoch * self.config.batch_size]
        return indices.reshape(self.plan.steps_per_epoch, len(self.devices), -1)[:, self._local]

    def compile(self) -> float:
        """Compiles both steps by a first call each, to no effect; returns the seconds it took.

        Ahead-of-time compilation (`lower(...).compile()`) does not take a process's own share of
        the indices where there are several processes.
        """
        started = time.perf_counter()
        state = self.place(self.initial_state)
        indices = self.epoch_order(0)[0]
        weights = np.zeros(indices.shape, np.float32)
        arguments = state.params, state.batch_stats, *self._test_arrays, indices, weights
        jax.block_until_ready(self._eval_step(*arguments))
        jax.block_until_ready(self._train_step(state, *self._train_arrays, indices))
        return time.perf_counter() - started

    def train_step(self, state: TrainState, indices: np.ndarray) -> tuple[TrainState, Metrics]:
        """Makes one step with one row of `epoch_order`; `state` is used up."""
        return self._train_step(state, *self._train_arrays, indices)

    def evaluate(self, state: TrainState) -> Metrics:
        """Returns loss and accuracy over the test images, each counted exactly once."""
        count, size = len(self.dataset.test_images), self.config.batch_size
        batches = -(-count // size)
        indices = np.arange(batches * size, dtype=np.int32)
        weights = (indices < count).astype(np.float32)
        shape = (batches, len(self.devices), -1)
        indices = np.minimum(indices, count - 1).reshape(shape)[:, self._local]
        weights = weights.reshape(shape)[:, self._local]
        sums = []
        for i, w in zip(indices, weights, strict=True):
            sums.append(self._eval_step(state.params, state.batch_stats, *self._test_arrays, i, w))
            # Read one batch late. Were all of them sent off at once, CPU devices would wait for
            # each other's sums for ever: threads of one batch hold up those of another.
            sums[-2:-1] = jax.device_get(sums[-2:-1])
        return Metrics(*(np.sum(jax.device_get(sums), axis=0, dtype=np.float64) / count))


def tree_sha256(tree: Any) -> str:
    """Returns the SHA-256 of a tree of arrays: paths, types, shapes and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
