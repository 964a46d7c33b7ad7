import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import lgnn_jax as lgnn
from lgnn_jax.maps.windows import heat_kernel

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@pytest.mark.parametrize("sigma", [0.05, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_gaussian_kernel_against_float64(sigma, size):
    kernel = lgnn.gaussian_kernel(sigma, size)
    assert kernel.dtype == jnp.float32
    np.testing.assert_allclose(kernel, reference.gaussian(sigma, size), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.0, -0.0, 1e-3, 1e-30])
def test_vanishing_sigma_is_the_identity(sigma):
    identity = np.zeros((3, 3))
    identity[1, 1] = 1
    np.testing.assert_array_equal(lgnn.gaussian_kernel(sigma), identity)
    np.testing.assert_array_equal(jax.jit(lgnn.gaussian_kernel)(sigma), identity)


@pytest.mark.parametrize("sigma", [1e30, 1e39, 1e300, 10**39, np.float64(1e300)])
def test_sigma_without_bound_makes_all_weights_equal(sigma):
    """Even where it is beyond float32."""
    np.testing.assert_allclose(lgnn.gaussian_kernel(sigma), np.full((3, 3), 1 / 9), rtol=1e-6)


@pytest.mark.parametrize(
    "sigma",
    [-0.1, float("nan"), float("inf"), 10**400, None, "wide", 1j, np.ones((30, 2))],
    ids=lambda sigma: repr(sigma)[:9],
)
def test_bad_sigma(sigma):
    with pytest.raises(ValueError, match="sigma must be a finite number") as error:
        lgnn.gaussian_kernel(sigma)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("size", [0, 2, 4, -3])
def test_bad_size(size):
    with pytest.raises(ValueError, match=f"odd and positive.*got {size}"):
        lgnn.gaussian_kernel(0.5, size)


@pytest.mark.parametrize("map", [lgnn.line(6), lgnn.grid(3, 4), lgnn.hexagonal(3, 3)], ids=str)
def test_heat_that_has_spread_for_ever_is_the_same_everywhere(map):
    for sigma in (1e3, 1e30, 1e300):
        kernel = heat_kernel(map, sigma)
        np.testing.assert_allclose(kernel, np.full((map.count,) * 2, 1 / map.count), atol=1e-6)


def test_the_slowest_waves_of_a_long_line_are_not_taken_for_the_mean():
    """The least eigenvalue but 0 is 2 - 2 cos(pi / n): 1e-5 of the largest, at 500 places."""
    map = lgnn.line(500)
    width = 100.0
    kernel = np.asarray(heat_kernel(map, width))
    values, vectors = np.linalg.eigh(map.laplacian())
    expected = (vectors * np.exp(-(width**2) / 2 * values)) @ vectors.T
    np.testing.assert_allclose(kernel, expected, atol=1e-6)
