"""Convolution and pooling: what `jax.lax` computes, in forms that are fast on CPUs as well.

XLA's own convolutions are right for TPUs and GPUs. On CPUs several of them are slow, so a program
compiled for a CPU gets matrix products instead. `lax` time / ours, forward and both gradients
together, two x86-64 cores with AVX2, n = 9 (`python benchmarks/convolution.py`):

    | batch x height x width, c_in -> c_out   | patches | Winograd |
    | 128 x 32x32, 3 -> 64, 3x3               |     3.2 |     0.94 |
    | 128 x 16x16, 64 -> 128, 3x3             |     1.7 |      2.1 |
    | 128 x 8x8, 256 -> 256, 3x3              |     1.1 |      1.7 |
    | 128 x 4x4, 512 -> 512, 3x3              |     1.1 |      1.9 |
    | 128 x 2x2, 128 -> 128, 3x3              |      12 |       16 |
    | 32 x 32x32, 128 -> 256, 3x3, stride 2   |     1.7 |        - |
    | 32 x 16x16, 256 -> 256, 1x1             |     3.8 |        - |

Max pooling of 2x2 windows as the maximum of four slices took 6 ms where `lax.reduce_window` with
its select-and-scatter gradient took 87 (128 x 32 x 32 x 64, forward and backward; measured by hand,
medians of 5, not in the benchmark).
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

_DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")

Pads = tuple[tuple[int, int], tuple[int, int]]


class Activation(NamedTuple):
    """What the first ReLU after a convolution reads and gives, `(batch, height, width, c_out)`."""

    pre: jax.Array
    post: jax.Array


def convolution(features: int, size: int, *, stride: int = 1, bias: bool, dtype, name: str):
    """Returns a `flax.linen` convolution with symmetric zero padding of `size // 2`.

    Kernels start as He normal over the fan-out, biases as zero: torchvision's VGG and the Wide
    ResNet authors' code both do so.
    """
    return nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=[(size // 2, size // 2)] * 2,
        use_bias=bias,
        dtype=dtype,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        conv_general_dilated=conv_general_dilated,
        name=name,
    )


def batch_norm(name: str, *, train: bool, axis_name: str | None, dtype):
    """Returns batch normalisation with momentum 0.9 and epsilon 1e-5, as section IV-A's networks.

    With `axis_name` the batch statistics are those of the whole batch, over all devices of that
    axis. The running variance is the biased one, where PyTorch keeps the unbiased one.
    """
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        axis_name=axis_name,
        dtype=dtype,
        name=name,
    )


def max_pool(x: jax.Array) -> jax.Array:
    """Max pooling of 2x2 windows with stride 2: `(batch, 2 h, 2 w, c)` -> `(batch, h, w, c)`.

    An odd last row or column is dropped, as `flax.linen.max_pool` does with "VALID" padding. Where
    several elements of a window are the maximum, they share its gradient.
    """
    height, width = (side // 2 * 2 for side in x.shape[1:3])
    quarters = [x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]
    return jnp.maximum(jnp.maximum(*quarters[:2]), jnp.maximum(*quarters[2:]))


def conv_general_dilated(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: Pads,
    lhs_dilation: tuple[int, int] | None = None,
    rhs_dilation: tuple[int, int] | None = None,
    dimension_numbers: lax.ConvDimensionNumbers | None = None,
    feature_group_count: int = 1,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Two-dimensional convolution with the signature that `flax.linen.Conv` calls.

    Args:
      x: images `(batch, height, width, c_in)`.
      kernel: `(kernel_height, kernel_width, c_in, c_out)`, of the dtype of `x`.
      strides: step along height and width.
      padding: zeros before and after, along height and width.
      lhs_dilation: none.
      rhs_dilation: none.
      dimension_numbers: NHWC, HWIO, NHWC, which is all that this function computes.
      feature_group_count: 1.
      precision: for platforms on which `lax.conv_general_dilated` computes.

    Returns:
      What `lax.conv_general_dilated` returns, to float32 rounding; values and gradients.

    Raises:
      ValueError: for dilations or groups.
    """
    del dimension_numbers
    dilations = (*(lhs_dilation or ()), *(rhs_dilation or ()))
    if any(dilation != 1 for dilation in dilations) or feature_group_count != 1:
        raise ValueError(
            "only plain convolutions are supported, got "
            f"{lhs_dilation=}, {rhs_dilation=}, {feature_group_count=}."
        )
    return _conv(x, kernel, tuple(strides), tuple(map(tuple, padding)), precision)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv(x, kernel, strides, padding, precision):
    return lax.platform_dependent(
        x,
        kernel,
        cpu=partial(_cpu_conv, strides=strides, padding=padding),
        default=partial(_lax_conv, strides=strides, padding=padding, precision=precision),
    )


