"""Wide ResNet 16-8 on CIFAR-100, 200 epochs: Table II of the paper, first row.

    lgnn train --config wrn16_8_cifar100 --variant constant --som.layers resblocks --seed 0

78,000 steps of 128 images; for an accelerator, not for a CPU.
"""

from lgnn_jax.training.config import Config, Data, Model, Optimizer

config = Config(
    name="wrn16_8_cifar100",
    epochs=200,
    model=Model("wrn16_8", dropout=0.3),
    data=Data("cifar100"),
    optimizer=Optimizer(decay_epochs=(60, 120, 160)),
)
