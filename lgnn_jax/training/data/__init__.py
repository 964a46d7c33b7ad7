"""Image classification data sets, in memory and batch by batch."""

from lgnn_jax.training.data.batches import (
    Crops,
    augment,
    draw_crops,
    order,
    standardize,
    statistics,
)
from lgnn_jax.training.data.sources import DataError, Dataset, Info, describe, load

__all__ = [
    "Crops",
    "DataError",
    "Dataset",
    "Info",
    "augment",
    "describe",
    "draw_crops",
    "load",
    "order",
    "standardize",
    "statistics",
]