def _conv_forward(x, kernel, strides, padding, precision):
    # Nothing but the operands is kept: a Winograd tile is four times its image, cheaper made again.
    return _conv(x, kernel, strides, padding, precision), (x, kernel)


def _conv_backward(strides, padding, precision, operands, gradient):
    def pull_back(conv):
        return lambda x, kernel, gradient: jax.vjp(conv, x, kernel)[1](gradient)

    cpu = partial(_cpu_conv, strides=strides, padding=padding)
    default = partial(_lax_conv, strides=strides, padding=padding, precision=precision)
    return lax.platform_dependent(
        *operands, gradient, cpu=pull_back(cpu), default=pull_back(default)
    )


_conv.defvjp(_conv_forward, _conv_backward)


def _lax_conv(x, kernel, *, strides, padding, precision):
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=_DIMENSION_NUMBERS, precision=precision
    )


def _cpu_conv(x, kernel, *, strides, padding):
    # Winograd's sums cost more than they save for few channels, and their rounding more than
    # bfloat16 can bear.
    is_3x3 = kernel.shape[:2] == (3, 3) and strides == (1, 1) and padding == ((1, 1), (1, 1))
    if is_3x3 and kernel.shape[2] >= 8 and x.dtype == jnp.float32:
        return _winograd(x, kernel)
    return _patches(x, kernel, strides, padding)


def _patches(x, kernel, strides, padding):
    """Convolution as one matrix product with the window of every output pixel."""
    window, c_out = kernel.shape[:2], kernel.shape[3]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = (
        (side - size) // stride + 1
        for side, size, stride in zip(x.shape[1:3], window, strides, strict=True)
    )
    rows = [slice(i, i + (height - 1) * strides[0] + 1, strides[0]) for i in range(window[0])]
    columns = [slice(j, j + (width - 1) * strides[1] + 1, strides[1]) for j in range(window[1])]
    patches = jnp.concatenate([x[:, i, j] for i in rows for j in columns], axis=-1)
    product = jnp.matmul(
        patches.reshape(-1, patches.shape[-1]),
        kernel.reshape(-1, c_out),
        preferred_element_type=x.dtype if jnp.finfo(x.dtype).bits >= 32 else jnp.float32,
    )
    return product.astype(x.dtype).reshape(x.shape[0], height, width, c_out)


def _winograd(x, kernel):
    """3x3 convolution, stride 1, padding 1, as Winograd's F(2x2, 3x3): 4 outputs for 16 products.

    Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015, section 4.1. The
    sixteen entries of each 4x4 tile are strided slices of the padded input; sixteen separate matrix
    products beat one that is batched.
    """
    batch, height, width, c_in = x.shape
    c_out = kernel.shape[-1]
    tile_rows, tile_columns = (height + 1) // 2, (width + 1) // 2
    x = jnp.pad(x, ((0, 0), (1, 1 + height % 2), (1, 1 + width % 2), (0, 0)))
    rows = [slice(i, i + 2 * tile_rows - 1, 2) for i in range(4)]
    columns = [slice(j, j + 2 * tile_columns - 1, 2) for j in range(4)]
    tiles = [[x[:, i, j].reshape(-1, c_in) for j in columns] for i in rows]
    taps = [[kernel[i, j] for j in range(3)] for i in range(3)]

    tiles = _both_ways(_winograd_input, tiles)
    taps = _both_ways(_winograd_kernel, taps)
    products = [[tiles[i][j] @ taps[i][j] for j in range(4)] for i in range(4)]
    quads = _both_ways(_winograd_output, products)

    y = jnp.stack([jnp.stack(row, axis=1) for row in quads], axis=1)
    y = y.reshape(batch, tile_rows, tile_columns, 2, 2, c_out).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(batch, 2 * tile_rows, 2 * tile_columns, c_out)[:, :height, :width]


def _both_ways(line, grid):
    """Applies `line`, list to list, to every column of a grid of arrays and then to every row."""
    columns = [line(column) for column in zip(*grid, strict=True)]
    return [line(row) for row in zip(*columns, strict=True)]


def _winograd_input(d):
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _winograd_kernel(g):
    even, odd = 0.5 * (g[0] + g[2]), 0.5 * g[1]
    return [g[0], even + odd, even - odd, g[2]]


def _winograd_output(m):
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]
