"""VGG-11 on CIFAR-100, 100 epochs: Table I of the paper, first row.

    lgnn train --config vgg11_cifar100 --variant constant --seed 0

39,000 steps of 128 images; for one accelerator, not for a CPU.
"""

from lgnn_jax.training.config import Config, Data, Model, Optimizer

config = Config(
    name="vgg11_cifar100",
    epochs=100,
    model=Model("vgg11"),
    data=Data("cifar100"),
    optimizer=Optimizer(decay_epochs=(40, 70, 90)),
)
