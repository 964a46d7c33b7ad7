import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lgnn_jax.models import layers
from lgnn_jax.models.winograd import multiplications, winograd, winograd_rows

pytestmark = pytest.mark.usefixtures("strict_dtypes")

# height, width, batch, c_in, c_out, window, stride
CONVOLUTIONS = [
    (32, 32, 2, 3, 16, 3, 1),  # first layer: patches
    (4, 4, 2, 32, 32, 3, 1),  # Winograd
    (12, 16, 2, 64, 48, 3, 1),  # Winograd, one axis after the other
    (8, 8, 2, 16, 32, 3, 1),  # Winograd along the height
    (2, 2, 2, 64, 32, 3, 1),  # window larger than the image
    (1, 1, 2, 8, 8, 3, 1),
    (8, 8, 2, 16, 32, 3, 2),
    (7, 9, 2, 4, 6, 3, 2),
    (8, 8, 2, 16, 32, 1, 1),
    (8, 7, 2, 16, 32, 1, 2),
    (9, 9, 2, 2, 3, 5, 1),
    (12, 16, 2, 32, 24, 3, 1),
]


def _operands(case, dtype=jnp.float32):
    height, width, batch, c_in, c_out, size, _ = case
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(height, width, batch, c_in)), dtype)
    kernel = rng.normal(size=(size, size, c_in, c_out)) / np.sqrt(size * size * c_in)
    return x, jnp.asarray(kernel, dtype)


def _reference(x, kernel, stride):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(kernel.shape[0] // 2,) * 2] * 2,
        dimension_numbers=("HWNC", "HWIO", "HWNC"),
        precision=lax.Precision.HIGHEST,
    )


def _values_and_gradients(function, *operands):
    @jax.jit
    def both(operands):
        y, pull_back = jax.vjp(function, *operands)
        gradient = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), y.dtype)
        return y, *pull_back(gradient)

    return both(operands)


def _assert_close(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5 * np.abs(e).max())


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_equals_lax(case):
    operands, stride = _operands(case), case[-1]
    actual = _values_and_gradients(lambda x, k: layers.convolve(x, k, stride), *operands)
    _assert_close(actual, _values_and_gradients(lambda x, k: _reference(x, k, stride), *operands))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("sides", [(1, 1), (2, 2), (1, 5), (4, 2), (3, 3)])
def test_convolution_on_gpus_equals_lax(sides, stride):
    """Images smaller than the window are one product there, others `jax.lax`'s convolution."""
    operands = _operands((*sides, 3, 5, 4, 3, stride))
    form = partial(layers._gpu_convolve, stride=stride)
    program = str(jax.make_jaxpr(form)(*operands))
    assert ("conv_general_dilated" in program) == (min(sides) >= 3)
    actual = _values_and_gradients(form, *operands)
    _assert_close(actual, _values_and_gradients(lambda x, k: _reference(x, k, stride), *operands))


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 7, 8, 9, 13])
@pytest.mark.parametrize("width", [1, 2, 6, 12])
@pytest.mark.parametrize("form", [winograd, winograd_rows])
def test_winograd_on_every_kind_of_line(form, height, width):
    operands = _operands((height, width, 3, 5, 4, 3, 1))
    actual = _values_and_gradients(form, *operands)
    _assert_close(actual, _values_and_gradients(lambda x, k: _reference(x, k, 1), *operands))


@pytest.mark.parametrize("form", [winograd, winograd_rows])
@pytest.mark.parametrize("side", [8, 16])
def test_rounding_of_winograd(side, form):
    x, kernel = _operands((side, side, 16, 64, 16, 3, 1))
    actual = np.asarray(jax.jit(form)(x, kernel), np.float64)
    x = np.pad(np.asarray(x, np.float64), [(1, 1), (1, 1), (0, 0), (0, 0)])
    kernel = np.asarray(kernel, np.float64)
    expected = sum(x[i : i + side, j : j + side] @ kernel[i, j] for i in range(3) for j in range(3))
    assert np.sqrt(((actual - expected) ** 2).mean()) < 1.5e-6
    assert np.abs(actual - expected).max() < 2e-5


@pytest.mark.parametrize(
    ("case", "form"),
    [
        ((2, 2, 2, 512, 512, 3, 1), "winograd"),
        ((16, 16, 2, 256, 256, 3, 1), "winograd"),
        ((8, 8, 2, 32, 64, 3, 1), "winograd_rows"),
        ((32, 32, 2, 16, 128, 3, 1), "winograd_rows"),
        ((32, 32, 2, 3, 64, 3, 1), "_patches"),
        ((224, 224, 2, 64, 64, 3, 1), "_patches"),  # lines that long are large dense matrices
        ((16, 16, 2, 64, 64, 3, 2), "_patches"),
        ((16, 16, 2, 64, 64, 1, 1), "_patches"),
    ],
)
def test_the_form_with_the_fewest_multiplications_is_chosen(case, form, monkeypatch):
    calls = []
    for name in ("winograd", "winograd_rows", "_patches"):
        monkeypatch.setattr(layers, name, lambda x, *_, name=name, **__: calls.append(name) or x)
    x, kernel = jax.eval_shape(lambda: _operands(case))
    jax.eval_shape(lambda x, kernel: layers._cpu_convolve(x, kernel, stride=case[-1]), x, kernel)
    assert calls == [form]


def test_winograd_saves_multiplications():
    assert multiplications(2, 2, 512, 512)[0] < 9 * 512 / 3.5
    assert multiplications(16, 16, 256, 256)[0] < 9 * 256 / 2
    assert min(multiplications(32, 32, 3, 64)) > 9 * 3
    assert min(multiplications(224, 224, 64, 64)) > 9 * 64  # its lines are dense matrices


