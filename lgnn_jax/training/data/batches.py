"""Batches of images: their order by (seed, epoch), statistics, augmentation on the device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Returns the order of `count` images in an epoch: int32 `(count,)`, a function of its
    arguments.

    Example:
      >>> sorted(order(0, 1, 5).tolist())
      [0, 1, 2, 3, 4]
    """
    return np.random.default_rng((seed, epoch)).permutation(count).astype(np.int32)


def statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of uint8 images by channel: float32 `(channels,)` each.

    Exact, from counts of the 256 values. The deviation of a constant channel is given as 1.
    """
    channels = np.moveaxis(images, -1, 0).reshape(images.shape[-1], -1)
    counts = np.stack([_histogram(channel) for channel in channels])
    values = np.arange(256)
    mean = counts @ values / channels.shape[1]
    variance = counts @ values**2 / channels.shape[1] - mean**2
    deviation = np.where(variance > 0, np.sqrt(np.maximum(variance, 0)), 1.0)
    return mean.astype(np.float32), deviation.astype(np.float32)


def _histogram(values: np.ndarray) -> np.ndarray:
    # In parts: bincount makes int64 of its argument, eight times the size of CIFAR.
    parts = np.array_split(values, max(1, values.size // 2**22))
    return sum(np.bincount(part, minlength=256) for part in parts)


class Crops(NamedTuple):
    """What happens to each image of a batch."""

    corners: jax.Array  # shape=(batch, 2), dtype=int32: row and column in the padded image
    mirrored: jax.Array  # shape=(batch,), dtype=bool


def draw_crops(key: jax.Array, positions: jax.Array, *, pad: int, flip: bool) -> Crops:
    """Draws what happens to each image.

    Args:
      key: of a step.
      positions: int32 `(batch,)`: each image's place in the whole batch. What happens to an image
        depends on `key` and its place alone, so not on how many devices share the batch.
      pad: pixels of padding on each side.
      flip: whether an image is mirrored left to right with probability 1/2.
    """

    def one(position):
        key_crop, key_flip = jax.random.split(jax.random.fold_in(key, position))
        corner = jax.random.randint(key_crop, (2,), 0, 2 * pad + 1)
        return Crops(corner, flip & jax.random.bernoulli(key_flip))

    return jax.vmap(one)(positions)


def augment(images: jax.Array, crops: Crops, *, pad: int) -> jax.Array:
    """Crops each image from its reflection-padded self, and mirrors some.

    Args:
      images: `(batch, height, width, channels)`, any dtype.
      crops: see `draw_crops`.
      pad: reflected pixels on each side, less than height and width; 0 for no crop.

    Returns:
      Images of the same shape and dtype.

    Reference:
      Zagoruyko and Komodakis, "Wide Residual Networks", 2016, section 3: reflected padding of 4
      pixels and horizontal flips.
    """
    height, width, channels = images.shape[1:]
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")

    def one(image, crop):
        row, column = crop.corners
        image = jax.lax.dynamic_slice(image, (row, column, 0), (height, width, channels))
        return jnp.where(crop.mirrored, image[:, ::-1], image)

    return jax.vmap(one)(padded, crops)


def standardize(images: jax.Array, mean: jax.Array, deviation: jax.Array) -> jax.Array:
    """Returns `(images - mean) / deviation` as float32, by channel."""
    mean, deviation = (jnp.reshape(x, (1, 1, 1, -1)) for x in (mean, deviation))
    return (images.astype(jnp.float32) - mean) / deviation
