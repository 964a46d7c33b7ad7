import numpy as np
import pytest

from lgnn_jax.analysis.activations import class_means, shared_regions


def test_means_by_class():
    """Against one mean after the other."""
    rng = np.random.default_rng(0)
    labels = np.array([2, 0, 1, 2, 2, 0, 1])
    activations = rng.normal(size=(7, 5)).astype(np.float32)
    expected = [activations[labels == k].astype(np.float64).mean(axis=0) for k in range(3)]
    np.testing.assert_allclose(class_means(activations, labels, 3), expected, rtol=1e-12)


def test_a_class_without_images_and_activations_that_are_not_finite():
    with pytest.raises(ValueError, match="class 1 has no image among the 3"):
        class_means(np.ones((3, 2)), np.array([0, 2, 2]), 3)
    activations = np.ones((3, 4))
    activations[1, 2] = np.nan
    with pytest.raises(ValueError, match="neuron 2 are not finite"):
        class_means(activations, np.array([0, 1, 2]), 3)


def test_scores_by_hand():
    """Three classes; values over them of 0, 0, 3 have mean 1 and deviation sqrt(2)."""
    means = np.array([[0.0, 3.0, 5.0, 0.0], [0.0, 0.0, 5.0, 3.0], [3.0, 0.0, 5.0, 3.0]])
    high, low = 2 / np.sqrt(2), -1 / np.sqrt(2)
    # The last has values 0, 3, 3: mean 2, deviation sqrt(2).
    scores = shared_regions(means, (2, 2), [2]).scores
    np.testing.assert_allclose(scores, [high, low, 0, 1 / np.sqrt(2)], atol=1e-12)
    scores = shared_regions(means, (2, 2), [1, 2]).scores
    np.testing.assert_allclose(scores, [low, low, 0, 1 / np.sqrt(2)], atol=1e-12)


def _means(raised, *, noise=0.0, seed=0):
    """Six classes on an 8x6 map; classes 0 and 1 raise some neurons."""
    means = noise * np.random.default_rng(seed).normal(size=(6, 48))
    for j in raised:
        means[:2, j] += 1
    return means


def test_a_region_is_what_touches_by_a_side():
    """An L of four, one that touches it by a corner alone, and one far away."""
    shape, corner, far = [0, 1, 2, 8], [15], [40]
    found = shared_regions(_means(shape + corner + far), (8, 6), [0, 1])
    assert [region.neurons.tolist() for region in found.regions] == [shape, corner, far]
    # Values 1, 1, 0, 0, 0, 0: mean 1/3, deviation sqrt(2)/3; so the score is sqrt(2).
    assert found.regions[0].mass == pytest.approx(4 * (np.sqrt(2) - 0.5))
    assert found.regions[0].p < 0.05 < found.regions[1].p


def test_only_what_all_classes_of_the_set_share():
    means = _means([3, 4])
    means[0, [10, 11, 12]] += 1  # class 0 alone
    (region,) = shared_regions(means, (8, 6), [0, 1]).regions
    assert region.neurons.tolist() == [3, 4]


def test_p_holds_where_there_is_no_order():
    """Noise alone: the smallest p of a map is at most 0.1 in about a tenth of the cases.

    Of 200 maps 20 +- 4.2, were p uniform; more than 33 has a probability of 0.2 %.
    """
    smallest = []
    for seed in range(200):
        means = np.random.default_rng(seed).normal(size=(6, 48))
        regions = shared_regions(means, (8, 6), [0, 1], shuffles=99, threshold=0.2).regions
        smallest.append(min((region.p for region in regions), default=1.0))
    assert 5 <= (np.array(smallest) <= 0.1).sum() <= 33


def test_dead_neurons_are_in_no_region():
    means = _means([0, 1])
    means[:, 20] = 7.1  # active for all classes alike
    found = shared_regions(means, (8, 6), [0, 1])
    assert np.isfinite(found.scores).all()
    assert [region.neurons.tolist() for region in found.regions] == [[0, 1]]


@pytest.mark.parametrize("members", [[], [0, 1, 2, 3, 4, 5], [6], [-1]])
def test_sets_that_are_none(members):
    with pytest.raises(ValueError, match="members must be some of 6 classes"):
        shared_regions(_means([0]), (8, 6), members)


def test_too_few_classes_or_shuffles_and_means_that_are_not_finite():
    with pytest.raises(ValueError, match=r"classes must be at least 3 .* got 2 and 999"):
        shared_regions(np.zeros((2, 4)), (2, 2), [0])
    with pytest.raises(ValueError, match="got 6 and 0"):
        shared_regions(_means([0]), (8, 6), [0], shuffles=0)
    with pytest.raises(ValueError, match="means must be finite"):
        shared_regions(np.full((3, 4), np.nan), (2, 2), [0])


def test_a_map_that_does_not_fit():
    with pytest.raises(ValueError, match=r"map 7x6 does not fit 48 neurons"):
        shared_regions(_means([0]), (7, 6), [0])
