"""Maps that were trained in, beside those of plain networks that settle afterwards.

    lgnn sweep --config vgg11_cifar10_small --variants baseline self_organizing --out runs/trained
    python benchmarks/trained_in.py runs/trained [--data-dir DIR] [--output trained_in.json]

For each seed there are two networks, and the plain one has its neurons settled afterwards, by
`lgnn_jax.settle` on training images. All is measured on test images, layer by layer, and the tables
have means over the layers and the seeds:

- neighbours, distance 3: mean correlation of two neurons that far apart on the map
- class maps: Moran's I of the responses to a class, mean over the classes
- trustworthiness of activations and of weights: .5 without order, 1 if the nearest eight on the map
  are the most alike
- dimension: over how many directions activations spread (participation ratio)
- probe: accuracy of a logistic regression on the layer's activations, fitted to training images

The gain in accuracy is paired by seed, with its 90 % interval by Student's t. Last comes, by layer,
what silencing a class costs: 15 % of the layer's neurons, one region of the map, are set to 0. It
is the region with the most evidence for the class: the mean over training images of the class of
activation times gradient of the class's margin, summed over the region.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
import tyro
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from timing import environment, report

import lgnn_jax as lgnn
from lgnn_jax.analysis.activations import class_means
from lgnn_jax.analysis.class_regions import class_regions
from lgnn_jax.analysis.lesions import class_lesions
from lgnn_jax.analysis.topography import correlation_by_distance, topography
from lgnn_jax.analysis.trustworthiness import trustworthiness
from lgnn_jax.models.network import at_path
from lgnn_jax.training import data, trained

SETTLED_ON, PROBED_ON, SHOWN = 1500, 5000, 2000
BATCH = 200
PLAIN, OWN, AGAIN = "plain, settled", "trained in", "trained in, settled again"
MEASURES = {
    "neighbours": "correlation of neighbours",
    "distance 3": "correlation at distance 3",
    "class maps": "class maps' Moran's I",
    "trust": "trustworthiness of activations",
    "trust of weights": "trustworthiness of weights",
    "dimension": "effective dimension",
    "probe": "linear probe",
}


@dataclass(frozen=True)
class Arguments:
    """Maps that were trained in, beside those of plain networks that settle afterwards."""

    sweep: tyro.conf.Positional[Path]
    """A sweep's folder, with the runs of `baseline` and of the method."""
    method: str = "self_organizing"
    """The method's folder in it."""
    data_dir: Path | None = None
    """Where prepared data sets lie; ~/tensorflow_datasets if not given."""
    silenced: tuple[str, ...] = ("conv4_2", "conv5_1")
    """Layers in which classes are silenced."""
    silenced_on: int = 4000
    """Test images that say what is lost."""
    output: Path | None = None
    """Where to write all numbers as JSON."""


def main(arguments: Arguments) -> None:
    """Measures, prints and writes; what is in OUTPUT.seeds.json is not measured again."""
    folders = sorted((arguments.sweep / arguments.method).glob("seed_*"))
    if not folders:
        raise SystemExit(f"{arguments.sweep / arguments.method} holds no runs.")
    kept = arguments.output and arguments.output.with_suffix(".seeds.json")
    settings = {
        "folder": str((arguments.sweep / arguments.method).resolve()),
        "silenced": list(arguments.silenced),
        "silenced_on": arguments.silenced_on,
    }
    before = json.loads(kept.read_text()) if kept and kept.exists() else {"settings": settings}
    if before["settings"] != settings:
        raise SystemExit(f"{kept} is of {before['settings']}, not of {settings}; name another.")
    found = before.get("seeds", {})
    config = trained.load_config(folders[0])
    dataset = data.load(config.data.name, arguments.data_dir, train_images=config.data.train_images)
    for folder in folders:
        if folder.name in found:
            continue
        plain = arguments.sweep / "baseline" / folder.name
        found[folder.name] = measure(plain, folder, dataset, arguments)
        print(f"{folder.name} done", flush=True)
        if kept:
            kept.write_text(json.dumps({"settings": settings, "seeds": found}))
    rows = tables(found, arguments)
    header = environment("jax", "flax", "optax", "scikit-learn")
    columns = ["", PLAIN, OWN, "", AGAIN]
    title = f"{arguments.method}: means of {len(found)} seeds"
    report(title, header, columns, rows, {"seeds": found}, arguments.output)


