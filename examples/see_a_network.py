"""A network that others trained, seen as a map: EfficientNet-Lite0 with the weights of ImageNet.

    pip install -e '.[examples]'
    python examples/see_a_network.py --data-dir DIR

What the 1,280 neurons of its last convolution answer to 3,000 test images of CIFAR-100 is measured.
On the first 1,500 images the neurons settle; the others say whether the map is real, and make the
picture. Nothing is trained. It takes about a minute on two CPU cores. CIFAR-100 (170 MB) is downloaded
if it is not in DIR.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro

import lgnn_jax as lgnn
from lgnn_jax.analysis.activations import class_means
from lgnn_jax.analysis.class_regions import class_regions
from lgnn_jax.analysis.settled import judge
from lgnn_jax.atlas.plots.settled import settled_classes
from lgnn_jax.models.efficientnet_lite import efficientnet_lite0, preprocess
from lgnn_jax.training import data

CLASSES = ["maple_tree", "oak_tree", "rose", "bicycle", "motorcycle", "tiger", "leopard", "shark"]


def main(data_dir: Path | None = None, out: Path = Path("see_a_network.png")) -> None:
    """Settles EfficientNet-Lite0's last neurons on images, says what came out, and draws it.

    Args:
      data_dir: where prepared data sets lie; ~/tensorflow_datasets if not given.
      out: the picture, a PNG or SVG file.
    """
    cifar = data.load("cifar100", data_dir)
    labels = cifar.test_labels[:3000]
    network, params, state = efficientnet_lite0()
    images = (preprocess(batch, 128) for batch in np.split(cifar.test_images[:3000], 30))
    features = lgnn.activations(network, images, params, state, layers=["features"])["features"]

    map = lgnn.grid(40, 32)
    places = lgnn.settle(features[:1500], map)  # int32 (1280,): the neuron at each place
    print(judge(features, labels, map))

    means = class_means(features[1500:], labels[1500:], len(cifar.class_names))
    responses = (means - means.mean(axis=0)) / means.std(axis=0)
    own, settled = class_regions(means, map), class_regions(means, map, places)
    shown = [cifar.class_names.index(name) for name in CLASSES]
    figure = settled_classes(
        responses[shown],
        CLASSES,
        map,
        places,
        "EfficientNet-Lite0, last convolution",
        patches=(own.patch[shown], settled.patch[shown]),
    )
    figure.savefig(out)
    plt.close(figure)
    print(f"The picture is {out}.")


if __name__ == "__main__":
    tyro.cli(main)
