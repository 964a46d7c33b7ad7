"""VGG with batch normalisation and one fully connected layer (section IV-A of the paper)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lgnn_jax.models.layers import (
    BatchNorm,
    Convolution,
    activation,
    mean_activation,
    normalize,
    normalize_and_pool,
)
from lgnn_jax.models.network import Stream

# Convolutions of each block, and the channels of all convolutions of a block.
CONVOLUTIONS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """VGG-11, 13, 16 or 19; input `(batch, height, width, channels)`, both sides at least 32.

    Blocks of 3x3 convolutions (with bias), each followed by batch normalisation and a ReLU; 2x2 max
    pooling after each block; the mean over the pixels that are left (one, for 32x32 images); one
    dense layer. The convolutions are named `conv1_1`, `conv2_1`, ... by block and place in it.

    Kernels start as He normal over the fan-out, the head as normal with standard deviation 0.01,
    biases as zero: torchvision's choice.

    Attributes:
      depth: 11, 13, 16 or 19.
      num_classes: number of logits.
      width: factor on the number of channels, positive; 1 is the published network.
      dtype: compute type, float32 or bfloat16; parameters and logits are float32.
      axis_name: device axis over which batch statistics are averaged, if any.

    Reference:
      Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
      2015, table 1 (A, B, D, E). With 100 classes VGG-11 has 9,277,284 parameters, VGG-19
      20,086,692.
    """

    depth: int
    num_classes: int
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
          train: whether to use, and update, the statistics of this batch ("batch_stats" mutable).
          activations: whether to return `(logits, {name: Activation(pre, post)})` as well: what the
            ReLU after each convolution reads (the batch normalisation's output) and gives.
          means: whether these are means over pixels instead, of what the ReLU reads, float32
            `(batch, channels)`.

        Raises:
          ValueError: if a side of the images is below 32 pixels.
        """
        if min(x.shape[1:3]) < 32:
            raise ValueError(
                f"VGG halves images five times, so they must be at least 32x32, got {x.shape[1:3]}."
            )
        named = {}
        x = x.transpose(1, 2, 0, 3)
        for block, (count, channels) in enumerate(
            zip(CONVOLUTIONS[self.depth], CHANNELS, strict=True), start=1
        ):
            for i in range(1, count + 1):
                features = max(1, round(channels * self.width))
                conv = Convolution(
                    features, 3, bias=True, dtype=self.dtype, name=f"conv{block}_{i}"
                )
                norm = BatchNorm(self.axis_name, name=f"bn{block}_{i}")
                x, bias = conv(x)
                moments = norm(x, bias, train=train)
                if means:
                    named[conv.name] = mean_activation(x, *moments)
                else:
                    named[conv.name] = activation(normalize(x, *moments))
                # The maximum of ReLUs is the ReLU of the maximum.
                x = nn.relu((normalize_and_pool if i == count else normalize)(x, *moments))
        x = x.mean(axis=(0, 1))
        logits = nn.Dense(
            self.num_classes,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(0.01),
            name="head",
        )(x)
        logits = logits.astype(jnp.float32)
        return (logits, named) if activations else logits

    def streams(self) -> list[Stream]:
        """Returns the streams of channels, from the images to the logits; each is independent.

        Example:
          >>> VGG(11, num_classes=10).streams()[0]
          Stream(writers=('conv1_1',), norms=('bn1_1',), readers=('conv2_1',))
        """
        names = [
            f"{block}_{i}"
            for block, count in enumerate(CONVOLUTIONS[self.depth], start=1)
            for i in range(1, count + 1)
        ]
        readers = [f"conv{name}" for name in names[1:]] + ["head"]
        return [
            Stream((f"conv{name}",), (f"bn{name}",), (reader,))
            for name, reader in zip(names, readers, strict=True)
        ]
