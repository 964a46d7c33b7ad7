"""Wide residual networks with dropout (section IV-A of the paper)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lgnn_jax.models.layers import (
    Activation,
    BatchNorm,
    Convolution,
    activation,
    dropout,
    normalize,
)
from lgnn_jax.models.network import Stream

# Table II of the paper filters three sets of layers. Each is a few patterns that leave layers
# alone, to stand before the channel counts of a table.
SOM_EXCEPTIONS = {
    "main": {"^stem/": None, "/shortcut/": None},
    "resblocks": {"^stem/": None},
    "all": {},
}


class Block(nn.Module):
    """Pre-activation residual block: batch norm, ReLU, convolution, twice; dropout between."""

    features: int
    stride: int
    dropout: float
    dtype: jnp.dtype
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, Activation, Activation]:
        """Returns the stream, and the activations before the first and the second convolution."""

        def norm(x, name):
            return normalize(x, *BatchNorm(self.axis_name, name=name)(x, train=train))

        def conv(x, size, stride, name):
            return Convolution(self.features, size, stride, dtype=self.dtype, name=name)(x)[0]

        entry = norm(x, "bn1")
        rectified = nn.relu(entry)
        inner = norm(conv(rectified, 3, self.stride, "conv1"), "bn2")
        y = nn.relu(inner)
        if train and self.dropout > 0:
            y = dropout(self.make_rng("dropout"), y, self.dropout)
        y = conv(y, 3, 1, "conv2")
        if x.shape[-1] != self.features or self.stride != 1:
            x = conv(rectified, 1, self.stride, "shortcut")
        return x + y, activation(entry), activation(inner)


class WideResNet(nn.Module):
    """WRN-depth-widen: a stem and three groups of residual blocks, widened `widen` times.

    Input `(batch, height, width, channels)`. The blocks are named `group1_block1`, ...; in them lie
    `conv1`, `conv2` and, where the shape changes, the 1x1 convolution `shortcut`; before them
    `stem`. Convolutions have no bias. Kernels start as He normal over the fan-out; the head as
    uniform within +-1/sqrt(fan-in), with zero bias, as the authors' code has it.

    Attributes:
      depth: `6 n + 4`, with n blocks in a group: 10, 16, 22, 28, 40, ...
      widen: factor on the 16, 32 and 64 channels of the groups, at least 1.
      num_classes: number of logits.
      dropout: rate between the two convolutions of a block, in [0, 1), to the nearest 1/256.
      width: factor on the number of all channels, positive; 1 is the published network.
      dtype: compute type, float32 or bfloat16; parameters and logits are float32.
      axis_name: device axis over which batch statistics are averaged, if any.

    Reference:
      Zagoruyko and Komodakis, "Wide Residual Networks", 2016, table 1. With 100 classes WRN-16-8
      has 11,007,540 parameters, WRN-28-10 36,536,884.
    """

    depth: int
    widen: int
    num_classes: int
    dropout: float = 0.3
    width: float = 1.0
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool = False,
        activations: bool = False,
        means: bool = False,
    ):
        """Returns logits `(batch, num_classes)`, or logits and the activations by convolution.

        Args:
          x: standardised images `(batch, height, width, channels)`.
          train: whether to use, and update, the statistics of this batch ("batch_stats" mutable),
            and to drop out (rng "dropout").
          activations: whether to return `(logits, {name: Activation(pre, post)})` as well: what the
            first ReLU that a convolution's channels pass through reads and gives. Convolutions that
            write to one residual stream, `conv2` and `shortcut` of a block, share it.
          means: whether these are means over pixels instead, of what the ReLU reads, float32
            `(batch, channels)`.

        Raises:
          ValueError: if `depth` is not `6 n + 4`.
        """
        blocks, rest = divmod(self.depth - 4, 6)
        if blocks < 1 or rest:
            raise ValueError(f"depth of a Wide ResNet must be 6 n + 4, n >= 1, got {self.depth}.")
        features = max(1, round(16 * self.width))
        x = x.transpose(1, 2, 0, 3)
        x, _ = Convolution(features, 3, dtype=self.dtype, name="stem")(x)
        named, writers = {}, ["stem"]
        for group, channels in enumerate((16, 32, 64), start=1):
            features = max(1, round(channels * self.widen * self.width))
            for i in range(1, blocks + 1):
                name = f"group{group}_block{i}"
                stride = 2 if group > 1 and i == 1 else 1
                widened = x.shape[-1] != features or stride != 1
                block = Block(features, stride, self.dropout, self.dtype, self.axis_name, name=name)
                x, entry, inner = block(x, train=train)
                named |= dict.fromkeys(writers, entry) | {f"{name}/conv1": inner}
                writers = [f"{name}/conv2"] + [f"{name}/shortcut"] * widened
        x = normalize(x, *BatchNorm(self.axis_name, name="bn")(x, train=train))
        named |= dict.fromkeys(writers, activation(x))
        x = nn.relu(x).mean(axis=(0, 1))
        logits = nn.Dense(
            self.num_classes,
            dtype=self.dtype,
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            name="head",
        )(x)
        logits = logits.astype(jnp.float32)
        if means:
            named = {
                name: found.pre.astype(jnp.float32).mean(axis=(1, 2))
                for name, found in named.items()
            }
        return (logits, named) if activations else logits

    def streams(self) -> list[Stream]:
        """Returns the streams of channels, from the images to the logits; each is independent."""
        found = []
        # The stream of the stem goes on through the first group if that neither widens nor halves
        # it.
        writers, norms, readers = ["stem"], [], []
        features = max(1, round(16 * self.width))
        for group, channels in enumerate((16, 32, 64), start=1):
            before, features = features, max(1, round(channels * self.widen * self.width))
            for i in range(1, (self.depth - 4) // 6 + 1):
                name = f"group{group}_block{i}"
                norms.append(f"{name}/bn1")
                readers.append(f"{name}/conv1")
                if i == 1 and (group > 1 or before != features):
                    readers.append(f"{name}/shortcut")
                    found.append(Stream(tuple(writers), tuple(norms), tuple(readers)))
                    writers, norms, readers = [f"{name}/shortcut"], [], []
                found.append(Stream((f"{name}/conv1",), (f"{name}/bn2",), (f"{name}/conv2",)))
                writers.append(f"{name}/conv2")
        found.append(Stream(tuple(writers), (*norms, "bn"), (*readers, "head")))
        return sorted(found, key=lambda stream: "stem" not in stream.writers)
