"""Other ways to lay neurons out on a grid, for `settling.py` to compare with.

Each is a function of features `(samples, neurons)` and a grid, and returns places as `settle` does:
the neuron at each place. What is alike is what correlates: neurons are vectors over the samples,
centred and of norm 1, so that squared distances are 2 - 2 * correlation.
"""

import warnings
from collections.abc import Callable

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.optimize import linear_sum_assignment, quadratic_assignment

from lgnn_jax.maps.grid import Grid
from lgnn_jax.maps.settling import settle

Layout = Callable[[np.ndarray, Grid], np.ndarray]


def vectors(features: np.ndarray) -> np.ndarray:
    """Returns neurons as vectors: float32 `(neurons, samples)`, centred, of norm 1."""
    centred = features - features.mean(axis=0)
    norm = np.linalg.norm(centred, axis=0)
    return (centred / np.where(norm > 0, norm, 1)).T.astype(np.float32)


def assigned(points: np.ndarray, map: Grid) -> np.ndarray:
    """Returns places for points of a plane: those that move the points least.

    The points are stretched to the sides of the grid before. Then the sum of the squared distances
    from point to place is as small as it can be.

    Args:
      points: `(neurons, 2)`.
      map: of two sides.
    """
    target = map.positions
    scaled = (points - points.min(axis=0)) / np.ptp(points, axis=0) * target.max(axis=0)
    cost = np.square(target[:, None] - scaled).sum(axis=-1)
    return linear_sum_assignment(cost)[1]


def upright(points: np.ndarray, map: Grid) -> np.ndarray:
    """Returns points with the axis along which they spread more on the longer side of the map."""
    longer_last = np.ptp(points[:, 0]) < np.ptp(points[:, 1])
    return points[:, ::-1] if longer_last == (map.sides[0] >= map.sides[1]) else points


def pca(features: np.ndarray, map: Grid) -> np.ndarray:
    """Two principal components, assigned to the places."""
    from sklearn.decomposition import PCA

    return assigned(upright(PCA(2, random_state=0).fit_transform(vectors(features)), map), map)


def isomatch(features: np.ndarray, map: Grid) -> np.ndarray:
    """Isomap, assigned to the places.

    Reference:
      Fried et al., "IsoMatch: creating informative grid layouts", 2015; without its random swaps.
    """
    from sklearn.manifold import Isomap

    points = Isomap(n_neighbors=15).fit_transform(vectors(features))
    return assigned(upright(points, map), map)


def tsne_points(features: np.ndarray, perplexity: float) -> np.ndarray:
    """t-SNE by correlation distance: `(neurons, 2)`."""
    from sklearn.manifold import TSNE

    model = TSNE(perplexity=perplexity, metric="correlation", init="pca", random_state=0)
    return model.fit_transform(vectors(features))


def tsne(perplexity: float) -> Layout:
    """t-SNE, assigned to the places."""
    return lambda features, map: assigned(upright(tsne_points(features, perplexity), map), map)


def rasterfairy(perplexity: float) -> Layout:
    """t-SNE, brought to the grid by RasterFairy, which cuts the points in rows and columns."""

    def layout(features, map):
        from rasterfairy import transformPointCloud2D

        if not hasattr(np, "float"):
            np.float = float  # RasterFairy 1.0.6 asks for it, and numpy 1.24 took it away
        points = upright(tsne_points(features, perplexity), map).astype(np.float64)
        to_places, _ = transformPointCloud2D(points, target=map.sides)
        return np.argsort(np.ravel_multi_index(np.array(to_places, int).T, map.sides))

    return layout


def umap(features: np.ndarray, map: Grid) -> np.ndarray:
    """UMAP by correlation distance with its default settings, assigned to the places."""
    from umap import UMAP

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed leaves it one thread
        points = UMAP(metric="correlation", random_state=0).fit_transform(vectors(features))
    return assigned(upright(points, map), map)


def minisom(epochs: int) -> Layout:
    """An online SOM, of MiniSom, from principal components; see `to_units`."""

    def layout(features, map):
        from minisom import MiniSom

        neurons = vectors(features)
        som = MiniSom(
            *map.sides,
            neurons.shape[1],
            sigma=max(map.sides) / 4,
            learning_rate=0.5,
            decay_function="linear_decay_to_zero",
            sigma_decay_function="asymptotic_decay",  # to 1
            random_seed=0,
        )
        som.pca_weights_init(neurons)
        som.train(neurons, epochs, random_order=True, use_epochs=True)
        return to_units(neurons, som.get_weights().reshape(map.count, -1))

    return layout


