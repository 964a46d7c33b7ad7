import itertools
import re
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from lgnn_jax.maps.windows import gaussian_taps
from lgnn_jax.methods import filtering
from lgnn_jax.methods.filtering import low_pass

pytestmark = pytest.mark.usefixtures("strict_dtypes")

METHODS = ("conv", "separable", "banded", "matmul", "auto")
SHAPES = [
    ((5, 4, 12), (4, 3)),
    ((3, 3, 2, 20), (5, 4)),
    ((2, 3, 3, 2, 8), (4, 2)),
    ((3, 7), (7, 1)),
]


def _gradient(shape, neuron_axis=-1, seed=0):
    gradient = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return np.moveaxis(gradient, -1, neuron_axis)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("shape", "dims"), SHAPES)
@pytest.mark.parametrize(
    ("size", "padding", "neuron_axis"),
    list(itertools.product([3, 5, 7], ["replicate", "wrap", "zero"], [-1, 0])),
)
def test_equals_algorithm_1_in_float64(method, shape, dims, size, padding, neuron_axis):
    gradient = _gradient(shape, neuron_axis)
    sigma = 0.5 * (size - 1) / 2
    filtered = low_pass(
        jnp.asarray(gradient),
        dims,
        gaussian_taps(sigma, size),
        padding=padding,
        method=method,
        neuron_axis=neuron_axis,
    )
    expected = reference.low_pass(gradient, dims, sigma, size, padding, neuron_axis)
    assert filtered.dtype == jnp.float32
    scale = np.abs(expected).max()
    np.testing.assert_allclose(filtered, expected, rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.parametrize("method", METHODS)
def test_equals_algorithm_1_on_the_papers_largest_layer(method):
    gradient = _gradient((3, 3, 64, 512))
    filtered = jax.jit(lambda g: low_pass(g, (32, 16), gaussian_taps(0.5), method=method))(gradient)
    expected = reference.low_pass(gradient, (32, 16))
    error = np.linalg.norm(filtered - expected) / np.linalg.norm(expected)
    assert error < 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_gradients_are_filtered_in_float32(method, dtype):
    gradient = jnp.asarray(_gradient((3, 3, 8, 64)), dtype)
    filtered = low_pass(gradient, (8, 8), gaussian_taps(0.5), method=method)
    expected = reference.low_pass(np.asarray(gradient, np.float64), (8, 8))
    assert filtered.dtype == dtype
    # One rounding, at the end: within half a unit in the last place, but for ties.
    rounded = jnp.asarray(expected, jnp.float32).astype(dtype)
    off = np.asarray(filtered != rounded).mean()
    assert off < 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_float64_stays_float64(method):
    with jax.enable_x64(True):
        gradient = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 4, 16)))
        filtered = low_pass(gradient, (4, 4), jnp.asarray([0.25, 0.5, 0.25]), method=method)
        assert filtered.dtype == jnp.float64
        window = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])
        padded = np.pad(np.asarray(gradient).reshape(-1, 4, 4), ((0, 0), (1, 1), (1, 1)), "edge")
        expected = sum(
            window[i, j] * padded[:, i : i + 4, j : j + 4] for i in range(3) for j in range(3)
        )
        np.testing.assert_allclose(filtered.reshape(-1, 4, 4), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("padding", ["replicate", "wrap"])
def test_equal_gradients_stay_as_they_are(method, padding):
    filtered = low_pass(
        jnp.ones((2, 15)), (5, 3), gaussian_taps(0.8, 5), padding=padding, method=method
    )
    np.testing.assert_allclose(filtered, np.ones((2, 15)), rtol=1e-6)


def test_a_gradient_in_bfloat16_is_near_the_whole_one():
    """What "auto" rounds on a TPU; the weights' own rounding there is a hundredth of it."""
    gradient = _gradient((3, 3, 64, 512))
    rounded = jnp.asarray(gradient, jnp.bfloat16).astype(jnp.float32)
    filtered = low_pass(rounded, (32, 16), gaussian_taps(0.5), method="matmul")
    expected = reference.low_pass(gradient, (32, 16))
    error = np.linalg.norm(filtered - expected) / np.linalg.norm(expected)
    assert 1e-4 < error < 2e-3


@pytest.mark.parametrize(
    ("dtype", "products", "bound"), [(jnp.bfloat16, 1, 3e-4), (jnp.float32, 3, 1e-6)]
)
def test_what_tensor_cores_round_is_less_than_what_a_type_rounds(dtype, products, bound):
    """TF32 keeps 10 bits after the first: of bfloat16 all, of float32 most in two parts.

    A derivation, of what `_gpu_precision` says; no GPU is asked.
    """

    def tf32(x):
        bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64) + 0x1000
        return (bits & 0xFFFFE000).astype(np.uint32).view(np.float32)

    def product(x, y):
        return x.astype(np.float64) @ y.astype(np.float64)

    gradient = np.asarray(jnp.asarray(_gradient((27, 512)), dtype), np.float32)
    weights = np.asarray(low_pass(jnp.eye(512), (32, 16), gaussian_taps(0.5), method="matmul"))
    x, w = tf32(gradient), tf32(weights)
    actual = product(x, w)
    if products == 3:
        actual += product(x, tf32(weights - w)) + product(tf32(gradient - x), w)
    else:
        np.testing.assert_array_equal(x, gradient)
    expected = reference.low_pass(gradient, (32, 16))
    assert np.linalg.norm(actual - expected) < bound * np.linalg.norm(expected)
    np.testing.assert_allclose(w.sum(axis=0), 1, atol=5e-4)


