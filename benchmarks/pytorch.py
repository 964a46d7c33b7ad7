"""The networks of `lgnn_jax.models` and their training step in PyTorch, to compare with."""

from collections.abc import Callable
from typing import Any

import flax.traverse_util
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lgnn_jax.config import Config
from lgnn_jax.models.vgg import CHANNELS, CONVOLUTIONS


def build(config: Config, params: Any, channels_in: int) -> nn.Module:
    """Returns the network of a config, channels_last, with the parameters `params` of ours."""
    name, params = config.model.name, flax.traverse_util.flatten_dict(params, sep="/")
    classes = len(params["head/bias"])
    if name.startswith("vgg"):
        network = VGG(int(name[3:]), classes, config.model.width, channels_in)
    else:
        depth, widen = map(int, name[3:].split("_"))
        network = WideResNet(depth, widen, classes, config.model, channels_in)
    own = dict(network.named_parameters())
    for path, value in params.items():
        module, _, leaf = path.replace("/", ".").rpartition(".")
        leaf = "bias" if leaf == "bias" else "weight"
        value = torch.from_numpy(np.array(value))
        value = value.permute({4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim])
        parameter = own.pop(f"{module}.{leaf}")
        assert parameter.shape == value.shape, (path, parameter.shape, value.shape)
        with torch.no_grad():
            parameter.copy_(value)
    assert not own, f"not in ours: {list(own)}"
    return network.to(memory_format=torch.channels_last)


def make_step(
    network: nn.Module, config: Config, images: np.ndarray, labels: np.ndarray
) -> Callable[[], torch.Tensor]:
    """Returns a training step on one batch that is ready in memory, which gives the loss.

    Args:
      network: see `build`.
      config: its optimiser, at the learning rate of the first epoch and without the filter.
      images: standardised, `(batch, height, width, channels)`.
      labels: `(batch,)`.
    """
    o = config.optimizer
    optimizer = torch.optim.SGD(
        network.parameters(), o.learning_rate, o.momentum, weight_decay=o.weight_decay
    )
    x = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)  # NHWC in memory: channels_last
    y = torch.from_numpy(np.array(labels)).long()

    def step():
        optimizer.zero_grad()
        loss = F.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


class VGG(nn.Module):
    """As `lgnn_jax.models.VGG`, and its names."""

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
        entry = F.relu(self.bn1(x), inplace=self.shortcut is not None)
        y = self.conv1(entry)
        y = self.conv2(self.dropout(F.relu(self.bn2(y), inplace=True)))
        return y + (x if self.shortcut is None else self.shortcut(entry))


class WideResNet(nn.Module):
    """As `lgnn_jax.models.WideResNet`, and its names."""

    def __init__(self, depth: int, widen: int, classes: int, model: Any, channels_in: int):
        super().__init__()
        c_in = max(1, round(16 * model.width))
        self.stem = nn.Conv2d(channels_in, c_in, 3, padding=1, bias=False)
        self.blocks = []
        for group, channels in enumerate((16, 32, 64), start=1):
            c_out = max(1, round(channels * widen * model.width))
            for i in range(1, (depth - 4) // 6 + 1):
                stride = 2 if group > 1 and i == 1 else 1
                self.blocks.append(f"group{group}_block{i}")
                self.add_module(self.blocks[-1], Block(c_in, c_out, stride, model.dropout))
                c_in = c_out
        self.bn = nn.BatchNorm2d(c_in)
        self.head = nn.Linear(c_in, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for name in self.blocks:
            x = self.get_submodule(name)(x)
        return self.head(F.relu(self.bn(x), inplace=True).mean((2, 3)))
