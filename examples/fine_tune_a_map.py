"""A network that others trained is trained on into a clearer map: EfficientNet-Lite0.

    pip install -e '.[examples]'
    python examples/fine_tune_a_map.py --data-dir DIR

Only the last convolution changes, 320 to 1,280 channels, on 5,000 training images of CIFAR-100. The
pull draws neighbours together; the network's own 1,000 logits are to stay as they were. First the
neurons settle, and from these places training goes on. Test images judge what comes out. It takes
some minutes on two CPU cores, most of them to compute what the last convolution reads. CIFAR-100
(170 MB) is downloaded if it is not in DIR.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from sklearn.linear_model import LogisticRegression

import lgnn_jax as lgnn
from lgnn_jax.analysis.activations import class_means
from lgnn_jax.analysis.class_regions import class_regions
from lgnn_jax.analysis.topography import topography
from lgnn_jax.models.efficientnet_lite import efficientnet_lite0, preprocess
from lgnn_jax.training import data

MAP = lgnn.grid(40, 32)
TRAINED_ON, SHOWN, SETTLED_ON, BATCH = 5000, 2000, 1500, 128
LAST = "stage7_block1/project"  # what the last convolution reads


def main(
    data_dir: Path | None = None,
    steps: int = 400,
    weight: float = 1.0,
    width: float = 2.0,
    rate: float = 3e-4,
) -> None:
    """Trains the last neurons of EfficientNet-Lite0 into a clearer map.

    Args:
      data_dir: where prepared data sets lie; ~/tensorflow_datasets if not given.
      steps: of training.
      weight: of the pull in the loss.
      width: of a neuron's neighbourhood in map units.
      rate: Adam's learning rate at the start; it falls to 0.
    """
    cifar = data.load("cifar100", data_dir)
    network, params, state = efficientnet_lite0()
    seen = what_the_last_reads(network, params, state, cifar.train_images[:TRAINED_ON])
    shown = what_the_last_reads(network, params, state, cifar.test_images[:SHOWN])
    norm = jax.tree.map(jnp.asarray, state["features"]["bn"])
    trained = jax.tree.map(jnp.asarray, {"features": params["features"]})
    head = jax.tree.map(jnp.asarray, params["head"])
    answers = jax.jit(lambda params, x: last_layer(params["features"], norm, x))

    def logits(found):
        return found @ head["kernel"] + head["bias"]

    settled = lgnn.settle(np.asarray(answers(trained, seen[:SETTLED_ON])), MAP)
    tx = optax.chain(
        lgnn.transform({1280: MAP}, sigma=0.0, settle=lgnn.Settling(every=max(1, steps // 10))),
        optax.adam(optax.cosine_decay_schedule(rate, steps)),
    )
    opt_state = lgnn.with_places(tx.init(trained), {"features/kernel": settled})
    as_they_were = logits(answers(trained, seen))

    @jax.jit
    def step(params, opt_state, key):
        chosen = jax.random.choice(key, TRAINED_ON, (BATCH,))

        def loss_fn(params):
            found = answers(params, seen[chosen])
            kept = optax.losses.kl_divergence_with_log_targets(
                jax.nn.log_softmax(logits(found)), jax.nn.log_softmax(as_they_were[chosen])
            )
            places = lgnn.places(opt_state)["features/kernel"]
            return kept.mean() + weight * lgnn.pull(found, places, MAP, width), found

        grads, found = jax.grad(loss_fn, has_aux=True)(params)
        updates, new = tx.update(grads, opt_state, params, activations={"features": found})
        return optax.apply_updates(params, updates), new

    print(f"{SHOWN} test images{'':14}neighbours  class maps  trustworthiness  dimension  probe")
    labels = cifar.train_labels[:TRAINED_ON], cifar.test_labels[:SHOWN]
    found = [answers(trained, x) for x in (seen, shown)]
    before = np.asarray(logits(found[1])).argmax(axis=1)
    measure("settled", *found, *labels, settled)
    for key in jax.random.split(jax.random.key(0), steps):
        trained, opt_state = step(trained, opt_state, key)
    found = [answers(trained, x) for x in (seen, shown)]
    after = np.asarray(logits(found[1])).argmax(axis=1)
    measure("trained on", *found, *labels, lgnn.places(opt_state)["features/kernel"])
    print(f"The first of 1,000 logits is the same for {100 * (before == after).mean():.1f} %.")


def what_the_last_reads(network, params, state, images):
    """Returns `(images, height, width, 320)`."""

    @jax.jit
    def read(images):
        x = preprocess(images, 128)
        return network.apply(params, state, x, activations=True).activations[LAST]

    return jnp.concatenate([read(part) for part in np.split(images, len(images) // 100)])


def last_layer(params, norm, x):
    """Returns what the 1,280 neurons answer, means over pixels; with the statistics as they are."""
    y = (x @ params["kernel"][0, 0] - norm["mean"]) * jax.lax.rsqrt(norm["var"] + 1e-3)
    return jax.nn.relu6(y * params["bn"]["scale"] + params["bn"]["bias"]).mean(axis=(1, 2))


def measure(name, seen, shown, train_labels, labels, places):
    """Prints the order of a map, and the accuracy of a logistic regression on its neurons."""
    probe = LogisticRegression(C=0.01, max_iter=200).fit(seen, train_labels)
    right = 100 * probe.score(shown, labels)
    shown = np.asarray(shown)[:, places]
    found = topography(shown.T, MAP, shuffles=1)
    classes = class_regions(class_means(shown, labels, 100), MAP).morans_i.mean()
    print(
        f"{name:25}{found.neighbours.value:12.3f}{classes:12.3f}{found.trustworthiness.value:17.3f}"
        f"{found.effective_dimensionality:11.1f}{right:6.1f} %"
    )


if __name__ == "__main__":
    tyro.cli(main)
