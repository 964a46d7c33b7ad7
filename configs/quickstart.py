"""A small VGG on handwritten digits: a minute or two on a CPU, no download.

lgnn train
"""

from lgnn_jax.training.config import Config, Data, Model, Optimizer

config = Config(
    name="quickstart",
    epochs=40,
    batch_size=64,
    checkpoint_every=10,
    model=Model("vgg11", width=0.25),
    data=Data("digits", flip=False),
    optimizer=Optimizer(decay_epochs=(20, 30, 36), weight_decay=5e-3),
)