def test_auto_follows_the_platform_that_is_compiled_for(monkeypatch):
    def compiled_for(platform, dtype=jnp.float32):
        f = jax.jit(lambda x: low_pass(x, (8, 8), gaussian_taps(0.5)))
        traced = f.trace(jax.ShapeDtypeStruct((3, 3, 4, 64), dtype))
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        return [line for line in text.splitlines() if "dot_general" in line and "64x64xf32" in line]

    (product,) = compiled_for("tpu")
    # The gradient as precise as the convolution that made it, the weights more so.
    assert "precision = [DEFAULT, HIGH]" in product
    with jax.default_matmul_precision("float32"):
        (product,) = compiled_for("tpu")
        (on_gpu,) = compiled_for("cuda", jnp.bfloat16)
    for text in (product, on_gpu):
        assert "precision = [HIGHEST, HIGHEST]" in text
    assert not compiled_for("cpu")
    for platform in ("cuda", "rocm"):
        (product,) = compiled_for(platform)  # no GPU is here: the form that all of them have
        assert "precision = [HIGHEST, HIGHEST]" in product
        (product,) = compiled_for(platform, jnp.bfloat16)
        assert "precision = [DEFAULT, DEFAULT]" in product
        assert product.endswith("tensor<3x3x4x64xbf16>")
    monkeypatch.setattr(filtering, "_gpus_have_tf32", lambda: True)
    (product,) = compiled_for("cuda")
    assert "lhs_precision_type = tf32" in product
    assert "num_primitive_operations = 3" in product


@pytest.mark.parametrize(
    ("capabilities", "known"), [(["8.0"], True), (["9.0", "10.3"], True), (["8.0", "7.5"], False)]
)
def test_tf32_is_taken_where_all_gpus_have_it(monkeypatch, capabilities, known):
    assert not filtering._gpus_have_tf32()  # there is none
    devices = [SimpleNamespace(compute_capability=value) for value in capabilities]
    monkeypatch.setattr(jax, "local_devices", lambda backend: devices)
    assert filtering._gpus_have_tf32() == known


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "fft"}, "method must be one of 'auto'.*'fft'"),
        ({"padding": "same"}, "padding must be one of 'replicate'.*'same'"),
    ],
)
def test_unknown_option(options, message):
    with pytest.raises(ValueError, match=message):
        low_pass(jnp.ones((2, 4)), (2, 2), gaussian_taps(0.5), **options)


@pytest.mark.parametrize("axis", [2, -3])
def test_a_neuron_axis_that_is_not_there(axis):
    with pytest.raises(ValueError, match=rf"neuron_axis {axis} is not an axis.*\(2, 4\)"):
        low_pass(jnp.ones((2, 4)), (2, 2), gaussian_taps(0.5), neuron_axis=axis)


def test_a_map_that_does_not_fit():
    with pytest.raises(ValueError, match=r"2x3 of 6 places .*not fit the 4 .*\(2, 4\)"):
        low_pass(jnp.ones((2, 4)), (2, 3), gaussian_taps(0.5))


@pytest.mark.parametrize("shape", [(3, 3, 5, 64), (2, 7, 3, 64), (3, 3, 64)])
def test_a_kernels_axes_are_kept_where_xla_fuses_the_filter(shape):
    """Merged, they make the loop that the momentum's update is fused into 3.5 times as long."""
    program = jax.jit(partial(low_pass, map=(8, 8), window=gaussian_taps(0.5), method="banded"))
    text = program.lower(jnp.zeros(shape)).as_text()
    whole = f"tensor<{'x'.join(map(str, shape))}xf32>"
    assert re.search(rf"stablehlo\.concatenate .*-> {whole}", text)
