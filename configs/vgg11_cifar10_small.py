"""VGG-11 at a quarter of its width on half of CIFAR-10, 10 epochs: minutes on a CPU.

    lgnn train --config vgg11_cifar10_small --variant constant --seed 0

2,000 steps of 128 images. The roughness of the random initial weights leaves through weight decay,
at a rate of learning rate x decay / (1 - momentum) a step: with the paper's decay of 0.0005 it
takes some 2,000 steps to fall to 1/e, as long as this whole run. Here the decay is 0.002.
"""

from lgnn_jax.training.config import Config, Data, Model, Optimizer

config = Config(
    name="vgg11_cifar10_small",
    epochs=10,
    checkpoint_every=2,
    model=Model("vgg11", width=0.25),
    data=Data("cifar10", train_images=25_600),
    optimizer=Optimizer(decay_epochs=(4, 7, 9), weight_decay=2e-3),
)
