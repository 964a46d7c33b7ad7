"""Any gradients, table and options end as `transform` promises: in Algorithm 1, or in one line."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    FEW,
    MANY,
    METHODS,
    PADDINGS,
    arrays,
    assert_one_line,
    leaves_by_path,
    maps_to_look_up,
    shapes,
)
from table_rules import expected_maps, ignore_the_keys_warnings

import lgnn_jax as lgnn
from lgnn_jax.maps import windows
from lgnn_jax.methods.filtering import low_pass

pytestmark = pytest.mark.filterwarnings("ignore:sigma .* is too wide")

SIGMAS = st.floats(0, 9, width=32) | st.sampled_from([0, 1, 1e-320, 1e-30, 1e30, 1e300, 10**39])
WRONG_SIGMAS = [-1, -1e-300, math.nan, math.inf, -math.inf, 10**400, None, "wide", np.ones(3)]


def constant(value):
    return lambda step: value


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "sigma": (SIGMAS | st.sampled_from(WRONG_SIGMAS)).flatmap(
            lambda sigma: st.sampled_from([sigma, constant(sigma)])
        ),
        "kernel_size": st.sampled_from([1, 3, 5, 9, 31, np.int8(3)] * 2 + [0, 2, -3, 3.0, None]),
        "padding": st.sampled_from(PADDINGS * 3 + ("same", None)),
        "method": st.sampled_from(METHODS * 3 + ("fft", 3)),
    },
)


def expected_error(sigma=0.5, kernel_size=3, padding="wrap", method="auto"):
    """What the docstring of `transform` says of its options."""
    if kernel_size is not None and type(kernel_size) not in (int, np.int8):
        return TypeError
    sigma = sigma(0) if callable(sigma) else sigma
    known = isinstance(sigma, (int, float)) and 0 <= sigma < math.inf and sigma < 10**308
    odd = kernel_size is None or (kernel_size > 0 and kernel_size % 2 == 1)
    return None if known and odd and padding in PADDINGS and method in METHODS else ValueError


@ignore_the_keys_warnings
@pytest.mark.usefixtures("strict_dtypes")
@MANY
@given(st.booleans().flatmap(maps_to_look_up), OPTIONS)
def test_transform_refuses_or_keeps_structure_shapes_and_dtypes(case, options):
    tree, table, axis = case
    maps, error = expected_maps(tree, table, axis), expected_error(**options)
    untouched = []

    def step(gradients):
        tx = lgnn.transform(table, neuron_axis=axis, **options)
        updates, state = tx.update(gradients, tx.init(tree))
        pairs = zip(leaves_by_path(gradients), leaves_by_path(updates), strict=True)
        untouched.extend(path for (path, before), (_, after) in pairs if before is after)
        return updates, state.count

    if maps is None or error is not None:
        # With two mistakes either error will do.
        with pytest.raises((ValueError, error or ValueError)) as caught:
            jax.eval_shape(step, tree)
        assert error is None or maps is None or caught.type is error
        assert_one_line(caught.value)
    else:
        updates, count = jax.eval_shape(step, tree)
        assert updates == jax.eval_shape(lambda x: x, tree)
        assert count.shape == ()
        assert untouched == [path for path, _ in leaves_by_path(tree) if maps.get(path) is None]


def assert_filtered(actual, gradient, dims, sigma, size, padding, axis):
    """Checks one filtered gradient against float64.

    In units of rounding, of the largest gradient: each of the size^2 terms of a sum adds one. A
    weight is the product of two taps. A tap's exponential is off by 4 at most (3 of its argument z,
    times z exp(-z) < 0.4, and its own), and by as much again once the taps are divided by their
    sum: 8 for each tap of a line, twice. A matrix product has up to 24 terms, and there is one more
    rounding to the gradient's own type. Numbers that are not normal may become 0.
    """
    actual, exact = np.asarray(actual), np.asarray(gradient, np.float64)
    assert actual.dtype == gradient.dtype
    assert np.isfinite(actual).all()
    actual = actual.astype(np.float64)
    # The formula squares sigma, which has no float64 everywhere; float32 does not see these steps.
    limit = 0.0 if sigma < 1e-40 else min(float(sigma), 1e100)
    expected = reference.low_pass(exact, dims, limit, size, padding, axis)
    unit, tiny = jnp.finfo(gradient.dtype).eps / 2, jnp.finfo(gradient.dtype).tiny
    largest = np.abs(exact).max()
    tolerance = ((size**2 + 16 * size + 32) * 2.0**-24 + unit) * largest + float(tiny)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)
    if padding == "wrap":
        np.testing.assert_allclose(actual.mean(axis), exact.mean(axis), rtol=0, atol=tolerance)


FILTERS = st.tuples(SIGMAS, st.sampled_from([1, 3, 5, 9]), st.sampled_from(PADDINGS))


@ignore_the_keys_warnings
@pytest.mark.usefixtures("strict_dtypes")
@FEW
@given(
    maps_to_look_up(sound=True).filter(lambda case: any((expected_maps(*case) or {}).values())),
    FILTERS,
    st.sampled_from(METHODS),
    st.booleans(),
)
def test_transform_is_algorithm_1_on_any_tree(case, options, method, scheduled):
    tree, table, axis = case
    sigma, size, padding = options
    tx = lgnn.transform(
        table,
        sigma=constant(sigma) if scheduled else sigma,
        kernel_size=size,
        padding=padding,
        method=method,
        neuron_axis=axis,
    )
    updates, _ = jax.jit(tx.update)(tree, tx.init(tree))
    maps = expected_maps(tree, table, axis)
    for (path, before), (_, after) in zip(
        leaves_by_path(tree), leaves_by_path(updates), strict=True
    ):
        if maps.get(path) is None:
            np.testing.assert_array_equal(after, before)
        else:
            assert_filtered(after, before, maps[path].map.sides, *options, axis)


@pytest.mark.usefixtures("strict_dtypes")
@FEW
@given(st.data(), FILTERS)
def test_all_methods_are_algorithm_1(data, options):
    axis = data.draw(st.sampled_from([-1, 0, 1]))
    count = data.draw(st.integers(1, 24))
    rows = data.draw(st.sampled_from([m for m in range(1, count + 1) if count % m == 0]))
    dims = rows, count // rows
    shape = shapes(axis, [count]).filter(lambda shape: len(shape) > max(axis, 0))
    gradient = data.draw(shape.flatmap(arrays))
    sigma, size, padding = options

    @jax.jit
    def filtered(x):
        taps = windows.gaussian_taps(sigma, size)
        return [
            low_pass(x, dims, taps, padding=padding, method=method, neuron_axis=axis)
            for method in METHODS
        ]

    for actual in filtered(gradient):
        assert_filtered(actual, gradient, dims, *options, axis)
