"""A small VGG on handwritten digits: two minutes on a laptop's CPU, no download.

lgnn train
"""

from lgnn_jax.config import Config, Data, Model, Optimizer

config = Config(
    name="quickstart",
    epochs=12,
    batch_size=64,
    checkpoint_every=4,
    model=Model("vgg11", width=0.25),
    data=Data("digits", flip=False),
    optimizer=Optimizer(learning_rate=0.05, decay_epochs=(6, 9, 11), weight_decay=5e-3),
)
