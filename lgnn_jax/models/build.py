"""The networks of the paper by name."""

import functools
import re
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from lgnn_jax.models.linen import LinenNetwork
from lgnn_jax.models.vgg import CONVOLUTIONS, VGG
from lgnn_jax.models.wide_resnet import WideResNet


def build_model(
    name: str,
    *,
    num_classes: int,
    width: float = 1.0,
    dropout: float = 0.3,
    dtype: str = "float32",
    axis_name: str | None = None,
) -> nn.Module:
    """Builds a network by name.

    Args:
      name: "vgg11", "vgg13", "vgg16", "vgg19", or `"wrn<depth>_<widen>"` such as "wrn16_8".
      num_classes: number of logits, at least 1.
      width: factor on the number of channels, positive.
      dropout: rate inside a Wide ResNet's blocks, in [0, 1); VGG has none.
      dtype: compute type, "float32" or "bfloat16".
      axis_name: device axis over which batch statistics are averaged, if any.

    Returns:
      A `flax.linen` module: `apply(variables, images, train=..., activations=...)`.

    Raises:
      ValueError: for an unknown name or an argument out of its range.

    Example:
      >>> build_model("wrn16_8", num_classes=100).depth
      16
    """
    vgg = re.fullmatch(r"vgg(\d+)", name)
    wrn = re.fullmatch(r"wrn(\d{1,3})_(\d{1,2})", name)
    if vgg and int(vgg[1]) in CONVOLUTIONS:
        return VGG(int(vgg[1]), num_classes, width, jnp.dtype(dtype), axis_name)
    if wrn and int(wrn[1]) >= 10 and (int(wrn[1]) - 4) % 6 == 0 and int(wrn[2]) >= 1:
        depth, widen = int(wrn[1]), int(wrn[2])
        return WideResNet(depth, widen, num_classes, dropout, width, jnp.dtype(dtype), axis_name)
    raise ValueError(
        f"unknown network {name!r}: choose vgg11, vgg13, vgg16, vgg19, or wrn<depth>_<widen> with "
        "a depth of 6 n + 4 below 1,000 and widened less than 100 times, such as wrn16_8."
    )


@functools.cache
def build_network(name: str, *, devices: str | None = None, **options: Any) -> LinenNetwork:
    """Builds a network by name, ready for the trainer; the same object for the same arguments.

    Args:
      name: see `build_model`.
      devices: name of the mapped axis over which batch statistics are averaged, if any.
      **options: see `build_model`.

    Raises:
      ValueError: see `build_model`.

    Example:
      >>> build_network("vgg11", num_classes=10).module.depth
      11
    """
    return LinenNetwork(build_model(name, axis_name=devices, **options), synced=True)
