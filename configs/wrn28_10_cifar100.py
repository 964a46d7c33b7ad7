"""Wide ResNet 28-10 on CIFAR-100, 200 epochs: Table II of the paper, second row.

    lgnn train --config wrn28_10_cifar100 --variant decreasing --som.layers resblocks --seed 0

78,000 steps of 128 images; for an accelerator, or several, not for a CPU.
"""

from lgnn_jax.training.config import Config, Data, Model, Optimizer

config = Config(
    name="wrn28_10_cifar100",
    epochs=200,
    model=Model("wrn28_10", dropout=0.3),
    data=Data("cifar100"),
    optimizer=Optimizer(decay_epochs=(60, 120, 160)),
)
