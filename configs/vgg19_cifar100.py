"""VGG-19 on CIFAR-100, 200 epochs: Table I of the paper, second row.

    lgnn train --config vgg19_cifar100 --variant constant --seed 0

78,000 steps of 128 images; for one accelerator, not for a CPU.
"""

from lgnn_jax.training.config import Config, Data, Model, Optimizer

config = Config(
    name="vgg19_cifar100",
    epochs=200,
    model=Model("vgg19"),
    data=Data("cifar100"),
    optimizer=Optimizer(decay_epochs=(60, 120, 160)),
)
