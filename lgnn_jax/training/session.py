"""A run made ready: the network for its images, the optimiser, and the steps on the devices."""

import dataclasses
import functools
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from lgnn_jax.maps import table
from lgnn_jax.models.build import build_network
from lgnn_jax.models.network import Network, at_path, neurons_last
from lgnn_jax.training import data, optimizer, own
from lgnn_jax.training.config import Config, Model, from_json, to_json
from lgnn_jax.training.errors import RunError
from lgnn_jax.training.steps import (
    AXIS,
    Metrics,
    TrainState,
    init_state,
    make_parallel_steps,
    replicate,
)


class Plan(NamedTuple):
    """What a config comes to, before any memory or time is spent."""

    network: Network
    image_shape: tuple[int, int, int]
    layers: dict[str, str]  # path of each layer's kernel by the layer's name, images to logits
    shapes: Any  # the parameters, as jax.ShapeDtypeStruct
    maps: dict[str, table.LayerMap | None]  # by parameter path
    steps_per_epoch: int  # a last, incomplete batch is left out

    @property
    def mapped(self) -> dict[str, tuple[str, table.LayerMap]]:
        """The layers with a map: path of the kernel and map by the layer's name."""
        found = {layer: (path, self.maps.get(path)) for layer, path in self.layers.items()}
        return {layer: (path, m) for layer, (path, m) in found.items() if m is not None}

    def weights(
        self, params: Any, layer: str, places: Mapping[str, Any] = MappingProxyType({})
    ) -> jax.Array:
        """Returns the kernel of a layer, with its neurons on the last axis, in the map's order.

        Args:
          params: of the network.
          layer: its name.
          places: the neuron at each place, by path; of a layer without, neurons lie as they are
            numbered.
        """
        path = self.layers[layer]
        kernel = at_path(params, path)
        found = self.maps.get(path)
        axes = found.axes(kernel.shape) if found else (self.network.neuron_axis % kernel.ndim,)
        kernel = neurons_last(kernel, axes)
        return kernel[..., places[path]] if path in places else kernel


