"""Feature visualisation: for each neuron of a layer, an image that it answers to strongly.

What Lucid is for TensorFlow 1: gradient ascent on images made of waves, seen a little differently
in each step (see `fourier_images`). Section II-B of the paper describes the method; its figures 2
and 3 show what the layers of a map look like by it.

64 channels of the last layer of VGG-11 with 100 classes, random weights, 32x32 images, all by
default: 128 steps took 24 and 32 s in two runs on two x86-64 cores that other jobs used as well, 4
and 5 of them before the end of the first step; memory at its highest 1.1 GB.

In layers that are linear in the image, the first of a network, the mean over space sees little but
the mean colour: look at their kernels instead.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lgnn_jax.analysis.fourier_images import (
    initial_coefficients,
    margins,
    random_views,
    to_images,
    warp,
)


@dataclass(frozen=True)
class Visualization:
    """An image for each of some channels.

    Attributes:
      channels: int `(channels,)`, their numbers in the layer.
      images: float32 `(channels, height, width, colours)` in [0, 1].
      activations: float32 `(channels,)`: of each channel on its image as it is, neither shifted
        nor turned nor scaled; the mean over space.
      course: float32 `(steps, channels)`: the same as the mean over the views of each step, before
        the step changed the image.
    """

    channels: np.ndarray
    images: np.ndarray
    activations: np.ndarray
    course: np.ndarray


@dataclass(frozen=True)
class Exceeding:
    """Which channels answer more strongly to their visualisation than to any of some images.

    Attributes:
      fraction: of the channels, in [0, 1].
      by_channel: bool `(channels,)`, in the order of the visualisation.
    """

    fraction: float
    by_channel: np.ndarray


def visualize(
    apply: Callable[[jax.Array], jax.Array],
    channels: Sequence[int],
    *,
    image_shape: tuple[int, int, int],
    steps: int = 128,
    views: int = 1,
    chunk: int = 64,
    learning_rate: float = 0.05,
    jitter: float = 0.1,
    rotation: float = 10.0,
    scale: float = 0.1,
    decorrelate: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Visualization:
    """Finds for each channel an image that it answers strongly to, by gradient ascent with Adam.

    The objective of channel k is the mean of activation k over views and space. All images of a
    chunk are in one batch: a step costs one pass of the network, forward and back, however many
    channels there are. Nothing after the layer is computed.

    Args:
      apply: images float32 `(batch, height, width, colours)` in [0, 1] to activations
        `(batch, ..., channels)` with any number of axes for space, before the ReLU: behind it the
        gradient of a silent channel is zero. Traced by JAX. What it gives for one image must not
        depend on the others, so batch normalisation is to use its running statistics.
      channels: numbers of channels, at least one, in any order.
      image_shape: `(height, width, colours)` of the images that `apply` takes.
      steps: of Adam, at least 1. More of them, 512, make stronger answers and garish images.
      views: how many transformed copies of an image each step sees, at least 1. Two cost twice as
        much and look much like one.
      chunk: how many images are optimised together, at least 1. Memory is that of a training
        step, without the weights' gradients, on a batch of `chunk * views`.
      learning_rate: of Adam, positive.
      jitter: a view is shifted along each axis by up to this share of the image's shorter side, in
        [0, 1]. All channels share the views of a step.
      rotation: a view is turned by up to so many degrees either way, in [0, 90].
      scale: a view shows up to this share more or less of the image, in [0, 1).
      decorrelate: whether three colours are mixed from uncorrelated ones, see `COLOURS`. Images
        with another number of colours are optimised colour by colour.
      seed: of the initial images and the transformations. An image depends on the seed and its
        channel's number; but for rounding neither on the other channels nor on `chunk`.
      progress: called after each step with the steps done so far and all there are, counting those
        of each chunk.

    Raises:
      ValueError: for an argument out of its range, a channel that there is not, activations of the
        wrong shape, or activations that are not finite.

    Reference:
      Sections II-B and IV-C of the paper: Lucid with 32x32 images, Fourier parameters and
      decorrelated colours.

    Example:
      Neurons that compare each colour with the mean of all three: channel 0 is for red.

      >>> def apply(images):
      ...     return images - images.mean(axis=-1, keepdims=True)
      >>> found = visualize(apply, [0], image_shape=(8, 8, 3), steps=64)
      >>> [round(float(colour), 1) for colour in found.images[0].mean(axis=(0, 1))]
      [0.6, 0.3, 0.3]

      For a layer of a network of this library, trained on images of that mean and deviation:

          def apply(images):
              x = data.standardize(255 * images, mean, deviation)
              return model.apply(variables, x, activations=True)[1]["conv5_2"].pre
    """
    numbers = np.asarray(channels)
    valid = numbers.ndim == 1 and numbers.size and np.issubdtype(numbers.dtype, np.integer)
    _require(valid, "channels", "one or more whole numbers", channels)
    for name, value in (("steps", steps), ("views", views), ("chunk", chunk)):
        _require(value >= 1, name, "at least 1", value)
    _require(0 < learning_rate < math.inf, "learning_rate", "positive and finite", learning_rate)
    _require(0 <= jitter <= 1, "jitter", "in [0, 1], a share of the image's side", jitter)
    _require(0 <= rotation <= 90, "rotation", "in [0, 90] degrees", rotation)
    _require(0 <= scale < 1, "scale", "in [0, 1)", scale)
    valid = len(image_shape) == 3 and all(side >= 1 for side in image_shape)
    _require(valid, "image_shape", "(height, width, colours), each at least 1", image_shape)
    chunk = min(chunk, len(numbers))
    climbing = _traced(apply, (chunk * views, *image_shape))
    count = climbing.channels
    for number in numbers[(numbers < 0) | (numbers >= count)]:
        raise ValueError(f"channels: there is no channel {number}, only 0 to {count - 1}.")
    final, arrays = _traced(apply, (chunk, *image_shape)), climbing.arrays

    bounds = {"jitter": jitter * min(image_shape[:2]), "rotation": rotation, "scale": scale}
    begin, climb, finish = _programs(
        (climbing.call, final.call),
        image_shape,
        views,
        bounds,
        decorrelate,
        optax.adam(learning_rate),
        seed,
    )
    starts = range(0, len(numbers), chunk)
    parts = []
    for start in starts:
        # A last chunk is filled up with its last channel, so that one program serves all.
        members = numbers[start : start + chunk].astype(np.int32)
        members = np.pad(members, (0, chunk - len(members)), mode="edge")
        state = begin(members)
        course = []
        for step in range(steps):
            state, found = climb(state, arrays, members, step)
            # Read one step late, so that the device does not wait for it.
            course[-1:] = [_finite(last, members, step - 1) for last in course[-1:]]
            course.append(found)
            if progress is not None:
                progress(len(parts) * steps + step + 1, len(starts) * steps)
        course[-1] = _finite(course[-1], members, steps - 1)
        images, found = finish(state, arrays, members)
        parts.append((np.asarray(images), _finite(found, members, steps), np.stack(course, 1)))
    joined = [np.concatenate(arrays)[: len(numbers)] for arrays in zip(*parts, strict=True)]
    images, activations, course = joined
    return Visualization(numbers, images, activations, course.T)


def _programs(
    calls: tuple[Callable, Callable],
    image_shape: tuple[int, int, int],
    views: int,
    bounds: dict[str, float],
    decorrelate: bool,
    tx: optax.GradientTransformation,
    seed: int,
) -> tuple[Callable, Callable, Callable]:
    """Compiled, for a chunk of channels: its initial state, a step, and what came of it.

    `calls` are the network on all views of the chunk's images, and on the images themselves.
    """
    size, colours = tuple(image_shape[:2]), image_shape[2]
    above, beside = margins(size, **bounds)
    canvas = (size[0] + 2 * above, size[1] + 2 * beside)
    key_images, key_views = jax.random.split(jax.random.key(seed))

    def answers(call, arrays, images, numbers):
        """Activation of each channel on its images `(views, height, width, channels, colours)`."""
        batch = images.transpose(0, 3, 1, 2, 4).reshape(-1, *image_shape)
        found = _over_space(call(arrays, batch))
        found = found.reshape(len(images), len(numbers), -1).mean(axis=0)
        return jnp.take_along_axis(found, numbers[:, None], axis=1)[:, 0]

    @jax.jit
    def begin(numbers):
        keys = jax.vmap(partial(jax.random.fold_in, key_images))(numbers)
        coefficients = jax.vmap(lambda key: initial_coefficients(key, canvas, colours))(keys)
        return coefficients, tx.init(coefficients)

    # A program for a step, called again and again. With all steps in one program (lax.scan) this
    # library's networks take as long on a CPU, but those with XLA's convolutions four times as
    # long, in other cases 20 to 50 times.
    @jax.jit
    def climb(state, arrays, numbers, step):
        coefficients, opt_state = state
        maps = random_views(jax.random.fold_in(key_views, step), views, **bounds)

        def loss(coefficients):
            images = to_images(coefficients, canvas, decorrelate=decorrelate)
            found = answers(calls[0], arrays, warp(images, maps, size), numbers)
            # As images do not depend on each other, the gradient of the sum is that of each.
            return -found.sum(), found

        gradient, found = jax.grad(loss, has_aux=True)(coefficients)
        updates, opt_state = tx.update(gradient, opt_state)
        return (optax.apply_updates(coefficients, updates), opt_state), found

    @jax.jit
    def finish(state, arrays, numbers):
        images = to_images(state[0], canvas, decorrelate=decorrelate)
        images = images[above:, beside:][: size[0], : size[1]]
        return images.transpose(2, 0, 1, 3), answers(calls[1], arrays, images[None], numbers)

    return begin, climb, finish


def mean_activations(
    apply: Callable[[jax.Array], jax.Array], images: np.ndarray, *, batch: int = 100
) -> np.ndarray:
    """Returns the activation of each channel on each image, as the mean over space.

    Args:
      apply: as for `visualize`.
      images: `(n, height, width, colours)`, n >= 1: numbers in [0, 1], or uint8.
      batch: how many images are computed together, at least 1.

    Returns:
      float32 `(n, channels)`.

    Raises:
      ValueError: for an argument out of its range, or activations of the wrong shape.

    Example:
      >>> white = np.full((2, 8, 8, 3), 255, np.uint8)
      >>> mean_activations(lambda images: images, white).tolist()
      [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    _require(batch >= 1, "batch", "at least 1", batch)
    shape = np.shape(images)
    valid = len(shape) == 4 and min(shape) >= 1
    _require(valid, "images", "(n, height, width, colours), n >= 1", f"shape {shape}")
    batch = min(batch, len(images))
    network = _traced(apply, (batch, *shape[1:]))
    top = 255 if images.dtype == np.uint8 else 1

    @jax.jit
    def means(arrays, x):
        return _over_space(network.call(arrays, x.astype(jnp.float32) / top))

    found = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        fill = [(0, batch - len(part)), (0, 0), (0, 0), (0, 0)]
        found.append(np.asarray(means(network.arrays, np.pad(part, fill)))[: len(part)])
    return np.concatenate(found)


def exceeds_best(visualization: Visualization, activations: np.ndarray) -> Exceeding:
    """Tells for which channels the visualisation beats the best of some images.

    The least to ask of a visualisation: an image that was made for a channel should excite it more
    than any image that happens to be in a test set.

    Args:
      visualization: of some channels.
      activations: `(n, all channels)` of n >= 1 images, see `mean_activations`.

    Raises:
      ValueError: if `activations` are of the wrong shape or not finite.

    Example:
      >>> tested = mean_activations(lambda images: images, np.full((1, 8, 8, 1), 0.75))
      >>> made = visualize(lambda images: images, [0], image_shape=(8, 8, 1), steps=64)
      >>> exceeds_best(made, tested).fraction
      1.0
    """
    tested = np.asarray(activations)
    least = int(visualization.channels.max()) + 1
    valid = tested.ndim == 2 and len(tested) >= 1 and tested.shape[1] >= least
    right = f"(n, channels) with n >= 1 and at least {least} channels"
    _require(valid, "activations", right, f"shape {tested.shape}")
    _require(np.isfinite(tested).all(), "activations", "finite", "NaN or infinity")
    exceeding = visualization.activations > tested[:, visualization.channels].max(axis=0)
    return Exceeding(float(exceeding.mean()), exceeding)


def _require(valid: bool, name: str, right: str, value) -> None:
    if not valid:
        raise ValueError(f"{name} must be {right}, got {value}.")


def _finite(activations, numbers: np.ndarray, step: int) -> np.ndarray:
    activations = np.asarray(activations)
    for number, value in zip(numbers, activations, strict=True):
        if not np.isfinite(value):
            raise ValueError(
                f"activation of channel {number} is {value} after {step} steps: either apply is "
                "not finite, or learning_rate is too large."
            )
    return activations


class _Traced(NamedTuple):
    """A network apart from its weights."""

    call: Callable[[list[jax.Array], jax.Array], jax.Array]  # of `arrays` and images
    arrays: list[jax.Array]
    channels: int


def _traced(apply: Callable[[jax.Array], jax.Array], shape: tuple[int, ...]) -> _Traced:
    """Traces `apply` for images of a shape; the arrays that it closes over become arguments.

    As constants XLA would fold them, which takes its time; and on CPUs it sums a product with a
    constant matrix of equal values, a dead layer, to garbage: `jit(lambda x: (x @ zeros).sum(0))`,
    of jax 0.10.2, is not zero.
    """
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    jaxpr, found = jax.make_jaxpr(apply, return_shape=True)(image)
    valid = isinstance(found, jax.ShapeDtypeStruct) and found.ndim >= 2
    if not valid or found.shape[0] != shape[0]:
        what = jax.tree.map(lambda leaf: leaf.shape, found)
        raise ValueError(
            f"apply must return one array ({shape[0]}, ..., channels) for images {shape}, "
            f"got {what}."
        )

    def call(arrays, images):
        return jax.core.eval_jaxpr(jaxpr.jaxpr, arrays, images)[0]

    return _Traced(call, [jnp.asarray(array) for array in jaxpr.consts], found.shape[-1])


def _over_space(activations: jax.Array) -> jax.Array:
    """Mean over all axes but the first and the last, float32 `(batch, channels)`."""
    axes = tuple(range(1, activations.ndim - 1))
    return activations.astype(jnp.float32).mean(axis=axes)
