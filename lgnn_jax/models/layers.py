"""Layers on activations `(height, width, batch, channels)`: right on TPUs and GPUs, fast on CPUs.

A TPU's compiler lays memory out as it likes, whatever the order of the axes. On a CPU this order
makes all images' pixels at one place a single long row of memory; convolutions become matrix
products (see `lgnn_jax.models.winograd`), and shifts copy whole rows.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from lgnn_jax.models.winograd import multiplications, winograd, winograd_rows

_DIMENSION_NUMBERS = ("HWNC", "HWIO", "HWNC")


class Activation(NamedTuple):
    """What the first ReLU after a convolution reads and gives, `(batch, height, width, c_out)`."""

    pre: jax.Array
    post: jax.Array


def activation(pre: jax.Array) -> Activation:
    """Returns the activations of a ReLU that reads `pre`, `(height, width, batch, channels)`."""
    pre = pre.transpose(2, 0, 1, 3)
    return Activation(pre, nn.relu(pre))


def mean_activation(x: jax.Array, factor: jax.Array, summand: jax.Array) -> jax.Array:
    """Returns the mean of `normalize(x, factor, summand)` over pixels, float32 `(batch, channels)`.

    The mean comes first: what is normalised is one number for each image and channel.
    """
    return x.astype(jnp.float32).mean(axis=(0, 1)) * factor[None] + summand[None]


class Convolution(nn.Module):
    """Convolution of square windows with zeros around the image, `size // 2` on each side.

    Kernels start as He normal over the fan-out, biases as zero: torchvision's VGG and the Wide
    ResNet authors' code both do so.

    Attributes:
      features: channels of the output.
      size: side of the window, odd.
      stride: step along height and width.
      bias: whether there is one.
      dtype: compute type; parameters are float32.
    """

    features: int
    size: int
    stride: int = 1
    bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Returns the convolution of `(height, width, batch, channels)`, and the bias to be added.

        Batch normalisation adds the bias in passing.
        """
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", init, shape, jnp.float32)
        bias = None
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride), bias


class BatchNorm(nn.Module):
    """Batch normalisation as what it comes to for each channel: a factor and a summand.

    Momentum 0.9 and epsilon 1e-5, as section IV-A's networks. The running variance is the biased
    one, where PyTorch keeps the unbiased one. Parameters, statistics and their names are those of
    `flax.linen.BatchNorm`.

    A caller applies the result where it costs least: after pooling, say.

    Attributes:
      axis_name: device axis over which the statistics of the batch are averaged, if any.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, bias: jax.Array | None = None, *, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Returns `(factor, summand)`, float32 `(channels,)`, so that `normalize` can use them.

        Args:
          x: what is to be normalised, `(height, width, batch, channels)`.
          bias: `(channels,)`, to be added to `x` before. The statistics of a batch take it away
            again, so in training it changes nothing but the running mean.
          train: whether to use, and update, the statistics of this batch ("batch_stats" mutable).
        """
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        offset = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        bias = jnp.zeros(shape, jnp.float32) if bias is None else bias
        if train:
            x = x.astype(jnp.float32)
            moments = jnp.stack([x.mean((0, 1, 2)), lax.square(x).mean((0, 1, 2))])
            if self.axis_name is not None and not self.is_initializing():
                moments = lax.pmean(moments, self.axis_name)
            mean, variance = moments[0], jnp.maximum(moments[1] - lax.square(moments[0]), 0)
            if not self.is_initializing():
                running_mean.value = 0.9 * running_mean.value + 0.1 * (mean + bias)
                running_variance.value = 0.9 * running_variance.value + 0.1 * variance
        else:
            mean, variance = running_mean.value - bias, running_variance.value
        factor = scale * lax.rsqrt(variance + 1e-5)
        return factor, offset - mean * factor


def normalize(x: jax.Array, factor: jax.Array, summand: jax.Array) -> jax.Array:
    """Returns `factor * x + summand` by channel, computed in float32, of the dtype of `x`."""
    factor, summand = (jnp.reshape(y, (1, 1, 1, -1)) for y in (factor, summand))
    return (factor * x.astype(jnp.float32) + summand).astype(x.dtype)


def normalize_and_pool(x: jax.Array, factor: jax.Array, summand: jax.Array) -> jax.Array:
    """Returns `max_pool(normalize(x, factor, summand))` for a quarter of the work.

    Normalisation is monotonic, in float arithmetic too, so a window's largest result is that of its
    largest element; of its smallest where the factor is negative.
    """
    return normalize(_pool(x, factor < 0), factor, summand)


@jax.custom_vjp
def _pool(x: jax.Array, smallest: jax.Array) -> jax.Array:
    """The largest, or `smallest`, element of each 2x2 window, `(2 h, 2 w, ...)` to `(h, w, ...)`.

    An odd last row or column is dropped, as `flax.linen.max_pool` does with "VALID" padding. Where
    several elements of a window are equal, they share its gradient equally.
    """
    a, b, c, d = _quarters(x)
    largest = jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))
    least = jnp.minimum(jnp.minimum(a, b), jnp.minimum(c, d))
    return jnp.where(smallest.reshape(1, 1, 1, -1), least, largest)


def _pool_forward(x, smallest):
    y = _pool(x, smallest)
    return y, (x, y)


def _pool_backward(operands, gradient):
    # As broadcasts over a view by windows: XLA's gradient of strided slices takes three times as
    # long on a CPU, its select-and-scatter ten.
    x, y = operands
    gradient /= sum((quarter == y).astype(y.dtype) for quarter in _quarters(x))
    height, width = y.shape[:2]
    windows = x[: 2 * height, : 2 * width].reshape(height, 2, width, 2, *x.shape[2:])
    chosen = windows == y[:, None, :, None]
    gradient = jnp.where(chosen, gradient[:, None, :, None], 0)
    gradient = gradient.reshape(2 * height, 2 * width, *x.shape[2:])
    rest = [(0, side - 2 * half) for side, half in zip(x.shape[:2], y.shape[:2], strict=True)]
    return jnp.pad(gradient, [*rest, (0, 0), (0, 0)]), None


