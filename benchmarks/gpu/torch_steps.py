"""PyTorch's training step on a GPU, doing all that ours does: eager, in a CUDA graph, compiled."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch
import torch

from lgnn_jax.maps.windows import gaussian_kernel
from lgnn_jax.training import data
from lgnn_jax.training.session import plan

_WARM_UP = 5  # steps before a graph is captured; the first of them compile


def timings(kit: Any, case: str, mode: str) -> dict[str, Any]:
    """Milliseconds a step without the filter and with it, in turn; medians of 7 rounds.

    Args:
      kit: for the images.
      case: `name[@width],batch[,dtype]`; float32 is TF32 on GPUs, as JAX has it.
      mode: "eager"; "graph", the whole step in a CUDA graph; "compiled", that too, with network,
        batches and filter compiled.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not kit.tiny:
        raise RuntimeError("PyTorch finds no GPU.")
    torch.set_default_device(device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    config = kit.config(case)
    maps = {path: m.map.sides for path, m in plan(config, kit.dataset.info).maps.items() if m}
    # Whatever a graph has captured has to stay alive as long as it is replayed.
    steps = {
        name: _step(kit, config, mode, device, maps=maps if name == "constant" else {})
        for name in ("baseline", "constant")
    }
    count = 2 if kit.tiny else 200
    rounds = {name: [] for name in steps}
    for i in range((2 if kit.tiny else 7) + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            for _ in range(count):
                step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if i > 0:  # the first round warms up
                rounds[name].append(1e3 * (time.perf_counter() - started) / count)
    medians = {name: round(float(np.median(x)), 4) for name, x in rounds.items()}
    return {"timing": {"ms": medians, "rounds": rounds}}


def _step(kit, config, mode, device, *, maps) -> Callable[[], Any]:
    dataset, model, o = kit.dataset, config.model, config.optimizer
    network = pytorch.build(
        model.name,
        width=model.width,
        dropout=model.dropout,
        classes=len(dataset.class_names),
        channels_in=dataset.info.image_shape[-1],
    )
    mean, deviation = (
        torch.from_numpy(x).to(device) for x in data.statistics(dataset.train_images)
    )
    batch = pytorch.make_batches(
        torch.from_numpy(dataset.train_images).to(device),
        torch.from_numpy(dataset.train_labels).long().to(device),
        mean=mean,
        deviation=deviation,
        pad=config.data.pad,
        flip=config.data.flip,
    )
    compiled = mode == "compiled" and device.type == "cuda"
    train = pytorch.make_step(
        network,
        learning_rate=o.learning_rate,
        momentum=o.momentum,
        weight_decay=o.weight_decay,
        maps=maps,
        window=torch.from_numpy(np.array(gaussian_kernel(0.5))).to(device),
        autocast=torch.bfloat16 if model.dtype == "bfloat16" else None,
        transform=torch.compile if compiled else lambda function: function,
    )
    if compiled:
        batch = torch.compile(batch)
    indices = torch.randint(len(dataset.train_images), (config.batch_size,))

    def step():
        return train(*batch(indices))

    if mode == "eager" or device.type == "cpu":
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay(kept=(step, network, batch, indices)):
        del kept  # bound as a default, so that it lives as long as this function
        graph.replay()

    return replay
