"""What the neurons of a network answer to images: one number for each image and neuron."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lgnn_jax.maps.parameters import neuron_axes
from lgnn_jax.maps.table import SomTable, layer_maps
from lgnn_jax.maps.windows import one_line
from lgnn_jax.maps.words import did_you_mean
from lgnn_jax.models.network import Network, at_path, in_order


def activations(
    network: Network,
    images: Any,
    params: Any,
    state: Any = None,
    *,
    layers: Sequence[str] | None = None,
    reduce: Callable[..., jax.Array] = jnp.mean,
    batch_size: int = 100,
    table: SomTable | None = None,
) -> dict[str, np.ndarray]:
    """Returns the activations of a network's neurons, one number for each image and neuron.

    A neuron of a convolution gives a number for each pixel, one of a transformer for each token;
    `reduce` makes one number of them. A neuron is an index along an axis of the layer's kernel: the
    last one, or the first one where `network.neuron_axis` is 0. The query, key and value of an
    attention layer, with kernels `(inputs, heads, size)`, have `heads * size` neurons, in the order
    of these axes. A table may say otherwise.

    Args:
      network: `LinenNetwork`, `NnxNetwork`, `EquinoxNetwork` of `lgnn_jax.models`, or another
        `Network`. A program is compiled for it and `reduce`, and kept: pass the same objects
        again to use it again.
      images: `(n, height, width, channels)`, n >= 1, floating-point or integers, on the scale on
        which the network takes them; or an iterable of such batches of any length, which is read
        batch by batch.
      params: of the network, as its `init` returns them.
      state: of the network; may be left out where it has none.
      layers: names of layers. If None, all that the network gives activations of, in its order,
        but for outputs that do not count the neurons of a kernel.
      reduce: called as `reduce(x, axis=axes)` with float32 `(batch, ..., neurons)` and the axes of
        pixels or tokens, where there are any: `jnp.mean`, `jnp.max` or a function of one's own
        that JAX can trace.
      batch_size: how many images are computed together, at least 1.
      table: as for `lgnn_jax.transform`. Where a `LayerMap` of it names the axes of a kernel that
        count its neurons, the heads alone, say, `reduce` goes over the others as well.

    Returns:
      float32 `(n, neurons)` by layer.

    Raises:
      ValueError: if there are no images, their shapes are not as above, a layer is unknown or has
        no activations, `reduce` does not give `(batch, neurons)`, the state is missing, the table
        does not fit, or an activation is not finite.

    Example:
      >>> import flax.linen as nn
      >>> from lgnn_jax.models.linen import LinenNetwork
      >>> network = LinenNetwork(nn.Sequential((nn.Conv(16, (3, 3)), lambda x: x.mean((1, 2)))))
      >>> params, state = network.init(jax.random.key(0), (8, 8, 3))
      >>> images = np.zeros((5, 8, 8, 3), np.uint8)
      >>> for layer, values in activations(network, images, params).items():
      ...     print(layer, values.shape)
      layers_0 (5, 16)
    """
    if not (hasattr(network, "apply") and hasattr(network, "layers") and hasattr(network, "init")):
        raise ValueError(
            f"network must be a Network, got {type(network).__name__}: wrap a module, as in "
            "lgnn_jax.models.linen.LinenNetwork(module)."
        )
    if not callable(reduce):
        raise ValueError(f"reduce must be a function such as jnp.mean, got {one_line(reduce):.80}.")
    if isinstance(layers, str):
        raise ValueError(f"layers must be a sequence of names, got {layers!r}: write [{layers!r}].")
    if layers is not None and not len(layers):
        raise ValueError("layers must name at least one layer; None means all of them.")
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number, at least 1, got {batch_size!r:.80}.")
    chunks = _chunks(images, batch_size)
    first = next(chunks, None)
    if first is None:
        raise ValueError("images are empty: give at least one.")
    state = _complete(network, params, state, first)
    counted = _counted(network, params, state, first, layers, table)
    found = {layer: [] for layer, _ in counted}
    for chunk in itertools.chain([first], chunks):
        fill = [(0, len(first) - len(chunk)), (0, 0), (0, 0), (0, 0)]
        filled = np.pad(chunk, fill) if len(chunk) < len(first) else chunk
        values = _program(network, counted, reduce, params, state, filled)
        for layer, parts in found.items():
            parts.append(np.asarray(values[layer])[: len(chunk)])
    joined = {layer: np.concatenate(parts) for layer, parts in found.items()}
    for layer, values in joined.items():
        if not np.isfinite(values).all():
            image, neuron = np.argwhere(~np.isfinite(values))[0]
            raise ValueError(
                f"the activations of {layer} are not finite: that of neuron {neuron} on image "
                f"{image} is {values[image, neuron]}."
            )
    return joined


def _chunks(images: Any, size: int) -> Iterator[np.ndarray]:
    """So many images at a time, fewer at the end, whatever the batches in which they come."""
    batches = [images] if hasattr(images, "shape") else images
    if isinstance(batches, (str, bytes, Mapping)) or not isinstance(batches, Iterable):
        raise ValueError(
            "images must be an array (n, height, width, channels) or an iterable of such batches, "
            f"got {type(images).__name__}."
        )
    rest = None
    for batch in batches:
        batch = _batch(batch)
        if rest is not None:
            if batch.shape[1:] != rest.shape[1:]:
                raise ValueError(
                    f"all images must be of one shape, got {rest.shape[1:]} and {batch.shape[1:]}."
                )
            batch = np.concatenate([rest, batch])
        whole = len(batch) // size * size
        for start in range(0, whole, size):
            yield batch[start : start + size]
        rest = batch[whole:]
    if rest is not None and len(rest):
        yield rest


def _batch(batch: Any) -> np.ndarray:
    """A batch of images, as numbers that a network takes."""
    if not hasattr(batch, "shape"):
        raise ValueError(
            "each batch of images must be an array (n, height, width, channels), without labels, "
            f"got {type(batch).__name__}."
        )
    batch = np.asarray(batch)
    if batch.ndim != 4:
        raise ValueError(
            f"images must be (n, height, width, channels), got shape {batch.shape}"
            + (": a single image goes in as image[None]." if batch.ndim == 3 else ".")
        )
    if not (jnp.issubdtype(batch.dtype, jnp.floating) or batch.dtype.kind in "iub"):
        raise ValueError(f"images must be floating-point or integers, got {batch.dtype}.")
    return batch


def _complete(network: Network, params: Any, state: Any, images: np.ndarray) -> Any:
    """The state; `{}` where none is given and the network needs none."""
    if jax.tree.leaves(state):
        return state
    _, empty = jax.eval_shape(lambda key: network.init(key, images.shape[1:]), jax.random.key(0))
    if jax.tree.leaves(empty):
        raise ValueError(
            "state must be given: this network has one, such as running statistics, that its init "
            "returns beside the parameters."
        )
    return empty


def _unknown(layer: Any, known: list[str], having: list[str]) -> str:
    """What is wrong with a layer that there are no activations of."""
    if layer in known:
        return (
            f"the network gives no activations of {layer}: its module has several kernels, is not "
            "called, or is called within jax.jit or a loop, where its values are out of sight."
        )
    if not having:
        return f"the network gives no activations of {layer!r}, nor of any other layer."
    return f"no layer {layer!r}{did_you_mean(str(layer), having)} There are {', '.join(having)}."


def _counted(
    network: Network,
    params: Any,
    state: Any,
    images: np.ndarray,
    layers: Sequence[str] | None,
    table: SomTable | None,
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The layers to look at, each with the axes of its output that count its neurons."""
    paths = network.layers(images.shape[1:])
    maps = {}
    if table is not None:
        maps = layer_maps(params, table, neuron_axis=network.neuron_axis)
    apply = partial(network.apply, activations=True)
    x = jax.ShapeDtypeStruct(images.shape, jnp.float32)
    outputs = in_order(jax.eval_shape(apply, params, state, x).activations, list(paths))
    found = []
    for layer in outputs if layers is None else dict.fromkeys(layers):
        if layer not in outputs:
            raise ValueError(_unknown(layer, list(paths), list(outputs)))
        output, axes = outputs[layer].shape, (-1,)
        if layer in paths:
            kernel = at_path(params, paths[layer]).shape
            given = maps.get(paths[layer])
            if given is None:
                axes = neuron_axes(paths[layer], kernel, network.neuron_axis)
            else:
                axes = given.axes(kernel)
            axes = _of_output(axes, kernel, output, network.neuron_axis)
        if axes is not None and len(output) >= 2 and output[0] == len(images):
            found.append((layer, axes))
        elif layers is not None:
            of = f" of kernel {kernel}" if layer in paths else ""
            raise ValueError(
                f"the output of {layer}, of shape {output} for {len(images)} images, does not "
                f"count the neurons{of}."
            )
    return tuple(found)


