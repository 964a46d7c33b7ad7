"""The map forms under every optimiser, with the filter first in its chain."""

import sys
from pathlib import Path

import numpy as np
import optax
import pytest

import lgnn_jax as lgnn
from lgnn_jax.analysis.topography import neighbour_correlation

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import optimizers
from optimizers import DIMS, PARTS, TABLE, accuracy, order, train


def trained(name, **places):
    tx = optimizers.optimizer(name, **{"first": False, "behind": False} | places)
    return train(tx, schedule_free=name.startswith("schedule-free"))[0]


@pytest.mark.parametrize("name", [n for n in PARTS if n not in ("RMSProp", "Adafactor")])
def test_the_map_forms_with_the_filter_first(name):
    plain, ours = trained(name), trained(name, first=True)
    assert order(ours) > order(plain) + 0.2
    assert accuracy(ours) > accuracy(plain) - 0.03


def test_under_muon_the_map_is_clearer_behind():
    """Its updates are made orthogonal, which undoes much of what was filtered before."""
    assert order(trained("Muon", behind=True)) > order(trained("Muon", first=True)) + 0.05


def test_behind_decay_the_map_is_weaker():
    """There decay is filtered too, and leaves roughness alone: why the filter comes before it."""
    adamw = optax.adamw(5e-3, weight_decay=1.0)
    first, last = (optax.chain(*parts) for parts in _both_ways(adamw))
    assert order(train(last)[0]) < order(train(first)[0]) - 0.1


def _both_ways(optimizer):
    return [lgnn.transform(TABLE), optimizer], [optimizer, lgnn.transform(TABLE)]


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.chain(optax.add_decayed_weights(5e-3), optax.sgd(0.1, momentum=0.9)),
        optax.adamw(5e-3, weight_decay=1.0),
    ],
    ids=["sgd", "adamw"],
)
def test_self_organizing_and_pull_change_what_neurons_do(optimizer):
    """Order of activations on other images, beside the plain network settled afterwards."""
    recipe = lgnn.self_organizing(TABLE, steps=optimizers.STEPS)
    ours, state = train(optax.chain(recipe, optimizer), pull=0.3)
    plain, _ = train(optimizer)
    images = optimizers.digits()[0]

    def answers(params, images):
        return np.asarray(optimizers.forward(params, images)[1])

    def of_others(params, places):
        shown = answers(params, images[optimizers.TRAINED_ON :])[:, places]
        return neighbour_correlation(shown.T, DIMS, neuron_axis=0, shuffles=1).value

    settled = lgnn.settle(answers(plain, images[: optimizers.TRAINED_ON]), DIMS)
    own = np.asarray(lgnn.places(state)["hidden/kernel"])
    assert of_others(ours, own) > 1.2 * of_others(plain, settled)
    assert accuracy(ours) > accuracy(plain) - 0.03
