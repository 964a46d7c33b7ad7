"""Trained runs, brought back from their newest checkpoints to be looked at.

Reading a run takes its config and the arrays of its network: no optimiser is built, and no images
go to a device but those that are looked at.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from lgnn_jax.maps.shapes import Map
from lgnn_jax.models.activations import activations
from lgnn_jax.models.network import Network
from lgnn_jax.training import checkpoint, data
from lgnn_jax.training.config import Config, difference
from lgnn_jax.training.errors import RunError
from lgnn_jax.training.run_dir import SUMMARY, check_own_files, load_config
from lgnn_jax.training.session import Plan, plan, tree_sha256
from lgnn_jax.training.steps import Metrics, TrainState, initial_key, make_eval_step

_BATCH = 100  # images whose activations are computed together


class Trained(NamedTuple):
    """A run to look at."""

    name: str
    config: Config
    plan: Plan
    step: int
    params: Any
    state: Any  # of the network, see `lgnn_jax.models.network.Network`
    initial: Any  # the parameters before the first step
    mean: np.ndarray
    deviation: np.ndarray
    # of runs whose neurons settle, int (neurons,) by the path of a layer's kernel
    places: Mapping[str, np.ndarray] = MappingProxyType({})

    @property
    def network(self) -> Network:
        """What was trained."""
        return self.plan.network

    def kernel(self, layer: str, params: Any = None) -> np.ndarray:
        """Returns the weights of a layer, its neurons on the last axis in the map's order."""
        params = self.params if params is None else params
        return np.asarray(self.plan.weights(params, layer, self.places))

    def apply(self, images: jax.Array) -> dict[str, jax.Array]:
        """Returns the activations before the nonlinearity, by layer, of images in [0, 1].

        Neurons are in the map's order.
        """
        x = data.standardize(255 * images, self.mean, self.deviation)
        try:
            found = self.network.apply(self.params, self.state, x, activations=True).activations
            return {layer: self._in_places(layer, values) for layer, values in found.items()}
        except ValueError as error:  # of a network that knows none
            raise RunError(f"{self.name}: {error}") from error

    @property
    def maps(self) -> dict[str, Map]:
        """The layers with a map of two or more neurons, from the images to the logits."""
        found = {layer: self.plan.maps.get(path) for layer, path in self.plan.layers.items()}
        return {layer: m.map for layer, m in found.items() if m and m.map.count > 1}

    def activations(self, images: np.ndarray, layers: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns each neuron's mean activation before the nonlinearity, by layer.

        Args:
          images: uint8 `(n, height, width, colours)`.
          layers: names of layers.

        Returns:
          float32 `(n, neurons)` by layer, neurons in the map's order.

        Raises:
          RunError: if a layer is unknown or has none, or if one is not finite.
        """
        parts = np.split(images, range(_BATCH, len(images), _BATCH))
        batches = (data.standardize(part, self.mean, self.deviation) for part in parts)
        table = {f"^{re.escape(path)}$": found for path, found in self.plan.maps.items()}
        try:
            found = activations(
                self.network, batches, self.params, self.state, layers=layers, table=table
            )
            return {layer: self._in_places(layer, values) for layer, values in found.items()}
        except ValueError as error:
            raise RunError(f"{self.name}: {error}") from error

    def _in_places(self, layer, values):
        """Activations with their neurons in the map's order."""
        found = self.places.get(self.plan.layers[layer])
        return values if found is None else values[..., found]

    def evaluate(self, images: np.ndarray, labels: np.ndarray) -> Metrics:
        """Returns loss and accuracy over images, each counted once.

        Args:
          images: uint8 `(n, height, width, colours)`.
          labels: int32 `(n,)`.
        """
        shape, count = images.shape[1:], len(images)
        size = min(self.config.batch_size, count)
        step = make_eval_step(
            self.network, image_shape=shape, mean=self.mean, deviation=self.deviation
        )
        step = jax.jit(partial(step, indices=np.arange(size)))
        sums = []
        for start in range(0, count, size):
            part = images[start : start + size].reshape(-1, *[np.prod(shape)])
            fill = size - len(part)
            sums.append(
                step(
                    self.params,
                    self.state,
                    np.pad(part, [(0, fill), (0, 0)]),
                    np.pad(labels[start : start + size], (0, fill)),
                    weights=(np.arange(size) < len(part)).astype(np.float32),
                )
            )
        return Metrics(*(np.array(jax.device_get(sums), np.float64).sum(axis=0) / count))


def read(run_dir: Path, dataset: data.Dataset, network: Network | None = None) -> Trained:
    """Returns the newest checkpoint of a run, named by its variant.

    Args:
      run_dir: of the run.
      dataset: its images.
      network: that was trained, if it is not the one that the config names.

    Raises:
      RunError: for a folder that holds no run or no checkpoint; and for initial weights that this
        version does not make again.
    """
    config = load_config(run_dir)
    check_own_files(run_dir, config)
    found = plan(config, dataset.info, network)
    params, state = _initial(found.network, dataset.info.image_shape, config.seed)
    initial = jax.device_get(params)
    _check_initial(run_dir, tree_sha256(initial))
    checkpoints, wanted = checkpoint.Checkpoints(run_dir), TrainState.parts(params, state)
    try:
        kept = checkpoints.restore(wanted)
    except checkpoint.CheckpointError as error:
        raise RunError(str(error)) from error
    if kept is None:
        raise RunError(f"{run_dir} holds no checkpoint.")
    step, params, state = (kept[part] for part in wanted)
    return Trained(
        config.variant,
        config,
        found,
        int(step),
        params,
        state,
        initial,
        *data.statistics(dataset.train_images),
        places=checkpoints.arrays("/settled/places/"),
    )


def load(run_dirs: Sequence[Path], dataset: data.Dataset) -> list[Trained]:
    """Returns the newest checkpoints of runs on the same images and network.

    Runs are named by their variant, or by their place where two have the same.

    Raises:
      RunError: for a folder that holds no run or no checkpoint, or is named twice; for runs of
        different networks; and for initial weights that this version does not make again.
    """
    folders = [run_dir.resolve() for run_dir in run_dirs]
    for i, run_dir in enumerate(run_dirs):
        if folders[i] in folders[:i]:
            raise RunError(f"the run {run_dir} is named twice.")
    found = []
    for run_dir in run_dirs:
        config = load_config(run_dir)
        first = found[0].config if found else config
        differing = [
            f"{name} is {theirs} in one and {ours} in the other"
            for name, theirs, ours in difference(first, config)
            if name.startswith(("model.", "data."))
        ]
        if differing:
            raise RunError(
                f"{run_dirs[0]} and {run_dir} cannot be compared: {'; '.join(differing)}."
            )
        found.append(read(run_dir, dataset))
    if len({trained.name for trained in found}) < len(found):
        found = [t._replace(name=str(d)) for t, d in zip(found, run_dirs, strict=True)]
    return found


@partial(jax.jit, static_argnums=(0, 1))
def _initial(network, image_shape, seed):
    return network.init(initial_key(seed), image_shape)


def _check_initial(run_dir: Path, sha256: str) -> None:
    """Raises RunError unless the seed gives the weights that a run began with, here too."""
    summary = run_dir / SUMMARY
    if not summary.exists():
        return  # a run that is not at its end
    try:
        expected = json.loads(summary.read_text())["init_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{summary} is damaged: {error}.") from None
    if expected != sha256:
        raise RunError(
            f"{run_dir} began with other weights than its seed gives here: analyse it with the "
            "versions that are in its summary.json."
        )