def batch_som(epochs: int) -> Layout:
    """A batch SOM from principal components, its width from a quarter of the map to 1.

    Reference:
      Kohonen, "Essentials of the self-organizing map", 2013.
    """

    def layout(features, map):
        neurons, squares = vectors(features), np.square(map.distances()).astype(np.float32)
        units = neurons[pca(features, map)]
        for width in np.geomspace(max(map.sides) / 4, 1, epochs).astype(np.float32):
            nearest = (neurons @ units.T - np.square(units).sum(axis=1) / 2).argmax(axis=1)
            near = np.exp(-squares[nearest] / (2 * width**2))
            near /= np.maximum(near.sum(axis=0), np.finfo(np.float32).tiny)
            units = near.T @ neurons
        return to_units(neurons, units)

    return layout


def to_units(neurons: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Returns places that give each unit of a trained SOM one neuron, nearest over all.

    Several neurons are nearest to some units of a SOM, and none to others.
    """
    cost = np.square(units).sum(axis=1)[:, None] - 2 * units @ neurons.T
    return linear_sum_assignment(cost)[1]


def las(decay: float) -> Layout:
    """Linear assignment sorting, from a random start.

    The map of vectors is blurred by a mean over a square around each place, and all neurons are
    assigned to what comes out; then the square shrinks.

    Reference:
      Barthel, Hezel, Jung and Schall, "Improved evaluation and generation of grid layouts using
      distance preservation quality and linear assignment sorting", 2023.
    """

    def layout(features, map):
        neurons = vectors(features)
        places = np.random.default_rng(0).permutation(map.count)
        radius = max(map.sides) / 2
        while radius >= 1:
            sides = [2 * min(int(radius), side - 1) + 1 for side in map.sides]
            blurred = uniform_filter(
                neurons[places].reshape(*map.sides, -1), (*sides, 1), mode="mirror"
            )
            alike = blurred.reshape(map.count, -1) @ neurons.T
            places = linear_sum_assignment(alike, maximize=True)[1]
            radius *= decay
        return places

    return layout


def flas(decay: float) -> Layout:
    """Fast linear assignment sorting, by the authors of `las`: it assigns few neurons at a time."""

    def layout(features, map):
        import vc_flas

        grid = vc_flas.Grid.from_features(vectors(features), size=map.sides)
        found = vc_flas.flas(grid, wrap=False, radius_decay=decay, seed=0)
        return found.get_sorted_labels().ravel().astype(int)

    return layout


def faq(width: float) -> Layout:
    """A general solver of quadratic assignment problems, `scipy.optimize.quadratic_assignment`.

    It maximises what `settle` does, at one width.

    Reference:
      Vogelstein et al., "Fast approximate quadratic programming for graph matching", 2015.
    """

    def layout(features, map):
        neurons = vectors(features)
        alike = (neurons @ neurons.T).astype(np.float64)
        near = np.exp(-np.square(map.distances()) / (2 * width**2))
        np.fill_diagonal(alike, 0)
        np.fill_diagonal(near, 0)
        options = {"maximize": True, "rng": np.random.default_rng(0), "maxiter": 100, "tol": 1e-3}
        return quadratic_assignment(near, alike, method="faq", options=options).col_ind

    return layout


def tsne_then_settle(features: np.ndarray, map: Grid) -> np.ndarray:
    """`settle` from t-SNE's places instead of its own start."""
    return settle(features, map, start=tsne(50)(features, map), start_width=max(map.sides) / 8)


LAYOUTS: dict[str, Layout] = {
    "2 principal components, assigned": pca,
    "Isomap, assigned (IsoMatch)": isomatch,
    "UMAP, assigned": umap,
    "t-SNE, perplexity 30, assigned": tsne(30),
    "t-SNE, perplexity 50, assigned": tsne(50),
    "t-SNE, perplexity 50, RasterFairy": rasterfairy(50),
    "SOM, online (MiniSom), 10 epochs": minisom(10),
    "SOM, batch, 100 epochs": batch_som(100),
    "LAS, radius decay 0.9": las(0.9),
    "FLAS (vc_flas), radius decay 0.93": flas(0.93),
    "FLAS (vc_flas), radius decay 0.99": flas(0.99),
    "t-SNE, perplexity 50, then settle": tsne_then_settle,
    "FAQ (scipy), width 1": faq(1.0),
}
