"""The places of a class, against a search place by place."""

import numpy as np
import pytest

import lgnn_jax as lgnn
from lgnn_jax.analysis.lesions import class_lesions


@pytest.mark.parametrize("map", [lgnn.grid(6, 5), lgnn.hexagonal(5, 6), lgnn.ring(20)], ids=str)
def test_a_region_is_around_the_smoothed_peak(map):
    means = np.random.default_rng(0).normal(size=(4, map.count))
    regions = class_lesions(means, map, share=0.2, width=1.2)
    assert regions.shape == (4, round(0.2 * map.count))
    responses = (means - means.mean(axis=0)) / means.std(axis=0)
    distances = map.distances()
    for region, answers in zip(regions, responses, strict=True):
        smoothed = []
        for place in range(map.count):
            weights = np.exp(-(distances[place] ** 2) / (2 * 1.2**2))
            smoothed.append((weights * answers).sum() / weights.sum())
        peak = int(np.argmax(smoothed))
        assert peak in region
        others = np.setdiff1d(np.arange(map.count), region)
        assert distances[peak, region].max() <= distances[peak, others].min() + 1e-9
        assert len(set(region.tolist())) == len(region)


def test_a_class_with_a_place_of_its_own():
    map, means = lgnn.grid(8, 8), np.zeros((3, 64))
    corner = map.distances()[0] <= 2
    means[1, corner] = 1.0
    found = class_lesions(means, map, share=corner.sum() / 64, width=0.5)[1]
    assert corner[found].mean() > 0.6
    assert class_lesions(means, map, share=1e-6).shape == (3, 1)


@pytest.mark.parametrize(
    ("means", "options", "message"),
    [
        (np.zeros((3, 63)), {}, "means must be finite, (classes, 64) for map 8x8, got shape (3,"),
        (np.zeros(64), {}, "got shape (64,)."),
        (np.full((2, 64), np.nan), {}, "means must be finite"),
        (np.zeros((3, 64)), {"share": 0.0}, "share must be in (0, 1) and width positive, got 0.0"),
        (np.zeros((3, 64)), {"share": 1.0}, "share must be in (0, 1)"),
        (np.zeros((3, 64)), {"width": 0.0}, "width positive, got 0.15 and 0.0."),
        (np.zeros((3, 64)), {"width": np.nan}, "width positive, got 0.15 and nan."),
    ],
)
def test_bad_input(means, options, message):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        class_lesions(means, (8, 8), **options)
    assert message in str(error.value)
