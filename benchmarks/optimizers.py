"""Where the filter stands beside optimisers: the map that a small perceptron ends with.

    python benchmarks/optimizers.py [--seeds 5] [--output optimizers.json]

A perceptron with 64 hidden neurons on an 8x8 map learns scikit-learn's digits for 400 steps, with
weight decay enough for its initial weights to be gone by then. The numbers are the correlation of
neighbours' weights and the test accuracy: without the filter, with it first in the chain, with it
behind what rescales gradients and before decay, and at both places.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import tyro
from sklearn.datasets import load_digits
from timing import environment, report

import lgnn_jax as lgnn
from lgnn_jax.analysis.topography import neighbour_correlation

DIMS, TABLE = (8, 8), {"hidden/kernel": (8, 8)}
TRAINED_ON, STEPS, BATCH = 1400, 400, 128
# What rescales gradients, weight decay, learning rate.
PARTS = {
    "SGD, momentum 0.9": (lambda: optax.trace(0.9), 5e-3, 0.1),
    "AdamW": (optax.scale_by_adam, 1.0, 5e-3),
    "Lion": (optax.scale_by_lion, 5.0, 1e-3),
    "RMSProp": (optax.scale_by_rms, 1.0, 5e-3),
    "Adafactor": (optax.scale_by_factored_rms, 1.0, 5e-3),
    "Muon": (lambda: optax.chain(optax.contrib.muon(1.0), optax.scale(-1.0)), 2.0, 1e-2),
    "schedule-free RMSProp": (lambda: optax.scale_by_rms(0.999), 1.0, 5e-3),
}
PLACES = {"none": (False, False), "first": (True, False), "behind": (False, True)} | {
    "both": (True, True)
}


@dataclass(frozen=True)
class Arguments:
    """Where the filter stands beside optimisers: the map that a small perceptron ends with."""

    seeds: int = 5
    """Of the initial weights and the batches."""
    output: Path | None = None
    """Where to write all numbers as JSON."""


def main(arguments: Arguments) -> None:
    """Measures, prints and writes."""
    rows, found = [], {}
    for name in PARTS:
        cells = [name]
        for place, (first, behind) in PLACES.items():
            tx = optimizer(name, first=first, behind=behind)
            runs = [
                train(tx, seed=seed, schedule_free=_is_free(name))
                for seed in range(arguments.seeds)
            ]
            numbers = [(order(params), accuracy(params)) for params, _ in runs]
            found[f"{name}, {place}"] = numbers
            middle = np.median(numbers, axis=0)
            cells.append(f"{middle[0]:.2f} ({100 * middle[1]:.1f} %)")
        rows.append(cells)
    title = (
        f"Correlation of neighbours' weights (test accuracy): medians of {arguments.seeds} seeds"
    )
    header = environment("jax", "optax")
    report(title, header, ["optimiser", *PLACES], rows, found, arguments.output)


def optimizer(name: str, *, first: bool, behind: bool) -> optax.GradientTransformation:
    """A chain of PARTS, with the filter before or behind what rescales gradients, or both."""
    rescale, decay, rate = PARTS[name]
    parts = [rescale()]
    # PyTorch's order for SGD, where decay has momentum too; decoupled decay for the others.
    decayed = optax.add_decayed_weights(decay)
    parts = [decayed, *parts] if name.startswith("SGD") else [*parts, decayed]
    if behind:
        parts.insert(parts.index(decayed), lgnn.transform(TABLE))
    if first:
        parts.insert(0, lgnn.transform(TABLE))
    chain = optax.chain(*parts, optax.scale_by_learning_rate(rate))
    return optax.contrib.schedule_free(chain, rate, b1=0.9) if _is_free(name) else chain


def _is_free(name):
    return name.startswith("schedule-free")


def train(
    tx: optax.GradientTransformation,
    *,
    seed: int = 0,
    pull: float = 0.0,
    schedule_free: bool = False,
) -> tuple[Any, Any]:
    """Returns parameters and state of an optimiser after STEPS; `pull` weighs `lgnn.pull`."""
    rng = np.random.default_rng(seed)
    params = {
        "hidden": {"kernel": rng.normal(0, 0.18, (64, 64)), "bias": np.zeros(64)},
        "head": {"kernel": rng.normal(0, 0.1, (64, 10)), "bias": np.zeros(10)},
    }
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)
    state, (images, labels) = tx.init(params), digits()
    extra = isinstance(tx, optax.GradientTransformationExtraArgs)

    @jax.jit
    def step(params, state, key):
        chosen = jax.random.choice(key, TRAINED_ON, (BATCH,))

        def loss(params):
            logits, hidden = forward(params, images[chosen])
            cross = optax.softmax_cross_entropy_with_integer_labels(logits, labels[chosen]).mean()
            if pull:
                cross += pull * lgnn.pull(hidden, lgnn.places(state)["hidden/kernel"], DIMS, 1.5)
            return cross, hidden

        grads, hidden = jax.grad(loss, has_aux=True)(params)
        given = {"activations": {"hidden": hidden}} if extra else {}
        updates, new = tx.update(grads, state, params, **given)
        return optax.apply_updates(params, updates), new

    for key in jax.random.split(jax.random.key(seed), STEPS):
        params, state = step(params, state, key)
    if schedule_free:
        params = optax.contrib.schedule_free_eval_params(state, params)
    return params, state


def forward(params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns logits and what the hidden neurons answer, before their nonlinearity."""
    hidden = images @ params["hidden"]["kernel"] + params["hidden"]["bias"][None]
    return jax.nn.relu(hidden) @ params["head"]["kernel"] + params["head"]["bias"][None], hidden


@functools.cache
def digits() -> tuple[jax.Array, jax.Array]:
    """Returns images `(1797, 64)` and labels."""
    found = load_digits()
    return jnp.asarray(found.data / 16 - 0.3, jnp.float32), jnp.asarray(found.target)


def order(params: Any) -> float:
    """Returns the correlation of neighbours' weights."""
    return neighbour_correlation(np.asarray(params["hidden"]["kernel"]), DIMS, shuffles=1).value


def accuracy(params: Any) -> float:
    """Returns the share of the other images that is told right."""
    images, labels = (x[TRAINED_ON:] for x in digits())
    return float((forward(params, images)[0].argmax(-1) == labels).mean())


if __name__ == "__main__":
    main(tyro.cli(Arguments))
