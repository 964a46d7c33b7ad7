"""VGG-11 at a quarter of its width on CIFAR-100, 30 epochs: some twelve minutes on two CPU cores.

    lgnn train --config vgg11_cifar100_quarter --variant constant --seed 0

11,700 steps of 128 images; the learning rate falls at the same shares of the run as in the paper's
100 epochs. The roughness of the random initial weights leaves through weight decay, at a rate of
learning rate x decay / (1 - momentum) a step. With the paper's decay of 0.0005 a tenth of it would
be left when the rate first falls; with 0.001 it is a hundredth.
"""

from lgnn_jax.training.config import Config, Data, Model, Optimizer

config = Config(
    name="vgg11_cifar100_quarter",
    epochs=30,
    checkpoint_every=3,
    model=Model("vgg11", width=0.25),
    data=Data("cifar100"),
    optimizer=Optimizer(decay_epochs=(12, 21, 27), weight_decay=1e-3),
)
