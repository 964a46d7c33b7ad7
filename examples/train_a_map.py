"""A small vision transformer, or a perceptron, that is trained by AdamW into a map.

    pip install -e .
    python examples/train_a_map.py --data-dir DIR
    python examples/train_a_map.py --network perceptron --data-dir DIR

Two networks are trained on CIFAR-10, with the same initial weights and images: one plainly, whose
neurons settle on maps afterwards; one with `lgnn.self_organizing` in its chain and `lgnn.pull` in
its loss. Both are judged by test images. The transformer takes some twelve minutes on two CPU
cores, the perceptron one or two. CIFAR-10 (170 MB) is downloaded if it is not in DIR.
"""

from pathlib import Path
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import lgnn_jax as lgnn
from lgnn_jax.analysis.activations import class_means
from lgnn_jax.analysis.class_regions import class_regions
from lgnn_jax.analysis.topography import topography
from lgnn_jax.training import data

BATCH, SHOWN = 128, 2000
WIDTH = 2.0  # of a neuron's neighbourhood, in map units


class Perceptron(nn.Module):
    """Two layers of 256 neurons."""

    @nn.compact
    def __call__(self, images: jax.Array):
        """Returns logits, and what neurons answer, by layer."""
        x, answers = images.reshape(len(images), -1), {}
        for i in range(2):
            answers[f"up{i}"] = nn.Dense(256, name=f"up{i}")(x)
            x = nn.gelu(answers[f"up{i}"])
        return nn.Dense(10, name="head")(x), answers


