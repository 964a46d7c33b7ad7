"""What the paper has in its tables, and for which runs."""

import dataclasses

from lgnn_jax.methods.method import Method
from lgnn_jax.training.config import Config, Model, Optimizer, Som

# Tables I and II of the paper: median test accuracy in %, of five runs on CIFAR-100.
_ACCURACIES = {
    ("vgg11", "baseline", "all"): 69.96,
    ("vgg11", "constant", "all"): 70.16,
    ("vgg11", "decreasing", "all"): 70.17,
    ("vgg19", "baseline", "all"): 72.01,
    ("vgg19", "constant", "all"): 72.39,
    ("vgg19", "decreasing", "all"): 72.46,
    ("wrn16_8", "baseline", "all"): 78.87,
    ("wrn16_8", "constant", "main"): 78.90,
    ("wrn16_8", "decreasing", "main"): 78.94,
    ("wrn16_8", "constant", "resblocks"): 79.08,
    ("wrn16_8", "decreasing", "resblocks"): 79.10,
    ("wrn16_8", "constant", "all"): 79.07,
    ("wrn16_8", "decreasing", "all"): 79.12,
    ("wrn28_10", "baseline", "all"): 80.62,
    ("wrn28_10", "constant", "resblocks"): 80.88,
    ("wrn28_10", "decreasing", "resblocks"): 81.08,
    ("wrn28_10", "constant", "all"): 80.99,
    ("wrn28_10", "decreasing", "all"): 80.81,
}
_EPOCHS = {"vgg11": (100, (40, 70, 90))}  # and where the learning rate falls; section IV-A
# Table III: one run of VGG-19.
_MAGNITUDES = {
    "baseline": (2.1775e-06, 2.2977, 3.6854),
    "constant": (0.0111, 1.6394, 1.0199),
    "decreasing": (0.0007, 1.9456, 2.0902),
}


def accuracy(config: Config) -> float | None:
    """Returns the paper's test accuracy for a config, in %, if it has one."""
    c = config
    unfiltered = c.method == Method()
    epochs, decay_epochs = _EPOCHS.get(c.model.name, (200, (60, 120, 160)))
    papers = Config(
        c.name,
        c.variant,
        c.seed,
        epochs,
        checkpoint_every=c.checkpoint_every,
        log_every=c.log_every,
        model=Model(c.model.name, dtype=c.model.dtype),
        optimizer=Optimizer(decay_epochs=decay_epochs),
        som=Som(method=c.som.method, layers=c.som.layers),
    )
    layers = "all" if unfiltered else c.som.layers
    same = c == dataclasses.replace(papers, som=c.som if unfiltered else papers.som)
    return _ACCURACIES.get((c.model.name, c.variant, layers)) if same else None


def magnitudes(config: Config) -> dict[str, tuple[float, float, float]]:
    """Returns the smallest and largest norm and the deviation of their log, by variant.

    For the network of Table III alone; others have none.
    """
    return _MAGNITUDES if config.model.name == "vgg19" else {}