def _of_output(
    axes: tuple[int, ...], kernel: tuple[int, ...], output: tuple[int, ...], neuron_axis: int
) -> tuple[int, ...] | None:
    """The axes of an output, from its end, that count what axes of the kernel count; if it does.

    An output ends in the axes in which the kernel does: those of `(inputs, heads, size)` are heads
    and size. Where kernels count neurons first, outputs count them last.
    """
    if axes == (0,) and neuron_axis % len(kernel) == 0:
        return (-1,) if output[-1:] == kernel[:1] else None
    first = min(axes)
    fits = output[1:][first - len(kernel) :] == kernel[first:]
    return tuple(axis - len(kernel) for axis in axes) if fits else None


@partial(jax.jit, static_argnums=(0, 1, 2))
def _program(network, counted, reduce, params, state, images):
    """The activations of a batch, by layer."""
    x = images.astype(jnp.float32)
    named = network.apply(params, state, x, activations=True).activations
    return {layer: _by_neuron(layer, named[layer], axes, reduce) for layer, axes in counted}


def _by_neuron(
    layer: str, output: jax.Array, kept: tuple[int, ...], reduce: Callable[..., jax.Array]
) -> jax.Array:
    """An output `(batch, ...)` as float32 `(batch, neurons)`."""
    output, places = output.astype(jnp.float32), sorted(kept)
    axes = tuple(axis for axis in range(1, output.ndim) if axis - output.ndim not in kept)
    reduced = reduce(output, axis=axes) if axes else output
    expected = (len(output), *(output.shape[axis] for axis in places))
    shape = getattr(reduced, "shape", None)
    if shape != expected:
        raise ValueError(
            f"reduce must return an array {expected} of one {output.shape} along its axes {axes}, "
            f"for {layer}; got {type(reduced).__name__ if shape is None else f'shape {shape}'}."
        )
    order = (0, *(1 + places.index(axis) for axis in kept))
    return reduced.transpose(order).reshape(len(output), -1).astype(jnp.float32)
