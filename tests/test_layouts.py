"""benchmarks/layouts.py: other methods find an order, too, so that a comparison says something."""

import sys
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from lgnn_jax.analysis.topography import neighbour_correlation
from lgnn_jax.maps.grid import grid

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import layouts

MAP = grid(10, 8)


@pytest.fixture(scope="module")
def features():
    """Answers of neurons that are tuned to places in a plane, in no order."""
    rng = np.random.default_rng(0)
    centres = rng.permutation(MAP.positions)
    samples = rng.uniform(0, [9, 7], (400, 2))
    return np.exp(-np.square(samples[:, None] - centres).sum(axis=-1) / 8)


@pytest.mark.parametrize(
    "name",
    [
        "2 principal components, assigned",
        "Isomap, assigned (IsoMatch)",
        "t-SNE, perplexity 30, assigned",
        "SOM, batch, 100 epochs",
        "LAS, radius decay 0.9",
        "FAQ (scipy), width 1",
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_layout_is_one_and_orders(features, name):
    with threadpool_limits(1):  # threads of t-SNE that wait for each other took 32 s, not 0.2
        places = layouts.LAYOUTS[name](features, MAP)
    assert sorted(places) == list(range(MAP.count))
    found = neighbour_correlation(features[:, places].T, MAP, neuron_axis=0, shuffles=1).value
    assert found > 0.75  # without order about 0; where the neurons are from .92


def test_points_that_are_a_grid_stay_where_they_are():
    shuffled = np.random.default_rng(0).permutation(MAP.count)
    points = 3 * MAP.positions[shuffled] - 7
    assert layouts.assigned(points, MAP).tolist() == np.argsort(shuffled).tolist()


def test_the_longer_side_is_the_maps():
    wide = np.array([[0.0, 0.0], [1.0, 5.0]])
    assert layouts.upright(wide, grid(10, 8)).tolist() == wide[:, ::-1].tolist()
    assert layouts.upright(wide, grid(8, 10)).tolist() == wide.tolist()