class VisionTransformer(nn.Module):
    """Blocks on patches of 4x4 pixels, 64 wide, with four heads."""

    blocks: int = 4

    @nn.compact
    def __call__(self, images: jax.Array):
        """Returns logits, and what neurons answer, by layer."""
        x, answers = nn.Conv(64, (4, 4), (4, 4), name="patches")(images), {}
        x = x.reshape(len(x), -1, 64)
        x += self.param("position", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        for i in range(self.blocks):
            y = nn.LayerNorm(name=f"norm{i}a")(x)
            query, key, value = (
                nn.DenseGeneral((4, 16), name=f"{name}{i}")(y) for name in ("query", "key", "value")
            )
            answers[f"value{i}"] = value  # (batch, patches, heads, features)
            y = jax.nn.dot_product_attention(query, key, value)
            x += nn.Dense(64, name=f"out{i}")(y.reshape(x.shape))
            answers[f"up{i}"] = nn.Dense(256, name=f"up{i}")(nn.LayerNorm(name=f"norm{i}b")(x))
            x += nn.Dense(64, name=f"down{i}")(nn.gelu(answers[f"up{i}"]))
        return nn.Dense(10, name="head")(nn.LayerNorm(name="norm")(x).mean(axis=1)), answers


# Each with its maps: of the neurons between the two dense layers of a block, and of the features of
# all heads that attention passes on.
NETWORKS = {
    "transformer": (
        VisionTransformer(),
        {
            r"up\d/kernel": lgnn.grid(16, 16),
            r"value\d/kernel": lgnn.LayerMap(lgnn.grid(8, 8), (1, 2)),
            "patches": None,
        },
    ),
    "perceptron": (Perceptron(), {r"up\d/kernel": lgnn.grid(16, 16)}),
}


def main(
    network: Literal["transformer", "perceptron"] = "transformer",
    data_dir: Path | None = None,
    steps: int = 1000,
    weight: float = 0.5,
    seed: int = 0,
) -> None:
    """Trains a network plainly and into a map, and prints how orderly both are.

    Args:
      network: which one.
      data_dir: where prepared data sets lie; ~/tensorflow_datasets if not given.
      steps: of training.
      weight: of the pull in the loss.
      seed: of the initial weights and the batches.
    """
    cifar = data.load("cifar10", data_dir)
    module, table = NETWORKS[network]
    print(f"{network}, {steps} steps, {SHOWN} test images; means over the layers")
    print(f"{'':24}accuracy  neighbours  class maps  trustworthiness  dimension")
    for name, pulled in (("plain, settled", 0.0), ("trained into a map", weight)):
        params, places = train(module, table, cifar, steps, pulled, seed)
        if not pulled:
            _, seen = answers(module, params, cifar, cifar.train_images[:SHOWN])
            places = {layer: lgnn.settle(x) for layer, x in seen.items()}
        logits, shown = answers(module, params, cifar, cifar.test_images[:SHOWN])
        labels = cifar.test_labels[:SHOWN]
        accuracy = 100 * (logits.argmax(axis=1) == labels).mean()
        order = np.mean(
            [measure(x[:, places[layer]], labels) for layer, x in shown.items()], axis=0
        )
        neighbours, classes, trust, dimension = order
        print(
            f"{name:24}{accuracy:6.1f} %{neighbours:12.3f}{classes:12.3f}{trust:17.3f}"
            f"{dimension:11.1f}"
        )


def train(module, table, cifar, steps, weight, seed):
    """Returns parameters, and the neuron at each place by layer: none if nothing is pulled."""
    statistics = data.statistics(cifar.train_images)
    params = module.init(jax.random.key(seed), jnp.zeros((1, 32, 32, 3)))["params"]
    maps = {path: m for path, m in lgnn.layer_maps(params, table).items() if m is not None}
    recipe = lgnn.self_organizing(table, steps=steps) if weight else optax.identity()
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-3, max(1, steps // 20), steps)
    tx = optax.chain(recipe, optax.adamw(rate, weight_decay=0.5))
    tx = optax.with_extra_args_support(tx)  # so that the plain one may be given activations, too
    state = tx.init(params)

    @jax.jit
    def step(params, state, images, labels):
        def loss_fn(params):
            x = data.standardize(images, *statistics)
            logits, found = module.apply({"params": params}, x)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            if weight:  # of the mean over all neurons
                at, all_neurons = lgnn.places(state), sum(m.count for m in maps.values())
                for path, m in maps.items():
                    x = found[path.split("/")[0]].reshape(BATCH, -1, m.count)
                    pulled = lgnn.pull(x, at[path], m.map, WIDTH)
                    loss += weight * m.count / all_neurons * pulled
            return loss, found

        grads, found = jax.grad(loss_fn, has_aux=True)(params)
        updates, state_ = tx.update(grads, state, params, activations=found)
        return optax.apply_updates(params, updates), state_

    rng = np.random.default_rng(seed)
    for _ in range(steps):
        chosen = rng.integers(len(cifar.train_labels), size=BATCH)
        batch = cifar.train_images[chosen], cifar.train_labels[chosen]
        params, state = step(params, state, *batch)
    places = lgnn.places(state) if weight else {}
    return params, {path.split("/")[0]: np.asarray(x) for path, x in places.items()}


def answers(module, params, cifar, images):
    """Returns logits, and each neuron's mean over patches by layer, `(images, neurons)`."""
    x = data.standardize(images, *data.statistics(cifar.train_images))
    logits, found = jax.jit(module.apply)({"params": params}, x)

    def means(x):  # of (images, patches, neurons), or (images, patches, heads, features)
        return x if x.ndim == 2 else x.reshape(*x.shape[:2], -1).mean(axis=1)

    return np.asarray(logits), {layer: means(np.asarray(x)) for layer, x in found.items()}


def measure(shown: np.ndarray, labels: np.ndarray) -> list[float]:
    """Returns the order of a layer whose neurons are in the map's order."""
    map = lgnn.grid(*lgnn.som_dimensions(shown.shape[1]))
    found = topography(shown.T, map, shuffles=1)
    classes = class_regions(class_means(shown, labels, 10), map)
    return [
        found.neighbours.value,
        classes.morans_i.mean(),
        found.trustworthiness.value,
        found.effective_dimensionality,
    ]


if __name__ == "__main__":
    tyro.cli(main)
