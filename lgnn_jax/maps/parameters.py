"""Which parameters of a network count neurons: judged by their names and shapes, and said why.

A tree of parameters does not say what its arrays are for. Kernels of two-dimensional convolutions
can be told by their four axes, if the neurons are on the last. Three axes may be a convolution
along a line, the heads of an attention layer, or dense layers stacked by a scan.
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Words of a parameter's own name.
_NO_KERNELS = {
    "beta", "bias", "cls", "embed", "embedding", "embeddings", "gamma", "offset", "pos", "scale",
    "token", "tokens",
}  # fmt: skip
_KERNELS = {"kernel", "weight", "w"}
# Words of its path, unless "conv" is in it too or its window is 3x3, say: a DenseNet's blocks.
_OTHER_LAYERS = {
    "attention", "attn", "dense", "fc", "gru", "linear", "lstm", "mha", "mlp", "qkv",
}  # fmt: skip
# Names of its layer: a value network is no part of an attention layer.
_ATTENTION = {"key", "query", "value"}
# Words of its path that tell of three axes only: four under "embed" are those of image patches.
_EMBEDDINGS = {"embed", "embedding", "embeddings"}
_WIDEST = 8  # from so many places on, a window is taken for channels if it could be


class Parameter(NamedTuple):
    """A parameter, as a table looks at it.

    Attributes:
      path: its '/'-joined name.
      shape: its shape.
      kind: "convolution", a kernel that counts in a table mean; "unclear", one of three axes that
        may be one; "bias", anything of a layer that is not its kernel; or "other".
      why: of that, in words.
    """

    path: str
    shape: tuple[int, ...]
    kind: str
    why: str


def path_name(path: tuple[Any, ...]) -> str:
    """Returns the '/'-joined name of a key path, as patterns in a table see it.

    The `value` in which Flax boxes a parameter (`nn.Partitioned`, `nnx.Variable`) is left out.
    """
    if len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def parameters(params: Any) -> list[Parameter]:
    """Returns the floating-point arrays of a tree, in its order."""
    found = [
        (path_name(path), tuple(leaf.shape))
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if hasattr(leaf, "shape") and jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    layers = {path.rpartition("/")[0] for path, _ in found}
    return [Parameter(path, shape, *_kind(path, shape, layers)) for path, shape in found]


def _kind(path: str, shape: tuple[int, ...], layers: set[str]) -> tuple[str, str]:
    words = [re.findall(r"[a-z_]*[a-z]", _snake(part)) for part in path.split("/")]
    own = set(words[-1]) | {w for word in words[-1] for w in word.split("_")}
    if own & _NO_KERNELS and not own & _KERNELS:
        return "bias", "no kernel, by its name"
    if len(shape) < 2:
        return "bias", "no kernel: one number a neuron"
    if len(shape) == 2:
        return "other", "a dense layer, by its two axes"
    one_each = sum(side > 1 for side in shape) == 1 and (len(shape) == 3 or shape[-1] == 1)
    if one_each and not own & _KERNELS:
        return "bias", "no kernel: one number a neuron"
    if own and not own & _KERNELS and len(shape) == 3 and shape[0] == 1:
        return "bias", "no kernel: one of its kind, as of all images"
    if "conv" in path.lower():
        return "convolution", "a convolution, by its name"
    if _has_odd_window(shape):
        return "convolution", "a convolution, by its square window"
    around = {w for part in words for word in part for w in word.split("_")}
    layer = {word for part in words[-2:] for word in part}
    other = around & _OTHER_LAYERS | layer & _ATTENTION
    if len(shape) == 3:
        other |= around & _EMBEDDINGS
    if re.sub(r"(^|/)out/[^/]*$", r"\1query", path) in layers - {path}:
        return "other", "no convolution: the output of an attention layer, beside its query"
    if other:
        return "other", f"no convolution, by its name ({min(other)})"
    if len(shape) == 3:
        return "unclear", "three axes: a convolution along a line, heads, or stacked layers"
    return "convolution", "a convolution, by its four axes or more"


def neuron_axes(path: str, shape: tuple[int, ...], neuron_axis: int) -> tuple[int, ...]:
    """Returns the axes of a kernel that count its neurons where no table says so, from 0.

    That is `neuron_axis`, but for a query, key or value `(inputs, heads, size)` of an attention
    layer: its neurons are all of all heads.

    Example:
      >>> neuron_axes("attention/query/kernel", (64, 8, 16), -1)
      (1, 2)
    """
    heads = len(shape) == 3 and neuron_axis in (-1, 2) and path.split("/")[-2:-1]
    if heads and heads[0].lower() in _ATTENTION:
        return (1, 2)
    return (neuron_axis % len(shape),)


def _has_odd_window(shape: tuple[int, ...]) -> bool:
    """Whether axes are a window of 3x3, 5x5 and so on, at either end of the shape.

    Layers, heads and features, which are stacked along such axes too, are hardly as many as each
    other and odd.
    """
    windows = (shape[:-2], shape[2:]) if len(shape) > 3 else ()
    return any(len(set(window)) == 1 and window[0] % 2 and window[0] > 1 for window in windows)


def _snake(name: str) -> str:
    """A name in small letters, with words apart: `MultiHead_0` as `multi_head_0`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def wrong_way_round(shape: tuple[int, ...], neuron_axis: int) -> int | None:
    """Returns the axis on which a convolution's neurons seem to be, if it is not `neuron_axis`.

    Windows are square, more often than not, and narrower than a layer has channels. Only where that
    speaks for the other order of axes alone is an axis returned.
    """
    if len(shape) < 4 or neuron_axis not in (-1, len(shape) - 1, 0, -len(shape)):
        return None
    last = neuron_axis in (-1, len(shape) - 1)
    window, other = (shape[:-2], shape[2:]) if last else (shape[2:], shape[:-2])
    as_square = len(set(window)) == 1 and window[0] < _WIDEST
    seems_wrong = len(set(other)) == 1 and max(window) > max(other) and not as_square
    return (0 if last else -1) if seems_wrong else None