_pool.defvjp(_pool_forward, _pool_backward)


def _quarters(x):
    height, width = (side // 2 * 2 for side in x.shape[:2])
    return [x[i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]


def dropout(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """Sets elements to zero with probability `rate`, and scales the others to keep the mean.

    The rate is taken to the nearest 1/256: eight random bits an element instead of 32 take a third
    of the time on a CPU, where 32 are a tenth of a training step of WRN-16-8.
    """
    threshold = min(round(256 * rate), 255)
    words = jax.random.bits(key, (*x.shape[:-1], -(-x.shape[-1] // 4)), jnp.uint32)
    eighths = [(words >> jnp.uint32(shift)) & jnp.uint32(255) for shift in (0, 8, 16, 24)]
    kept = jnp.concatenate(eighths, axis=-1)[..., : x.shape[-1]] >= jnp.uint32(threshold)
    return jnp.where(kept, x * (256 / (256 - threshold)), jnp.zeros_like(x))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves images with zeros around them, `size // 2` on each side.

    `jax.lax`'s convolution, except where matrix products are faster: in programs compiled for
    CPUs, and for GPUs on images smaller than the window. Values and gradients agree to the rounding
    of the compute type.

    Args:
      x: `(height, width, batch, c_in)`.
      kernel: `(size, size, c_in, c_out)`, size odd, of the dtype of `x`.
      stride: step along height and width.

    Returns:
      `(ceil(height / stride), ceil(width / stride), batch, c_out)`.
    """
    forms = {platform: partial(form, stride=stride) for platform, form in _CONVOLUTIONS.items()}
    return lax.platform_dependent(x, kernel, **forms)


def _convolve_forward(x, kernel, stride):
    # Nothing but the operands is kept. Transformed tiles are larger, and cheap to make again; XLA
    # decides whether to, where both passes are in one program.
    return convolve(x, kernel, stride), (x, kernel)


def _convolve_backward(stride, operands, gradient):
    def pull_back(form):
        form = partial(form, stride=stride)
        return lambda x, kernel, gradient: jax.vjp(form, x, kernel)[1](gradient)

    forms = {platform: pull_back(form) for platform, form in _CONVOLUTIONS.items()}
    return lax.platform_dependent(*operands, gradient, **forms)


convolve.defvjp(_convolve_forward, _convolve_backward)


def _lax_convolve(x, kernel, *, stride):
    padding = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=_DIMENSION_NUMBERS,
    )


def _gpu_convolve(x, kernel, *, stride):
    """XLA's convolution, or one product, where XLA would swap images and kernel.

    It does so where the window is larger than the image, as in the last block of a VGG on 32x32
    pixels. Then it copies and transposes the weights in every step: compiled for an H100, those of
    two layers were 90 of the 834 MB that a step of VGG-11 in bfloat16 reads and writes
    (`python benchmarks/h100.py`).
    """
    size, _, c_in, c_out = kernel.shape
    if min(x.shape[:2]) >= size:
        return _lax_convolve(x, kernel, stride=stride)
    windows = _windows(x.transpose(1, 0, 2, 3), size, stride)  # rows before columns, as in a kernel
    y = jnp.tensordot(windows, kernel.reshape(size * size * c_in, c_out), axes=1)
    return y.transpose(1, 0, 2, 3)


def _cpu_convolve(x, kernel, *, stride):
    """Whichever form has the fewest multiplications; Winograd's in float32 alone, for rounding."""
    height, width, _, c_in = x.shape
    forms = {partial(_patches, stride=stride): 9 * c_in}
    if kernel.shape[0] == 3 and stride == 1 and x.dtype == jnp.float32:
        counts = multiplications(height, width, c_in, kernel.shape[-1])
        forms |= dict(zip((winograd, winograd_rows), counts, strict=True))
    return min(forms, key=forms.get)(x, kernel)


def _patches(x, kernel, *, stride):
    """Convolution as one matrix product with the window of every output pixel."""
    size, _, c_in, c_out = kernel.shape
    windows = _windows(x, size, stride)
    # With the kernel this way round its gradient, as a product, takes 0.6 of the time.
    product = jnp.einsum(
        "pk,ok->po",
        windows.reshape(-1, size * size * c_in),
        kernel.transpose(3, 1, 0, 2).reshape(c_out, -1),
        preferred_element_type=x.dtype if jnp.finfo(x.dtype).bits >= 32 else jnp.float32,
    )
    return product.astype(x.dtype).reshape(*windows.shape[:3], c_out)


def _windows(x, size, stride):
    """The window of every output pixel, `(height, width, batch, columns * rows * c_in)`."""
    padding = size // 2
    x = jnp.pad(x, [(padding, padding)] * 2 + [(0, 0)] * 2)
    height, width = ((side - size) // stride + 1 for side in x.shape[:2])
    # Rows first, then columns: fewer, longer pieces to put together.
    x = jnp.concatenate([x[i : i + (height - 1) * stride + 1 : stride] for i in range(size)], -1)
    columns = [x[:, j : j + (width - 1) * stride + 1 : stride] for j in range(size)]
    return jnp.concatenate(columns, -1)


# By the platform that a program is compiled for. TPUs take XLA's everywhere.
_CONVOLUTIONS = {
    "cpu": _cpu_convolve,
    "cuda": _gpu_convolve,
    "rocm": _gpu_convolve,
    "default": _lax_convolve,
}