@pytest.mark.parametrize("case", [(8, 8, 16, 32), (4, 4, 3, 5), (12, 16, 8, 2), (1, 2, 4, 4)])
def test_multiplications_counts_the_matrix_products(case):
    height, width, c_in, c_out = case

    def count(form, batch):
        x, kernel = _operands((height, width, batch, c_in, c_out, 3, 1))
        products = [
            math.prod(eqn.outvars[0].aval.shape) * eqn.invars[0].aval.shape[-1]
            for eqn in jax.make_jaxpr(form)(x, kernel).jaxpr.eqns
            if eqn.primitive.name == "dot_general"
        ]
        return sum(products) / (height * width * c_out)

    # One image more; the taps are transformed once for all.
    actual = [count(form, 2) - count(form, 1) for form in (winograd, winograd_rows)]
    np.testing.assert_allclose(actual, multiplications(*case))


@pytest.mark.parametrize("case", [CONVOLUTIONS[1], CONVOLUTIONS[3], CONVOLUTIONS[6]])
def test_convolution_in_bfloat16(case):
    x, kernel = _operands(case, jnp.bfloat16)
    y = layers.convolve(x, kernel, case[-1])
    expected = _reference(*(a.astype(jnp.float32) for a in (x, kernel)), case[-1])
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=2**-8, atol=2**-8)


def test_the_form_follows_the_platform_that_is_compiled_for():
    x, kernel = _operands(CONVOLUTIONS[1])

    def lowered(platform):
        def loss(x, kernel):
            return (layers.convolve(x, kernel, 1) ** 2).sum()

        traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(x, kernel)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    for platform in ("tpu", "cuda"):
        assert lowered(platform).count("stablehlo.convolution") == 3
        assert "dot_general" not in lowered(platform)
    assert "stablehlo.convolution" not in lowered("cpu")


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_equals_flax(train):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(1, 2, size=(4, 6, 3, 5)), jnp.float32)
    bias = jnp.asarray(rng.normal(size=5), jnp.float32)
    params = {name: jnp.asarray(rng.normal(size=5), jnp.float32) for name in ("scale", "bias")}
    stats = {name: jnp.asarray(rng.uniform(1, 2, 5), jnp.float32) for name in ("mean", "var")}
    flax_norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)

    def ours(x, params, bias):
        moments, updated = layers.BatchNorm().apply(
            {"params": params, "batch_stats": stats}, x, bias, train=train, mutable=["batch_stats"]
        )
        return layers.normalize(x, *moments), updated

    def flax(x, params, bias):
        return flax_norm.apply(
            {"params": params, "batch_stats": stats},
            x + bias.reshape(1, 1, 1, -1),
            mutable=["batch_stats"],
        )

    gradient = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    results = []
    for form in (ours, flax):
        y, pull_back, updated = jax.vjp(form, x, params, bias, has_aux=True)
        results.append((y, updated, pull_back(gradient)))
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=2e-5, atol=2e-5), *results)


def test_the_bias_before_batch_norm_has_no_gradient_in_training():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4, 2, 3)), jnp.float32)
    variables = layers.BatchNorm().init(jax.random.key(0), x, train=False)

    def loss(bias):
        moments, _ = layers.BatchNorm().apply(
            variables, x, bias, train=True, mutable=["batch_stats"]
        )
        return (layers.normalize(x, *moments) ** 3).sum()

    np.testing.assert_array_equal(jax.grad(loss)(jnp.ones(3)), 0)


@pytest.mark.parametrize("shape", [(8, 8, 2, 3), (2, 2, 1, 5), (7, 5, 2, 3)])
def test_normalising_after_pooling_equals_normalising_before(shape):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    factor, summand = jnp.linspace(-1.3, 1.1, shape[-1]), jnp.linspace(0.5, -0.5, shape[-1])

    def plain(x, factor, summand):
        x = layers.normalize(x, factor, summand).transpose(2, 0, 1, 3)
        return nn.max_pool(x, (2, 2), strides=(2, 2)).transpose(1, 2, 0, 3)

    actual = _values_and_gradients(layers.normalize_and_pool, x, factor, summand)
    expected = _values_and_gradients(plain, x, factor, summand)
    _assert_close(actual, expected)
    if shape[-1] == 3:
        eagerly = layers.normalize_and_pool(x, factor, summand)
        np.testing.assert_array_equal(eagerly, plain(x, factor, summand))


def test_equal_elements_share_the_gradient_of_their_window():
    x = jnp.asarray([[3.0, 1.0], [3.0, 3.0]]).reshape(2, 2, 1, 1)
    one = jnp.ones(1)

    def gradient(factor):
        return jax.grad(lambda x: layers.normalize_and_pool(x, factor, one).sum())(x).ravel()

    np.testing.assert_allclose(gradient(one), [1 / 3, 0, 1 / 3, 1 / 3])
    np.testing.assert_allclose(gradient(-one), [0, -1, 0, 0])


@pytest.mark.parametrize(("rate", "actual"), [(0.3, 77 / 256), (0.5, 0.5), (0.9999, 255 / 256)])
def test_dropout(rate, actual):
    x = jnp.ones((10, 20, 30, 7))  # 7: not a multiple of the four elements of a random word
    y = np.asarray(layers.dropout(jax.random.key(0), x, rate))
    np.testing.assert_allclose(y[y != 0], 1 / (1 - actual), rtol=1e-6)
    deviation = np.sqrt(actual * (1 - actual) / y[..., 0].size)
    np.testing.assert_allclose((y == 0).mean((0, 1, 2)), actual, atol=4 * deviation)
    correlations = np.corrcoef((y == 0).reshape(-1, 7).T) - np.eye(7)
    assert np.abs(correlations).max() < 4 / np.sqrt(y[..., 0].size)
