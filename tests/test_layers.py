import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lgnn_jax.models import layers

pytestmark = pytest.mark.usefixtures("strict_dtypes")

# batch, height, width, c_in, c_out, window, stride
CONVOLUTIONS = [
    (2, 32, 32, 3, 16, 3, 1),  # first layer: patches
    (2, 8, 8, 16, 32, 3, 1),  # Winograd
    (2, 7, 5, 8, 12, 3, 1),  # Winograd, odd sides
    (2, 2, 2, 64, 32, 3, 1),  # window larger than the image
    (2, 1, 1, 8, 8, 3, 1),
    (2, 8, 8, 16, 32, 3, 2),
    (2, 7, 9, 4, 6, 3, 2),
    (2, 8, 8, 16, 32, 1, 1),
    (2, 8, 8, 16, 32, 1, 2),
    (2, 9, 9, 2, 3, 5, 1),
]


def _operands(case, dtype=jnp.float32):
    batch, height, width, c_in, c_out, size, stride = case
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(batch, height, width, c_in)), dtype)
    kernel = rng.normal(size=(size, size, c_in, c_out)) / np.sqrt(size * size * c_in)
    return x, jnp.asarray(kernel, dtype), (stride, stride), [(size // 2, size // 2)] * 2


def _reference(x, kernel, strides, padding):
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_equals_lax(case):
    x, kernel, strides, padding = _operands(case)

    def with_gradients(conv):
        y, pull_back = jax.vjp(lambda x, k: conv(x, k, strides, padding), x, kernel)
        gradient = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), jnp.float32)
        return y, *pull_back(gradient)

    actual = jax.jit(lambda: with_gradients(layers.conv_general_dilated))()
    expected = jax.jit(lambda: with_gradients(_reference))()
    for a, e in zip(actual, expected, strict=True):
        scale = np.abs(e).max()
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=3e-6 * scale)


@pytest.mark.parametrize("case", [CONVOLUTIONS[1], CONVOLUTIONS[5]])
def test_convolution_in_bfloat16(case):
    x, kernel, strides, padding = _operands(case, jnp.bfloat16)
    y = layers.conv_general_dilated(x, kernel, strides, padding)
    expected = _reference(*(a.astype(jnp.float32) for a in (x, kernel)), strides, padding)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=2**-8, atol=2**-8)


def test_the_form_follows_the_platform_that_is_compiled_for():
    x, kernel, strides, padding = _operands(CONVOLUTIONS[1])

    def lowered(platform):
        def loss(x, kernel):
            return (layers.conv_general_dilated(x, kernel, strides, padding) ** 2).sum()

        traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(x, kernel)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    for platform in ("tpu", "cuda"):
        assert lowered(platform).count("stablehlo.convolution") == 3
        assert "dot_general" not in lowered(platform)
    assert "stablehlo.convolution" not in lowered("cpu")


@pytest.mark.parametrize("options", [{"rhs_dilation": (2, 2)}, {"feature_group_count": 2}])
def test_convolutions_that_are_not_plain_are_refused(options):
    x, kernel, strides, padding = _operands(CONVOLUTIONS[1])
    with pytest.raises(ValueError, match=next(iter(options))):
        layers.conv_general_dilated(x, kernel, strides, padding, **options)


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 2, 2, 5), (2, 7, 5, 3)])
def test_max_pool_equals_flax(shape):
    # Distinct values: where there are ties, the gradients differ by intent.
    x = jnp.asarray(
        np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape), jnp.float32
    )

    def with_gradient(pool):
        y, pull_back = jax.vjp(pool, x)
        return y, *pull_back(jnp.arange(y.size, dtype=jnp.float32).reshape(y.shape))

    actual = with_gradient(layers.max_pool)
    expected = with_gradient(lambda x: nn.max_pool(x, (2, 2), strides=(2, 2)))
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, e)
