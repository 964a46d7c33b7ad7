"""The places of a class, against a search place by place."""

import numpy as np
import pytest

import lgnn_jax as lgnn
from lgnn_jax.analysis.lesions import class_lesions


@pytest.mark.parametrize("map", [lgnn.grid(6, 5), lgnn.hexagonal(5, 6), lgnn.ring(20)], ids=str)
def test_no_region_around_another_place_has_more_evidence(map):
    evidence = np.random.default_rng(0).normal(size=(4, map.count))
    size = round(0.2 * map.count)
    regions = class_lesions(evidence, map, share=0.2)
    assert regions.shape == (4, size)
    distances = map.distances()
    for region, of_class in zip(regions, evidence, strict=True):
        discs = [
            sorted(range(map.count), key=distances[p].__getitem__)[:size] for p in range(map.count)
        ]
        assert of_class[region].sum() == pytest.approx(max(of_class[disc].sum() for disc in discs))
        assert sorted(region.tolist()) in [sorted(disc) for disc in discs]


def test_a_class_with_a_place_of_its_own():
    map, evidence = lgnn.grid(8, 8), np.zeros((3, 64))
    corner = map.distances()[0] <= 2
    evidence[1, corner] = 1.0
    found = class_lesions(evidence, map, share=corner.sum() / 64)[1]
    assert corner[found].mean() > 0.6
    assert class_lesions(evidence, map, share=1e-6).shape == (3, 1)


@pytest.mark.parametrize(
    ("evidence", "options", "message"),
    [
        (
            np.zeros((3, 63)),
            {},
            "evidence must be finite, (classes, 64) for map 8x8, got shape (3,",
        ),
        (np.zeros(64), {}, "got shape (64,)."),
        (np.zeros((0, 64)), {}, "got shape (0, 64)."),
        (np.full((2, 64), np.nan), {}, "evidence must be finite"),
        (np.zeros((3, 64)), {"share": 0.0}, "share must be in (0, 1), got 0.0."),
        (np.zeros((3, 64)), {"share": 1.0}, "share must be in (0, 1)"),
        (np.zeros((3, 64)), {"share": np.nan}, "share must be in (0, 1), got nan."),
    ],
)
def test_bad_input(evidence, options, message):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        class_lesions(evidence, (8, 8), **options)
    assert message in str(error.value)