def measure(plain: Path, method: Path, dataset: data.Dataset, arguments: Arguments) -> dict:
    """Everything about one seed."""
    runs = {name: trained.read(path, dataset) for name, path in ((PLAIN, plain), (OWN, method))}
    order = np.random.default_rng(0).permutation(len(dataset.train_images))
    probed = order[:PROBED_ON]
    settled_on = probed[:SETTLED_ON]
    labels, classes = dataset.train_labels[probed], len(dataset.info.class_names)
    result = {"accuracy": {}, "layers": {}, "silenced": {}}
    for name, run in runs.items():
        layers = list(run.maps)
        shown = run.activations(dataset.test_images[:SHOWN], layers)
        seen = run.activations(dataset.train_images[probed], layers)
        metrics = run.evaluate(dataset.test_images, dataset.test_labels)
        result["accuracy"][name] = 100 * metrics.accuracy
        of_class = evidence(run, arguments.silenced, dataset.train_images[probed], labels, classes)
        for layer, map in run.maps.items():
            again = lgnn.settle(seen[layer][: len(settled_on)], map)
            ways = {PLAIN: again} if name == PLAIN else {OWN: np.arange(map.count), AGAIN: again}
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01))
            probe.fit(seen[layer], labels)
            right = probe.score(shown[layer], dataset.test_labels[:SHOWN])
            for way, places in ways.items():
                weights = run.kernel(layer).reshape(-1, map.count)
                numbers = on_map(
                    shown[layer][:, places], weights[:, places], dataset.test_labels[:SHOWN],
                    classes, map,
                )  # fmt: skip
                result["layers"].setdefault(way, {})[layer] = numbers | {"probe": 100 * right}
                if layer in arguments.silenced and way != AGAIN:
                    lost = silence(run, layer, places, of_class[layer], map, dataset, arguments)
                    result["silenced"].setdefault(way, {})[layer] = lost
    return result


def on_map(shown, weights, labels, classes, map) -> dict[str, float]:
    """The numbers of one layer whose neurons are in the map's order."""
    order = topography(shown.T, map, shuffles=1)
    means = class_means(shown, labels, classes)
    return {
        "neighbours": order.neighbours.value,
        "distance 3": correlation_by_distance(shown.T, map, shuffles=1).value[2],
        "class maps": class_regions(means, map).morans_i.mean(),
        "trust": order.trustworthiness.value,
        "trust of weights": trustworthiness(weights.T, map, shuffles=1).value,
        "dimension": order.effective_dimensionality,
    }


def evidence(run, layers, images, labels, classes) -> dict[str, np.ndarray]:
    """What each neuron does for each class, `(classes, neurons)`, in the order of the parameters.

    To first order, what the margin of the class would lose if the neuron gave 0: a mean over the
    class's images. The margin is the class's logit less the log-sum-exp of the others. Activation
    times gradient, summed over the pixels, is what the scale and the offset of the neuron's
    normalisation are, each times its own gradient.
    """
    found = {layer: [] for layer in layers}
    for label in range(classes):
        chosen = images[labels == label]
        total = dict.fromkeys(layers, 0)
        for i in range(0, len(chosen), BATCH):
            part = chosen[i : i + BATCH]
            padded = np.pad(part, [(0, BATCH - len(part)), (0, 0), (0, 0), (0, 0)])
            grads = _margin_gradient(
                run.network, run.params, run.state, padded, run.mean, run.deviation, label,
                len(part),
            )  # fmt: skip
            for layer in layers:
                for norm in _norms(run, layer):
                    values, slopes = at_path(run.params, norm), at_path(grads, norm)
                    total[layer] += sum(np.asarray(values[k] * slopes[k]) for k in values)
        for layer in layers:
            found[layer].append(total[layer] / len(chosen))
    return {layer: np.stack(rows) for layer, rows in found.items()}


@partial(jax.jit, static_argnums=0)
def _margin_gradient(network, params, state, images, mean, deviation, label, count):
    """Of the summed margins of the first images, the rest is padding."""

    def margins(params):
        x = data.standardize(images, mean, deviation)
        logits = network.apply(params, state, x).logits
        own = jnp.arange(logits.shape[1]) == label
        rest = jax.nn.logsumexp(logits, axis=1, where=~own)
        return ((logits[:, label] - rest) * (jnp.arange(len(logits)) < count)).sum()

    return jax.grad(margins)(params)


