"""The networks of `lgnn_jax.models` and their training in PyTorch, to compare with.

Nothing here imports JAX, which would count as PyTorch's memory.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from memory import peak_bytes
from torch import nn

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 19: (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)


def build(
    name: str, *, width: float, dropout: float, classes: int, channels_in: int
) -> "VGG | WideResNet":
    """Returns the network `vgg<depth>` or `wrn<depth>_<widen>`, its memory channels_last."""
    if name.startswith("vgg"):
        network = VGG(int(name[3:]), classes, width, channels_in)
    else:
        depth, widen = map(int, name[3:].split("_"))
        network = WideResNet(depth, widen, classes, width, dropout, channels_in)
    return network.to(memory_format=torch.channels_last)


def load(network: nn.Module, params: dict[str, Any]) -> None:
    """Copies our parameters, by '/'-joined path, to a network."""
    own = dict(network.named_parameters())
    for path, value in params.items():
        module, _, leaf = path.replace("/", ".").rpartition(".")
        value = torch.from_numpy(np.array(value))
        value = value.permute({4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim])
        parameter = own.pop(f"{module}.{'bias' if leaf == 'bias' else 'weight'}")
        assert parameter.shape == value.shape, (path, parameter.shape, value.shape)
        with torch.no_grad():
            parameter.copy_(value)
    assert not own, f"not in ours: {list(own)}"


def make_batches(
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    mean: torch.Tensor,
    deviation: torch.Tensor,
    pad: int,
    flip: bool,
) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Returns `indices -> (x, y)`: images gathered, augmented and standardised as ours are.

    `images` is uint8 `(count, height, width, channels)`, `mean` and `deviation` are by channel; `x`
    is `(batch, channels, height, width)`, channels_last. One gather crops and mirrors a batch.
    """
    height, width = images.shape[1:3]

    def batch(indices):
        x, count = images[indices], len(indices)
        if pad or flip:
            first_row, first_column = torch.randint(2 * pad + 1, (2, count, 1))
            rows = _reflected(first_row + torch.arange(height) - pad, height)
            columns = _reflected(first_column + torch.arange(width) - pad, width)
            mirrored = torch.rand(count, 1) < (0.5 if flip else 0)
            columns = torch.where(mirrored, columns.flip(1), columns)
            x = x[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
        return ((x.float() - mean) / deviation).permute(0, 3, 1, 2), labels[indices]

    return batch


def _reflected(position, side):
    return (side - 1) - ((side - 1) - position.abs()).abs()


def make_step(
    network: nn.Module,
    *,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    maps: dict[str, tuple[int, int]] | None = None,
    window: torch.Tensor | None = None,
    autocast: torch.dtype | None = None,
    transform: Callable[[Callable], Callable] = lambda function: function,
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Returns a training step: `(images, labels) -> loss`.

    Images are standardised, `(batch, channels, height, width)`, channels_last. `maps` has the SOM
    dimensions of the kernels that are filtered with `window`, by our parameters' paths. The network
    computes in the type `autocast`, if one is given; it and the filter are put through `transform`,
    such as `torch.compile`.
    """
    optimizer = torch.optim.SGD(
        network.parameters(), learning_rate, momentum, weight_decay=weight_decay
    )
    filtered = [
        (network.get_submodule(path.removesuffix("/kernel").replace("/", ".")).weight, dims)
        for path, dims in (maps or {}).items()
    ]

    forward, smooth = transform(network), transform(low_pass)

    def step(x, y):
        optimizer.zero_grad()
        with torch.autocast(x.device.type, dtype=autocast, enabled=autocast is not None):
            loss = F.cross_entropy(forward(x), y)
        loss.backward()
        for kernel, dims in filtered:
            kernel.grad = smooth(kernel.grad, dims, window)
        optimizer.step()
        return loss.detach()

    return step


@torch.no_grad()
def low_pass(gradient: torch.Tensor, dims: tuple[int, int], window: torch.Tensor) -> torch.Tensor:
    """Filters a gradient `(c_out, c_in, s, s)` over the map `dims`, as Algorithm 1 says."""
    maps = gradient.reshape(len(gradient), -1).t().reshape(-1, 1, *dims)
    padded = F.pad(maps, [len(window) // 2] * 4, mode="replicate")
    maps = F.conv2d(padded, window[None, None])
    filtered = maps.reshape(-1, len(gradient)).t().reshape(gradient.shape)
    return filtered.contiguous(memory_format=torch.channels_last)  # as the weights are


def train(folder: str, steps: int, batch_size: int, network: dict, optimizer: dict) -> None:
    """Trains on `images.npy` and `labels.npy` of a folder and tests on 10,000 of the images.

    Prints the peak memory of the process in bytes.
    """
    images, labels = (torch.from_numpy(np.load(Path(folder) / f"{n}.npy")) for n in _ARRAYS)
    network = build(channels_in=images.shape[-1], **network)
    step = make_step(network, **optimizer)
    scale = {"mean": torch.tensor(120.0), "deviation": torch.tensor(64.0)}
    batch = make_batches(images, labels.long(), **scale, pad=0, flip=False)
    order = torch.randperm(len(images))
    for i in range(steps):
        step(*batch(order[i * batch_size : (i + 1) * batch_size]))
    network.eval()
    with torch.no_grad():
        for indices in torch.arange(10_000).split(batch_size):
            network(batch(indices)[0])
    print(peak_bytes())


_ARRAYS = ("images", "labels")


class VGG(nn.Module):
    """As `lgnn_jax.models.vgg.VGG`, and its names."""

    def __init__(self, depth: int, classes: int, width: float, channels_in: int):
        super().__init__()
        self.blocks = []
        c_in = channels_in
        for block, (count, channels) in enumerate(
            zip(CONVOLUTIONS[depth], CHANNELS, strict=True), start=1
        ):
            c_out = max(1, round(channels * width))
            self.blocks.append([f"{block}_{i}" for i in range(1, count + 1)])
            for name in self.blocks[-1]:
                self.add_module(f"conv{name}", nn.Conv2d(c_in, c_out, 3, padding=1))
                self.add_module(f"bn{name}", nn.BatchNorm2d(c_out))
                c_in = c_out
        self.head = nn.Linear(c_in, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits, or the stream, of images `(batch, channels, height, width)`."""
        for block in self.blocks:
            for name in block:
                x = self.get_submodule(f"conv{name}")(x)
                x = F.relu(self.get_submodule(f"bn{name}")(x), inplace=True)
            x = F.max_pool2d(x, 2)
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    """As `lgnn_jax.models.wide_resnet.Block`."""

    def __init__(self, c_in: int, c_out: int, stride: int, dropout: float):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.shortcut = None
        if c_in != c_out or stride != 1:
            self.shortcut = nn.Conv2d(c_in, c_out, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits, or the stream, of images `(batch, channels, height, width)`."""
        entry = F.relu(self.bn1(x), inplace=self.shortcut is not None)
        y = self.conv1(entry)
        y = self.conv2(self.dropout(F.relu(self.bn2(y), inplace=True)))
        return y + (x if self.shortcut is None else self.shortcut(entry))


class WideResNet(nn.Module):
    """As `lgnn_jax.models.wide_resnet.WideResNet`, and its names."""

    def __init__(self, depth, widen, classes, width, dropout, channels_in):
        super().__init__()
        c_in = max(1, round(16 * width))
        self.stem = nn.Conv2d(channels_in, c_in, 3, padding=1, bias=False)
        self.blocks = []
        for group, channels in enumerate((16, 32, 64), start=1):
            c_out = max(1, round(channels * widen * width))
            for i in range(1, (depth - 4) // 6 + 1):
                stride = 2 if group > 1 and i == 1 else 1
                self.blocks.append(f"group{group}_block{i}")
                self.add_module(self.blocks[-1], Block(c_in, c_out, stride, dropout))
                c_in = c_out
        self.bn = nn.BatchNorm2d(c_in)
        self.head = nn.Linear(c_in, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits, or the stream, of images `(batch, channels, height, width)`."""
        x = self.stem(x)
        for name in self.blocks:
            x = self.get_submodule(name)(x)
        return self.head(F.relu(self.bn(x), inplace=True).mean((2, 3)))


if __name__ == "__main__":
    train(**json.loads(sys.argv[1]))
