"""The pull on activations, against float64 loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

import lgnn_jax as lgnn

MAPS = [
    lgnn.grid(4, 3), lgnn.grid(4, 4, wrap=True), lgnn.grid(3, 2, 2), lgnn.hexagonal(4, 4),
    lgnn.ring(7), lgnn.sphere(9), lgnn.grid(1, 2),
]  # fmt: skip


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def expected(answers, places, map, width, inhibition):
    """By the formula, neuron by neuron."""
    found, count = [], map.count
    neuron_at = {place: answers[:, neuron] for place, neuron in enumerate(places)}
    for p in range(count):
        near = 0.0
        for q in range(count):
            if q != p:
                weight = np.exp(-(map.distances()[p, q] ** 2) / (2 * width**2))
                one = neuron_at[q]
                near = near + weight * (one - one.mean()) / one.std()
        found.append(1 - np.corrcoef(neuron_at[p], near)[0, 1])
        if inhibition:
            others = [np.corrcoef(neuron_at[p], neuron_at[q])[0, 1] for q in range(count) if q != p]
            found[-1] += inhibition * np.mean(np.square(others))
    return np.mean(found)


@pytest.mark.parametrize("inhibition", [1.0, 0.3, 0])
@pytest.mark.parametrize("map", MAPS, ids=str)
def test_it_is_the_formula(map, inhibition):
    rng = np.random.default_rng(0)
    answers = rng.normal(size=(20, map.count)) * rng.uniform(0.1, 9, map.count) + 3
    places = rng.permutation(map.count)
    found = lgnn.pull(answers, places, map, 1.3, inhibition)
    assert found.dtype == np.float64
    assert float(found) == pytest.approx(expected(answers, places, map, 1.3, inhibition), abs=1e-12)
    single = lgnn.pull(answers.astype(np.float32), places, map, 1.3, inhibition)
    assert single.dtype == np.float32
    assert float(single) == pytest.approx(float(found), abs=1e-5)


@pytest.mark.parametrize("inhibition", [1.0, 0.3, 0])
@pytest.mark.parametrize("map", MAPS, ids=str)
def test_its_gradient_is_that_of_differences(map, inhibition):
    answers = np.random.default_rng(0).normal(size=(9, map.count))
    places = np.random.default_rng(1).permutation(map.count)
    check_grads(lambda x: lgnn.pull(x, places, map, 0.8, inhibition), (answers,), 1, modes=["rev"])


@settings(max_examples=15, deadline=None)
@given(
    st.integers(5, 12), st.integers(1, 5), st.integers(1, 5), st.floats(0.25, 50), st.floats(0, 3),
    st.integers(0, 99),
)  # fmt: skip
def test_on_any_grid(batch, m, n, width, inhibition, seed):
    rng = np.random.default_rng(seed)
    answers, places = rng.normal(size=(batch, m * n)), rng.permutation(m * n)
    found = float(lgnn.pull(answers, places, (m, n), width, inhibition))
    assert -1e-9 <= found <= 2 + inhibition + 1e-9
    # Neither the scale of a neuron nor its offset counts.
    other = answers * rng.uniform(0.5, 2, m * n) + rng.normal(size=m * n)
    assert float(lgnn.pull(other, places, (m, n), width, inhibition)) == pytest.approx(found)
    # Nor does the order of the samples, nor what neurons are called.
    renamed = rng.permutation(m * n)
    new_places = np.argsort(renamed)[places]
    moved = answers[rng.permutation(batch)][:, renamed]
    assert float(lgnn.pull(moved, new_places, (m, n), width, inhibition)) == pytest.approx(found)


def test_pixels_are_averaged():
    answers = np.random.default_rng(0).normal(size=(6, 3, 2, 4))
    whole = lgnn.pull(answers, np.arange(4), (2, 2))
    means = lgnn.pull(answers.mean((1, 2)), np.arange(4), (2, 2))
    assert float(whole) == pytest.approx(float(means), abs=1e-12)


def test_a_step_along_it_draws_neighbours_together_and_keeps_others_apart():
    rng = np.random.default_rng(0)
    answers, map, places = rng.normal(size=(200, 36)), lgnn.grid(6, 6), np.arange(36)
    for _ in range(100):
        answers = answers - 40 * np.asarray(jax.grad(lgnn.pull)(answers, places, map, 1.0))
    found, distances = np.corrcoef(answers.T), map.distances()
    assert found[distances == 1].mean() > 0.5
    assert abs(found[distances > 2].mean()) < 0.05
    assert np.square(found[distances > 2]).mean() < 0.1


def test_constant_neurons_have_no_gradient_and_change_nothing_else():
    answers = np.random.default_rng(0).normal(size=(30, 6))
    for constant in (0.0, 1e6, 1e-30):
        answers[:, 2] = constant
        for dtype in (np.float32, np.float64):
            value, slope = jax.value_and_grad(lgnn.pull)(
                answers.astype(dtype), np.arange(6), (6, 1)
            )
            assert np.isfinite(value)
            assert np.isfinite(slope).all()
            assert (slope[:, 2] == 0).all()
            assert (slope[:, 0] != 0).all()


def test_under_jit_with_places_and_width_that_are_traced():
    answers, places = np.random.default_rng(0).normal(size=(30, 6)), np.arange(6)[::-1]
    traced = jax.jit(lgnn.pull, static_argnums=(2, 4))(answers, places, lgnn.ring(6), 0.7, 1.0)
    assert float(traced) == pytest.approx(float(lgnn.pull(answers, places, lgnn.ring(6), 0.7)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_shorter_types_are_taken_in_float32(dtype):
    answers = np.random.default_rng(0).normal(size=(40, 4)).astype(dtype)
    found = lgnn.pull(jnp.asarray(answers), np.arange(4), (2, 2))
    assert found.dtype == np.float32
    same = lgnn.pull(answers.astype(np.float32), np.arange(4), (2, 2))
    assert float(found) == pytest.approx(float(same), abs=1e-6)


X = np.zeros((8, 6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(6), np.arange(6), (3, 2)), "activations must be real numbers (batch, ..., neur"),
        ((np.zeros((8, 6), int), np.arange(6), (3, 2)), "got int64 (8, 6)."),
        ((None, np.arange(6), (3, 2)), "activations must be an array, got None."),
        ((X, {"conv": np.arange(6)}, (3, 2)), "places must be an array, got {'conv': array("),
        (
            (np.zeros((8, 0, 6)), np.arange(6), (3, 2)),
            "(batch, ..., neurons), got float64 (8, 0, 6).",
        ),
        ((X, np.arange(6), (3, 2), np.ones(3)), "width must be a number, at least 0.25, got array"),
        ((X, np.arange(6), (3, 2), 10**400), "width must be a number, at least 0.25, got 1000"),
        (
            (X[:1], np.arange(6), (3, 2)),
            "activations must be of 2 samples or more, got shape (1, 6",
        ),
        ((X, np.arange(6), (3, 3)), "map 3x3 has 9 places, activations of shape (8, 6) have 6"),
        ((X, np.arange(5), (3, 2)), "places have shape (5,): the numbers must be equal."),
        ((X, np.arange(6.0), (3, 2)), "places must be integers, got float64."),
        ((X, [0, 1, 2, 3, 4, 4], (3, 2)), "places must name each of 6 neurons once, from 0, got"),
        ((X, np.arange(6), (3, 2), 0.2), "width must be a number, at least 0.25, got 0.2."),
        ((X, np.arange(6), (3, 2), float("nan")), "width must be a number, at least 0.25, got nan"),
        ((X, np.arange(6), (3, 2), "wide"), "width must be a number, at least 0.25, got 'wide'."),
        (
            (X, np.arange(6), (3, 2), 1, -0.5),
            "inhibition must be a number, at least 0, got -0.5.",
        ),
        (
            (X, np.arange(6), (3, 2), 1, float("inf")),
            "inhibition must be a number, at least 0, got inf.",
        ),
        (
            (X, np.arange(6), (3, 2), 1, "none"),
            "inhibition must be a number, at least 0, got 'none'.",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=r"^.*$") as error:
        lgnn.pull(*arguments)
    assert message in str(error.value)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_activations_of_any_scale(scale):
    answers = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    scaled = (answers.astype(np.float64) * scale).astype(np.float32)
    value, slope = jax.value_and_grad(lgnn.pull)(answers, np.arange(6), (3, 2))
    found, slope_ = jax.value_and_grad(lgnn.pull)(scaled, np.arange(6), (3, 2))
    assert float(found) == pytest.approx(float(value), abs=1e-6)
    np.testing.assert_allclose(np.float64(slope_) * scale, slope, rtol=1e-3, atol=1e-6)


def test_inhibition_may_be_traced():
    answers, places = np.random.default_rng(0).normal(size=(30, 6)), np.arange(6)
    for inhibition in (0.0, 0.7):
        found = jax.jit(lambda i: lgnn.pull(answers, places, (3, 2), 1.0, i))(inhibition)
        expected = lgnn.pull(answers, places, (3, 2), 1.0, inhibition)
        assert float(found) == pytest.approx(float(expected))