def silence(run, layer, places, of_class, map, dataset, arguments) -> dict[str, list[float]]:
    """Points lost by the class whose neurons are silenced, and by the others; means over classes.

    Beside the region: as many neurons anywhere, and those with the most evidence.
    """
    images = dataset.test_images[: arguments.silenced_on]
    labels = dataset.test_labels[: arguments.silenced_on]
    in_place = run.places.get(run.plan.layers[layer], np.arange(map.count))[places]
    on_map = of_class[:, in_place]
    regions = class_lesions(on_map, map)
    classes, size = regions.shape
    rng = np.random.default_rng(0)
    chosen = {
        "region": regions,
        "any": [rng.choice(map.count, size, replace=False) for _ in range(classes)],
        "most evidence": np.argsort(-on_map, axis=1)[:, :size],
    }
    intact = by_class(run, run.params, images, labels)
    lost = {}
    for name, neurons in chosen.items():
        own, others = [], []
        for number, where in enumerate(neurons):
            params = without(run, layer, in_place[where])
            drop = intact - by_class(run, params, images, labels)
            own.append(drop[number])
            others.append(np.delete(drop, number).mean())
        lost[name] = [float(np.mean(own)), float(np.mean(others))]
    return lost


def without(run: trained.Trained, layer: str, neurons: np.ndarray) -> Any:
    """The parameters with some neurons of a layer silenced: their normalisation gives 0."""
    params = jax.tree.map(np.array, run.params)
    for norm in _norms(run, layer):
        for values in at_path(params, norm).values():
            values[neurons] = 0
    return params


def _norms(run, layer) -> list[str]:
    """The paths of the normalisations of a layer."""
    (stream,) = [s for s in run.network.streams(run.plan.image_shape) if layer in s.writers]
    return stream.norms


def by_class(run, params, images, labels) -> np.ndarray:
    """Accuracy of each class, in percent."""
    parts = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
    guesses = np.concatenate(
        [_guess(run.network, params, run.state, part, run.mean, run.deviation) for part in parts]
    )
    return np.array([100 * (guesses[labels == c] == c).mean() for c in range(labels.max() + 1)])


@partial(jax.jit, static_argnums=0)
def _guess(network, params, state, images, mean, deviation):
    x = data.standardize(images, mean, deviation)
    return network.apply(params, state, x).logits.argmax(axis=-1)


def tables(found: dict[str, dict], arguments: Arguments) -> list[list[str]]:
    """The rows: accuracy, order, and what silencing costs."""
    seeds = list(found.values())
    accuracy = {way: np.array([s["accuracy"][way] for s in seeds]) for way in (PLAIN, OWN)}
    gain = accuracy[OWN] - accuracy[PLAIN]
    interval = ""
    if len(gain) > 1:
        half = scipy.stats.t.ppf(0.95, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain))
        interval = f" ({gain.mean() - half:+.2f} to {gain.mean() + half:+.2f})"
    means = {way: f"{values.mean():.2f}" for way, values in accuracy.items()}
    rows = [
        [
            "test accuracy, % (90 % interval)",
            means[PLAIN],
            means[OWN],
            f"{gain.mean():+.2f}{interval}",
            "",
        ]
    ]
    for name, title in MEASURES.items():
        values = {
            way: np.mean([[v[name] for v in s["layers"][way].values()] for s in seeds])
            for way in (PLAIN, OWN, AGAIN)
        }
        ratio, difference = values[OWN] / values[PLAIN], values[OWN] - values[PLAIN]
        compared = name in ("neighbours", "distance 3", "dimension")
        digits = {"dimension": 2, "probe": 2}.get(name, 3)
        plain, own, again = (f"{values[way]:.{digits}f}" for way in (PLAIN, OWN, AGAIN))
        change = f"x {ratio:.2f}" if compared else f"{difference:+.{digits}f}"
        rows.append([title, plain, own, change, again])
    for layer in arguments.silenced:
        for kind in ("region", "any", "most evidence"):
            lost = {
                way: np.mean([s["silenced"][way][layer][kind] for s in seeds], axis=0)
                for way in (PLAIN, OWN)
            }
            difference = lost[OWN] - lost[PLAIN]
            rows.append(
                [f"{layer}, {kind} silenced: points lost by the class / by others"]
                + [f"{lost[way][0]:.1f} / {lost[way][1]:.1f}" for way in (PLAIN, OWN)]
                + [f"{difference[0]:+.1f} / {difference[1]:+.1f}", ""]
            )
    return rows


if __name__ == "__main__":
    main(tyro.cli(Arguments))
