"""VGG-11 at a quarter of its width on CIFAR-10, 40 epochs: half an hour on a CPU.

    lgnn train --config vgg11_cifar10_long --variant constant --seed 0

15,600 steps of 128 images at the paper's weight decay. The roughness of the random initial weights
leaves through weight decay, at a rate of learning rate x decay / (1 - momentum) a step: here it
falls to 1/e in some 2,000 steps, and there are 6,240 at the first learning rate. The rate falls at
the same shares of the run as in the paper's VGG-11.
"""

from lgnn_jax.training.config import Config, Data, Model, Optimizer

config = Config(
    name="vgg11_cifar10_long",
    epochs=40,
    checkpoint_every=4,
    model=Model("vgg11", width=0.25),
    data=Data("cifar10"),
    optimizer=Optimizer(decay_epochs=(16, 28, 36)),
)
