"""Trained runs, brought back from their newest checkpoints to be looked at."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lgnn_jax.analysis.feature_vis import mean_activations
from lgnn_jax.maps.parameters import path_name
from lgnn_jax.maps.shapes import Map
from lgnn_jax.models.streams import streams
from lgnn_jax.training import data, run
from lgnn_jax.training.config import Config, difference
from lgnn_jax.training.session import Plan, RunError


class Trained(NamedTuple):
    """A run to look at."""

    name: str
    config: Config
    plan: Plan
    step: int
    variables: dict[str, Any]  # "params" and "batch_stats"
    initial: Any  # the parameters before the first step
    mean: np.ndarray
    deviation: np.ndarray

    def kernel(self, layer: str, params: Any = None) -> np.ndarray:
        """Returns the weights of a layer, `(height, width, c_in, c_out)`."""
        kernel = self.variables["params"] if params is None else params
        for part in layer.split("/"):
            kernel = kernel[part]
        return np.asarray(kernel["kernel"])

    def apply(self, images: jax.Array) -> dict[str, jax.Array]:
        """Returns the activations before the ReLU, by layer, of images in [0, 1]."""
        x = data.standardize(255 * images, self.mean, self.deviation)
        named = self.plan.model.apply(self.variables, x, activations=True)[1]
        return {layer: activation.pre for layer, activation in named.items()}

    @property
    def convolutions(self) -> list[str]:
        """All convolutions, from the images to the logits."""
        return [layer for stream in streams(self.plan.model) for layer in stream.writers]

    @property
    def maps(self) -> dict[str, Map]:
        """Those with a map of two or more neurons, from the images to the logits."""
        paths = [path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(self.plan.shapes)]
        maps = {path.removesuffix("/kernel"): self.plan.maps.get(path) for path in paths}
        known = {layer: maps.get(layer) for layer in self.convolutions}
        return {layer: m.map for layer, m in known.items() if m and m.map.count > 1}

    def activations(self, images: np.ndarray, layers: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns each neuron's mean activation before the ReLU, by layer.

        Args:
          images: uint8 `(n, height, width, colours)`.
          layers: names of convolutions.

        Returns:
          float32 `(n, neurons)` by layer.

        Raises:
          RunError: if one is not finite.
        """

        def apply(images):  # of all layers in one pass
            named = self.apply(images)
            return jnp.concatenate([named[layer].mean((1, 2)) for layer in layers], axis=1)

        ends = np.cumsum([self.kernel(layer).shape[-1] for layer in layers])
        parts = np.split(mean_activations(apply, images), ends[:-1], axis=1)
        found = dict(zip(layers, parts, strict=True))
        for layer, values in found.items():
            if not np.isfinite(values).all():
                raise RunError(f"the activations of {layer} in {self.name} are not finite.")
        return found


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
    mean, deviation = data.statistics(dataset.train_images)
    for run_dir in run_dirs:
        config = run.load_config(run_dir)
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
        session, state = run.restore(config, dataset, run_dir)
        _check_initial(run_dir, session.init_sha256)
        params, batch_stats = jax.device_get((state.params, state.batch_stats))
        found.append(
            Trained(
                config.variant,
                config,
                session.plan,
                int(state.step),
                {"params": params, "batch_stats": batch_stats},
                jax.device_get(session.initial_state.params),
                mean,
                deviation,
            )
        )
    if len({trained.name for trained in found}) < len(found):
        found = [t._replace(name=str(d)) for t, d in zip(found, run_dirs, strict=True)]
    return found


def _check_initial(run_dir: Path, sha256: str) -> None:
    """Raises RunError unless the seed gives the weights that a run began with, here too."""
    summary = run_dir / run.SUMMARY
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
