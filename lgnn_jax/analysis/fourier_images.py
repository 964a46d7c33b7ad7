"""Images made to be optimised: sums of waves, seen from where an eye would not mind to look.

Gradient ascent on pixels finds noise that a network happens to answer to. Images of photographs'
statistics, seen shifted, turned and scaled, leave it what its neurons stand for:

- amplitudes of waves fall as 1 / frequency;
- three colours are mixtures of uncorrelated ones, with the covariance of photographs;
- views are affine maps, and see nothing beyond the image's edge where `margins` made room.

Reference: Olah, Mordvintsev and Schubert, "Feature Visualization", Distill, 2017, and its code,
Lucid, whose constants these are.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# A root of the colours' covariance: a row for each of red, green and blue, a column for each
# uncorrelated colour. They are, roughly, light against dark, red against blue, and green.
_ROOT = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
COLOURS = _ROOT / np.linalg.norm(_ROOT, axis=0).max()


def initial_coefficients(key: jax.Array, size: tuple[int, int], colours: int) -> jax.Array:
    """Returns the coefficients of a nearly grey image, for `to_images`.

    Args:
      key: of the image.
      size: `(height, width)`.
      colours: of the image, at least 1.

    Returns:
      float32 `(real and imaginary, colours, height, width // 2 + 1)`, normal, deviation 0.01.
    """
    return 0.01 * jax.random.normal(key, (2, colours, size[0], size[1] // 2 + 1), jnp.float32)


def to_images(coefficients: jax.Array, size: tuple[int, int], *, decorrelate: bool) -> jax.Array:
    """Returns the images of some coefficients.

    Args:
      coefficients: `(n, 2, colours, height, width // 2 + 1)`, those of a real Fourier transform,
        in units that make steps of one size fit all frequencies.
      size: `(height, width)`, odd or even.
      decorrelate: whether three colours are uncorrelated ones, to be mixed by `COLOURS`.

    Returns:
      float32 `(height, width, n, colours)` in [0, 1].
    """
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None])
    amplitude = math.sqrt(math.prod(size)) / np.maximum(frequency, 1 / max(size)) / 4
    waves = coefficients * amplitude.astype(np.float32)[None, None, None]
    images = jnp.fft.irfft2(lax.complex(waves[:, 0], waves[:, 1]), s=size).transpose(2, 3, 0, 1)
    if decorrelate and images.shape[-1] == 3:
        colours = COLOURS.astype(np.float32)
        images = jnp.einsum("yxnu,cu->yxnc", images, colours, precision="highest")
    return jax.nn.sigmoid(images)


def margins(
    size: tuple[int, int], *, jitter: float, rotation: float, scale: float
) -> tuple[int, int]:
    """Returns how many pixels `random_views` may see above and below, left and right of an image.

    Example:
      >>> margins((32, 32), jitter=2, rotation=5, scale=0.05)
      (5, 5)
    """

    def margin(along, across):
        angle = min(math.radians(rotation), math.atan2(across, along))
        reach = (1 + scale) * (along * math.cos(angle) + across * math.sin(angle)) + jitter
        return math.ceil(reach - along - 1e-6)

    y, x = ((side - 1) / 2 for side in size)
    return margin(y, x), margin(x, y)


def random_views(
    key: jax.Array, count: int, *, jitter: float, rotation: float, scale: float
) -> jax.Array:
    """Draws affine maps for `warp`, each of its parameters uniformly.

    Args:
      key: of the draw.
      count: how many.
      jitter: largest shift along each axis, in pixels.
      rotation: largest angle, in degrees, either way.
      scale: largest relative change of size, either way.

    Returns:
      float32 `(count, 2, 3)`: linear map and shift, from pixels of a view to those of an image,
      (row, column), both counted from their centres.
    """
    draws = jax.random.uniform(key, (count, 4), minval=-1, maxval=1)
    angle, zoom = math.radians(rotation) * draws[:, 0], 1 + scale * draws[:, 1]
    cosine, sine = zoom * jnp.cos(angle), zoom * jnp.sin(angle)
    linear = jnp.stack([cosine, -sine, sine, cosine], axis=1).reshape(count, 2, 2)
    return jnp.concatenate([linear, jitter * draws[:, 2:, None]], axis=2)


def warp(images: jax.Array, views: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns views of images, by bilinear interpolation.

    Args:
      images: `(height, width, n, colours)`. All have the same views: what is gathered, and what is
        added up in the gradient, are rows of memory then, 3 ms forward and back on two cores for 4
        views of 64 images of 42x42 pixels, where a product with the views' matrix takes 41.
      views: `(count, 2, 3)`, see `random_views`.
      size: `(height, width)` of the views.

    Returns:
      `(count, *size, n, colours)`. Beyond its edge an image goes on as its nearest pixel.

    Example:
      >>> ramp = jnp.arange(12.0).reshape(3, 4, 1, 1)
      >>> down = jnp.array([[[1.0, 0, 1], [0, 1, 0]]])
      >>> warp(ramp, down, (1, 4)).ravel().tolist()
      [8.0, 9.0, 10.0, 11.0]
    """
    height, width, *rest = images.shape
    here = np.indices(size) - np.reshape(np.array(size) - 1, (2, 1, 1)) / 2
    here = np.concatenate([here, np.ones((1, *size))]).astype(np.float32)
    centre = np.reshape([height - 1, width - 1], (1, 2, 1, 1)).astype(np.float32) / 2
    there = jnp.einsum("vij,jyx->viyx", views, here, precision="highest") + centre
    corner = jnp.floor(there)
    share = there - corner
    pixels = images.reshape(height * width, -1)
    warped = 0.0
    for down, right in np.ndindex(2, 2):
        row = jnp.clip(corner[:, 0].astype(jnp.int32) + down, 0, height - 1)
        column = jnp.clip(corner[:, 1].astype(jnp.int32) + right, 0, width - 1)
        weight = abs(1 - down - share[:, 0]) * abs(1 - right - share[:, 1])
        warped += weight[..., None] * pixels[row * width + column]
    return warped.reshape(len(views), *size, *rest)
