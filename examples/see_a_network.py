"""A network that others trained, seen as a map: EfficientNet-Lite0 with the weights of ImageNet.

    pip install -e '.[examples]'
    python examples/see_a_network.py --data-dir DIR

What the 1,280 neurons of its last convolution answer to 3,000 test images of CIFAR-100 is measured.
On one half of the images the neurons settle; the other half says whether the map is real, and makes
the picture. Nothing is trained. It takes about a minute on two CPU cores. CIFAR-100 (170 MB) is
downloaded if it is not in DIR.
"""

from pathlib import Path

import numpy as np
import tyro

import lgnn_jax as lgnn
from lgnn_jax.analysis.settled import judge
from lgnn_jax.atlas.class_pictures import class_pictures, draw_pictures
from lgnn_jax.atlas.plots import save
from lgnn_jax.models.efficientnet_lite import efficientnet_lite0, preprocess
from lgnn_jax.training import data

CLASSES = ["maple_tree", "oak_tree", "rose", "bicycle", "motorcycle", "tiger", "leopard", "shark"]


def main(data_dir: Path | None = None, out: Path = Path("efficientnet_lite0")) -> None:
    """Lays out EfficientNet-Lite0's last neurons, says whether the map is real, and draws it.

    Args:
      data_dir: where prepared data sets lie; ~/tensorflow_datasets if not given.
      out: the picture, without .png and .svg; and the neuron at each place, as .npy.
    """
    cifar = data.load("cifar100", data_dir)
    labels = cifar.test_labels[:3000]
    network, params, state = efficientnet_lite0()
    images = (preprocess(batch, 128) for batch in np.split(cifar.test_images[:3000], 30))
    features = lgnn.activations(network, images, params, state, layers=["features"])["features"]

    map = lgnn.grid(40, 32)
    np.save(f"{out}.npy", lgnn.settle(features, map))  # by all images
    judged = judge(features, labels, map)  # by half of them
    print(judged)

    pictures = class_pictures(features, labels, cifar.class_names, judged)
    title = "EfficientNet-Lite0, last convolution"
    paths = save(draw_pictures(pictures, CLASSES, map, judged.places, title), out)
    print(f"Drawn: {' and '.join(str(path) for path in paths)}")


if __name__ == "__main__":
    tyro.cli(main)