def plan(config: Config, info: data.Info, network: Network | None = None) -> Plan:
    """Works out the network, its maps and the steps of a run.

    Args:
      config: the run.
      info: its data set.
      network: to train, instead of the one that `config.model` names.

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
        if network is None:
            network = _named_network(config.model, len(info.class_names))
        shapes, state = jax.eval_shape(
            lambda key: network.init(key, info.image_shape), jax.random.key(0)
        )
        _check_logits(network, shapes, state, info)
        axis = network.neuron_axis
        found = optimizer.build_table(config, shapes, neuron_axis=axis)
        maps = table.layer_maps(shapes, found, neuron_axis=axis)
    except ValueError as error:
        raise RunError(str(error)) from error
    paths = [table.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    for key in config.som.table:
        if not key.isdecimal() and not any(re.search(key, path) for path in paths):
            raise RunError(
                f"som.table: no parameter has {key!r} in its path; --dry-run lists them."
            )
    # From wherever it stands, a window that wide sees the whole map and beyond each of its edges; a
    # window of a million would take minutes to compile.
    sides = [side for m in maps.values() if m is not None for side in getattr(m.map, "sides", ())]
    size = config.som.kernel_size
    if sides and size is not None and size > 2 * max(sides) + 1:
        raise RunError(
            f"som.kernel_size must be at most {2 * max(sides) + 1}, twice the longest side of a "
            f"map and 1, got {size}."
        )
    layers = network.layers(info.image_shape)
    return Plan(
        network, info.image_shape, layers, shapes, maps, info.train_count // config.batch_size
    )


def _check_logits(network: Network, params: Any, state: Any, info: data.Info) -> None:
    """Raises ValueError unless a network gives a logit for each class."""
    images = jax.ShapeDtypeStruct((1, *info.image_shape), np.float32)
    logits = jax.eval_shape(network.apply, params, state, images).logits
    if logits.shape != (1, len(info.class_names)):
        raise ValueError(
            f"the network gives logits of shape {logits.shape} for one image: it must be "
            f"{(1, len(info.class_names))}, one for each class."
        )


@functools.cache  # programs are kept by their network: the same object, each time
def _named_network(model: Model, num_classes: int) -> Network:
    """The network that a config names; of a file, the one that its function returns."""
    if own.is_file(model.name):
        found = own.call(model.name, "network", num_classes)
        if not hasattr(found, "neuron_axis"):
            raise ValueError(
                f"{model.name}: network must return a Network, such as LinenNetwork(module), got "
                f"{type(found).__name__}."
            )
        return found
    return build_network(
        model.name,
        num_classes=num_classes,
        width=model.width,
        dropout=model.dropout,
        dtype=model.dtype,
        devices=AXIS,
    )


class _Programs(NamedTuple):
    """The steps on the devices. Compiled once, they serve all runs that differ in the seed alone.

    Where a call makes many steps, sigma is an argument too: they serve all its schedules.
    """

    tx: optax.GradientTransformation
    train: Callable
    evaluate: Callable


class Session:
    """A config, its images and the devices, ready to train and to evaluate.

    Attributes:
      plan: see `Plan`.
      devices: those of all processes.
      initial_state: the state before the first step.
      init_sha256: digest of the initial parameters.
      parameter_names: paths of the parameters, in their order.
      learning_rates: float32 `(epochs,)`.
      sigmas: float32 `(epochs,)`, widths of the neighbourhood; 0 for the baseline.
      steps_per_call: so many steps `train_steps` makes in one call: up to 50 on GPUs, 1 on others.
    """

    def __init__(
        self,
        config: Config,
        dataset: data.Dataset,
        devices: list[jax.Device] | None = None,
        *,
        steps_per_call: int | None = None,
        network: Network | None = None,
    ):
        """Builds the network, its optimiser and the parallel steps.

        Args:
          config: the run.
          dataset: its images.
          devices: those to train on; all devices of all processes if None.
          steps_per_call: see the attribute; at least 1 and at most the steps of an epoch. Chosen by
            the devices if None.
          network: to train, instead of the one that `config.model` names.

        Raises:
          RunError: see `plan`; if the batch is not divisible by the devices; and for
            `steps_per_call` out of range.
        """
        devices = jax.devices() if devices is None else devices
        self.plan = plan(config, dataset.info, network)
        try:
            optimizer.build_optimizer(
                config, self.plan.shapes, 1, neuron_axis=self.plan.network.neuron_axis
            )
        except ValueError as error:  # of a method in a user's file
            raise RunError(str(error)) from error
        if config.batch_size % len(devices):
            raise RunError(
                f"batch_size {config.batch_size} is not divisible by the {len(devices)} devices: "
                f"choose a multiple of {len(devices)}."
            )
        self.config, self.dataset, self.devices = config, dataset, devices
        steps_per_epoch = self.plan.steps_per_epoch
        if steps_per_call is None:
            steps_per_call = _even_share(steps_per_epoch, _most_steps_per_call(devices[0]))
        if not 1 <= steps_per_call <= steps_per_epoch:
            raise RunError(
                f"steps_per_call must be at least 1 and at most {steps_per_epoch}, the steps of an "
                f"epoch, got {steps_per_call}."
            )
        self.steps_per_call = steps_per_call
        rates = optimizer.learning_rate(config, 1)(np.arange(config.epochs))
        self.learning_rates = np.broadcast_to(np.asarray(rates, np.float32), config.epochs)
        self.sigmas = optimizer.sigmas(config)
        self._programs = _programs(
            _shared(config, steps_per_call),
            network,
            dataset.info,
            *(tuple(x.tolist()) for x in data.statistics(dataset.train_images)),
            tuple(devices),
            steps_per_call > 1,
            jax.config.jax_default_prng_impl,
        )
        self.initial_state = init_state(
            self.plan.network, self._programs.tx, dataset.info.image_shape, np.int32(config.seed)
        )
        self.init_sha256 = tree_sha256(self.initial_state.params)
        train, test = (x.reshape(len(x), -1) for x in (dataset.train_images, dataset.test_images))
        self._train_arrays = replicate((train, dataset.train_labels), devices)
        self._test_arrays = replicate((test, dataset.test_labels), devices)
        paths = jax.tree_util.tree_leaves_with_path(self.plan.shapes)
        self.parameter_names = [table.path_name(path) for path, _ in paths]
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
        """Compiles the steps by a first call each, to no effect; returns the seconds it took.

        Ahead-of-time compilation (`lower(...).compile()`) does not take a process's own share of
        the indices where there are several processes.
        """
        started = time.perf_counter()
        order = self.epoch_order(0)
        state = self.place(self.initial_state)
        batches = slice(1 if self.steps_per_call == 1 else None)
        self._test_sums(state, *(x[batches] for x in self._test_rows()))
        for size in {last - first for first, last in self.calls(0)}:
            state, metrics = self._train(state, order[:size], 0)
            jax.block_until_ready(metrics)
        return time.perf_counter() - started

    def calls(self, start: int) -> list[tuple[int, int]]:
        """Returns the first step of an epoch and the step after the last, for each call it takes.

        A call begins at a multiple of `steps_per_call`, wherever a run was cut: so the same steps
        are made by the same program, to the same bits. What is left over is made one by one.

        Args:
          start: step of the epoch to go on from.
        """
        size, steps = self.steps_per_call, self.plan.steps_per_epoch
        found = []
        while start < steps:
            whole = start % size == 0 and start + size <= steps
            found.append((start, start + (size if whole else 1)))
            start = found[-1][1]
        return found

    def train_steps(
        self, state: TrainState, rows: np.ndarray, epoch: int
    ) -> tuple[TrainState, Metrics]:
        """Makes the steps of one of `calls`.

        Args:
          state: it is used up.
          rows: of `epoch_order`, one for each step.
          epoch: of these steps.

        Returns:
          The new state; and the metrics, `(steps,)` each, or `()` if `steps_per_call` is 1.
        """
        return self._train(state, rows, epoch)

    def _train(self, state, rows, epoch):
        arguments = state, *self._train_arrays, np.int32(self.config.seed)
        if self.steps_per_call == 1:
            (indices,) = rows
            return self._programs.train(*arguments, indices)
        return self._programs.train(*arguments, self.sigmas[epoch], rows)

    def evaluate(self, state: TrainState) -> Metrics:
        """Returns loss and accuracy over the test images, each counted exactly once."""
        sums = self._test_sums(state, *self._test_rows())
        return Metrics(*(sums.sum(axis=0) / len(self.dataset.test_images)))

    def _test_rows(self):
        """Indices and weights of the test images, `(batches, local devices, images a device)`."""
        count, size = len(self.dataset.test_images), self.config.batch_size
        batches = -(-count // size)
        indices = np.arange(batches * size, dtype=np.int32)
        weights = (indices < count).astype(np.float32)
        shape = (batches, len(self.devices), -1)
        indices = np.minimum(indices, count - 1).reshape(shape)
        return indices[:, self._local], weights.reshape(shape)[:, self._local]

    def _test_sums(self, state, indices, weights):
        """Loss and correct predictions of each batch, float64 `(batches, 2)`."""
        arguments = *state.network, *self._test_arrays
        if self.steps_per_call > 1:
            sums = self._programs.evaluate(*arguments, indices, weights)
            return np.asarray(jax.device_get(sums), np.float64)
        sums = []
        for i, w in zip(indices, weights, strict=True):
            sums.append(self._programs.evaluate(*arguments, i, w))
            # Read one batch late. Were all of them sent off at once, CPU devices would wait for
            # each other's sums for ever: threads of one batch hold up those of another.
            sums[-2:-1] = jax.device_get(sums[-2:-1])
        return np.array(jax.device_get(sums), np.float64)


def _most_steps_per_call(device: jax.Device) -> int:
    """On a GPU a step starts more than a hundred kernels, and one call for many of them is fast.

    50 steps of VGG-11 take 50 ms on an H200, long beside the start of a call. A signal is answered
    after a call, so a slow network on a slow GPU keeps it waiting. In a loop XLA's convolutions are
    20 to 50 times as slow on CPUs, and on one TPU chip VGG-11's filtered step in float32 moves 1.56
    GB instead of 1.42, by the compiler's figures.
    """
    return 1 if device.platform in ("cpu", "tpu") else 50


def _even_share(steps: int, most: int) -> int:
    """The steps of a call: at most `most`, and a divisor of all `steps`, if there is one near.

    Otherwise some steps are left, which take a program of their own.
    """
    calls = -(-steps // most)
    return steps // next((n for n in range(calls, 2 * calls) if steps % n == 0), calls)


_MOST_PROGRAMS = 8


def _shared(config: Config, steps_per_call: int) -> str:
    """Returns the config of all runs that this one shares its programs with, as text."""
    fields = {"name": "run", "seed": 0, "checkpoint_every": 1, "log_every": 1}
    if steps_per_call > 1:
        config = config.without_sigma()
    if not config.is_annealed:
        fields["epochs"] = 1
    return to_json(dataclasses.replace(config, **fields))


@functools.cache
def _programs(
    text: str,
    network: Network | None,
    info: data.Info,
    mean: tuple[float, ...],
    deviation: tuple[float, ...],
    devices: tuple[jax.Device, ...],
    many: bool,
    prng: str,
) -> _Programs:
    """Makes the programs of runs that agree in all arguments.

    JAX compiles anew where one of its settings has changed, but for the kind of its random numbers:
    that is why `prng` is an argument.
    """
    del prng
    if _programs.cache_info().currsize >= _MOST_PROGRAMS:
        # JAX keeps what it has compiled, wherever else it was dropped. A sweep of a hundred
        # settings would fill the memory, some 80 MB for each.
        _programs.cache_clear()
        jax.clear_caches()
    config = from_json(text)
    planned = plan(config, info, network)
    network, steps_per_epoch = planned.network, planned.steps_per_epoch
    tx = optimizer.build_optimizer(
        config, planned.shapes, steps_per_epoch, neuron_axis=network.neuron_axis
    )
    train, evaluate = make_parallel_steps(
        network,
        tx,
        config,
        image_shape=info.image_shape,
        mean=np.array(mean, np.float32),
        deviation=np.array(deviation, np.float32),
        steps_per_epoch=steps_per_epoch,
        layers=planned.mapped,
        devices=devices,
        many=many,
    )
    return _Programs(tx, train, evaluate)


def tree_sha256(tree: Any) -> str:
    """Returns the SHA-256 of a tree of arrays: paths, types, shapes and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
