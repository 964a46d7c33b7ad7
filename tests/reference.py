"""Slow float64 numpy reference for the mathematics of locality guided neural networks.

Everything here is written from the formulas alone, so that a faster implementation can be
compared with it. Images and activations are NHWC, convolution kernels HWIO; parameters, statistics
and gradients are nested dictionaries of arrays.
"""

import numpy as np

EPSILON = 1e-5
RETAINED = 0.9  # share of the old value in each update of the running statistics


def _tree(function, *trees):
    """Apply a function to corresponding leaves of equally structured nested dictionaries."""
    if not isinstance(trees[0], dict):
        return function(*trees)
    if any(tree.keys() != trees[0].keys() for tree in trees):
        raise ValueError("the nested dictionaries differ in their keys")
    return {key: _tree(function, *(tree[key] for tree in trees)) for key in trees[0]}


def _double(tree):
    """Return the nested dictionary (or array) with every leaf in float64."""
    return _tree(lambda leaf: np.asarray(leaf, dtype=np.float64), tree)


# Locality: Algorithm 1 of the paper.


def gaussian(sigma, size):
    """Return the (size, size) window exp(-(r^2 + c^2) / (2 sigma^2)), scaled to sum to 1."""
    if size % 2 == 0:
        raise ValueError("the window needs a centre, so its size must be odd")
    if sigma < 0:
        raise ValueError("sigma must not be negative")
    window = np.zeros((size, size))
    half = size // 2
    if sigma == 0:
        # The limit of the formula, which divides by zero here.
        window[half, half] = 1.0
        return window
    for row in range(size):
        for column in range(size):
            squared_distance = (row - half) ** 2 + (column - half) ** 2
            window[row, column] = np.exp(-squared_distance / (2.0 * sigma**2))
    return window / window.sum()


def _source(position, side, padding):
    """Return the index a padded position reads from, or None where it reads a zero."""
    if 0 <= position < side:
        return position
    if padding == "replicate":
        return 0 if position < 0 else side - 1
    if padding == "wrap":
        return position % side
    if padding == "zero":
        return None
    raise ValueError(f"unknown padding {padding!r}")


def _pad_map(maps, width, padding):
    """Pad the last two axes of [rest, 1, m, n] by `width` on every side."""
    rest, one, m, n = maps.shape
    padded = np.zeros((rest, one, m + 2 * width, n + 2 * width))
    # One index at a time: this holds for any width, even one greater than the map's side.
    for row in range(m + 2 * width):
        for column in range(n + 2 * width):
            i = _source(row - width, m, padding)
            j = _source(column - width, n, padding)
            if i is not None and j is not None:
                padded[:, :, row, column] = maps[:, :, i, j]
    return padded


def low_pass(gradient, dims, sigma=0.5, size=3, padding="replicate", neuron_axis=-1):
    """Low-pass filter a kernel gradient over its map of neurons (Algorithm 1, equation 3)."""
    m, n = dims
    gradient = np.asarray(gradient, dtype=np.float64)
    neurons_last = np.moveaxis(gradient, neuron_axis, -1)
    if neurons_last.shape[-1] != m * n:
        raise ValueError(f"{neurons_last.shape[-1]} neurons do not fill a map of {m} by {n}")
    # Row by row, neuron j lands at (j // n, j % n).
    maps = neurons_last.reshape(-1, 1, m, n)
    window = gaussian(sigma, size)
    padded = _pad_map(maps, size // 2, padding)
    filtered = np.zeros_like(maps)
    for row in range(size):
        for column in range(size):
            filtered += window[row, column] * padded[:, :, row : row + m, column : column + n]
    return np.moveaxis(filtered.reshape(neurons_last.shape), -1, neuron_axis)


# Layers, each with its derivative where the VGG needs one.


def _windows(side, offset, stride, outputs):
    """Return the slice of a padded axis that kernel offset `offset` meets."""
    stop = offset + stride * (outputs - 1) + 1
    if stop > side:
        raise ValueError("the kernel leaves the padded image")
    return slice(offset, stop, stride)


def _convolution_patches(images, size, stride):
    """Yield (row, column, index) for each kernel offset; index selects the inputs it meets."""
    padded_height = images.shape[1] + 2 * (size // 2)
    padded_width = images.shape[2] + 2 * (size // 2)
    height = (padded_height - size) // stride + 1
    width = (padded_width - size) // stride + 1
    for row in range(size):
        for column in range(size):
            rows = _windows(padded_height, row, stride, height)
            columns = _windows(padded_width, column, stride, width)
            yield row, column, (slice(None), rows, columns)


def _pad_images(images, width):
    """Pad height and width with `width` zeros on both sides."""
    return np.pad(images, ((0, 0), (width, width), (width, width), (0, 0)))


def convolution(images, kernel, stride=1):
    """Correlate NHWC images with a square odd HWIO kernel, zero-padded by half on each side."""
    size = kernel.shape[0]
    padded = _pad_images(images, size // 2)
    return sum(
        padded[index] @ kernel[row, column]
        for row, column, index in _convolution_patches(images, size, stride)
    )


def convolution_backward(images, kernel, output_gradient, stride=1):
    """Return the gradients of a convolution with respect to its images and its kernel."""
    size = kernel.shape[0]
    half = size // 2
    padded = _pad_images(images, half)
    padded_gradient = np.zeros_like(padded)
    kernel_gradient = np.zeros_like(kernel)
    for row, column, index in _convolution_patches(images, size, stride):
        padded_gradient[index] += output_gradient @ kernel[row, column].T
        kernel_gradient[row, column] = np.einsum("nhwi,nhwo->io", padded[index], output_gradient)
    height, width = images.shape[1:3]
    return padded_gradient[:, half : half + height, half : half + width], kernel_gradient


def batch_moments(x):
    """Return the mean and the biased variance of each channel over N, H and W."""
    mean = x.mean(axis=(0, 1, 2))
    return mean, ((x - mean) ** 2).mean(axis=(0, 1, 2))


def batch_norm(x, parameters, mean, variance):
    """Return scale * (x - mean) / sqrt(variance + epsilon) + bias."""
    normalised = (x - mean) / np.sqrt(variance + EPSILON)
    return parameters["scale"] * normalised + parameters["bias"]


def batch_norm_backward(x, parameters, output_gradient):
    """Return the gradients for x, scale and bias when the batch's own moments normalise x.

    With h = (x - mean) / s, s = sqrt(variance + epsilon) and g = scale * output_gradient, both
    moments depend on x, which gives dL/dx = (g - mean(g) - h * mean(g * h)) / s.
    """
    axes = (0, 1, 2)
    mean, variance = batch_moments(x)
    deviation = np.sqrt(variance + EPSILON)
    normalised = (x - mean) / deviation
    g = parameters["scale"] * output_gradient
    x_gradient = (g - g.mean(axes) - normalised * (g * normalised).mean(axes)) / deviation
    gradients = {
        "scale": (output_gradient * normalised).sum(axes),
        "bias": output_gradient.sum(axes),
    }
    return x_gradient, gradients


def relu(x):
    """Return max(x, 0)."""
    return np.where(x > 0, x, 0.0)


def _pool_cells(x):
    """Yield the four strided indices whose elementwise maximum is the 2x2 max pool."""
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2  # an odd last row or column drops out
    for row in range(2):
        for column in range(2):
            yield slice(None), slice(row, height, 2), slice(column, width, 2)


def max_pool(x):
    """Return the maximum of each 2x2 square, stride 2."""
    return np.max([x[index] for index in _pool_cells(x)], axis=0)


def max_pool_backward(x, output_gradient):
    """Send each gradient to the first maximum of its 2x2 square."""
    indices = list(_pool_cells(x))
    winner = np.argmax([x[index] for index in indices], axis=0)
    x_gradient = np.zeros_like(x)
    for cell, index in enumerate(indices):
        x_gradient[index] = np.where(winner == cell, output_gradient, 0.0)
    return x_gradient


def dense(x, parameters):
    """Return x @ kernel + bias."""
    return x @ parameters["kernel"] + parameters["bias"]


def cross_entropy(logits, labels):
    """Return the mean softmax cross-entropy and its gradient (softmax - one-hot) / N."""
    count = len(logits)
    shifted = logits - logits.max(axis=1, keepdims=True)  # the loss is the same, without overflow
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -log_probabilities[np.arange(count), labels].mean()
    one_hot = np.zeros_like(logits)
    one_hot[np.arange(count), labels] = 1.0
    return loss, (np.exp(log_probabilities) - one_hot) / count


# VGG: training-mode forward and backward.


def _unit_forward(x, convolution_parameters, norm_parameters):
    """Run convolution, batch norm and ReLU; return the output and what the backward needs."""
    before = convolution(x, convolution_parameters["kernel"]) + convolution_parameters["bias"]
    after = batch_norm(before, norm_parameters, *batch_moments(before))
    return relu(after), (x, before, after)


def _unit_backward(saved, convolution_parameters, norm_parameters, output_gradient):
    """Return the gradients of one unit: for its input, its convolution and its batch norm."""
    x, before, after = saved
    after_gradient = np.where(after > 0, output_gradient, 0.0)
    before_gradient, norm_gradients = batch_norm_backward(before, norm_parameters, after_gradient)
    x_gradient, kernel_gradient = convolution_backward(
        x, convolution_parameters["kernel"], before_gradient
    )
    convolution_gradients = {"kernel": kernel_gradient, "bias": before_gradient.sum((0, 1, 2))}
    return x_gradient, convolution_gradients, norm_gradients


def _running(old, moments):
    """Return the updated running statistics of one batch norm (biased batch variance)."""
    mean, variance = moments
    return {
        "mean": RETAINED * old["mean"] + (1.0 - RETAINED) * mean,
        "var": RETAINED * old["var"] + (1.0 - RETAINED) * variance,
    }


def vgg_loss_and_gradients(params, batch_stats, images, labels, blocks):
    """Return (loss, logits, gradients, new_batch_stats) of one training-mode step of a VGG."""
    params, batch_stats = _double(params), _double(batch_stats)
    x = np.asarray(images, dtype=np.float64)
    labels = np.asarray(labels)
    saved, new_batch_stats = [], {}
    for block, channels in enumerate(blocks, start=1):
        for index, width in enumerate(channels, start=1):
            name = f"{block}_{index}"
            if params[f"conv{name}"]["kernel"].shape != (3, 3, x.shape[-1], width):
                raise ValueError(f"the kernel of conv{name} does not match the blocks")
            x, unit = _unit_forward(x, params[f"conv{name}"], params[f"bn{name}"])
            saved.append((name, unit))
            moments = batch_moments(unit[1])
            new_batch_stats[f"bn{name}"] = _running(batch_stats[f"bn{name}"], moments)
        saved.append(("pool", x))
        x = max_pool(x)
    features = x.mean(axis=(1, 2))
    logits = dense(features, params["head"])
    loss, logits_gradient = cross_entropy(logits, labels)

    gradients = {
        "head": {"kernel": features.T @ logits_gradient, "bias": logits_gradient.sum(axis=0)}
    }
    features_gradient = logits_gradient @ params["head"]["kernel"].T
    positions = x.shape[1] * x.shape[2]
    g = np.broadcast_to(features_gradient[:, None, None, :] / positions, x.shape)
    for name, kept in reversed(saved):
        if name == "pool":
            g = max_pool_backward(kept, g)
            continue
        g, gradients[f"conv{name}"], gradients[f"bn{name}"] = _unit_backward(
            kept, params[f"conv{name}"], params[f"bn{name}"], g
        )
    return loss, logits, {key: gradients[key] for key in params}, new_batch_stats


# Optimiser.


def sgd_step(params, momentum_buffers, gradients, learning_rate, momentum=0.9, weight_decay=5e-4):
    """Return (new_params, new_buffers): b <- momentum b + (g + weight_decay p); p <- p - lr b.

    The gradients are those already filtered: the decay is added to them afterwards, unfiltered,
    and to every parameter.
    """
    params, gradients = _double(params), _double(gradients)
    buffers = _double(momentum_buffers)
    decayed = _tree(lambda g, p: g + weight_decay * p, gradients, params)
    new_buffers = _tree(lambda b, g: momentum * b + g, buffers, decayed)
    return _tree(lambda p, b: p - learning_rate * b, params, new_buffers), new_buffers


# Wide ResNet: forward only, without dropout.


def _norm(x, parameters, statistics, train):
    """Normalise with the batch's moments when training, else with the running statistics."""
    moments = batch_moments(x) if train else (statistics["mean"], statistics["var"])
    return batch_norm(x, parameters, *moments)


def wide_resnet_plan(depth, widen):
    """Return [(group, block, in channels, out channels, stride)] of a Wide ResNet, depth 6n+4."""
    if depth < 10 or (depth - 4) % 6:
        raise ValueError("the depth of a Wide ResNet is 6n + 4")
    plan, channels = [], 16
    for group, width in enumerate((16 * widen, 32 * widen, 64 * widen), start=1):
        for block in range(1, (depth - 4) // 6 + 1):
            stride = 2 if group > 1 and block == 1 else 1
            plan.append((group, block, channels, width, stride))
            channels = width
    return plan


def wide_resnet_logits(params, batch_stats, images, depth, widen, *, train):
    """Return (logits, activations) of a pre-activation Wide ResNet.

    `activations` maps the path of each convolution to the tensors before and after the first ReLU
    that its output channels pass through. What is written to the residual stream (by the stem, by
    a conv2 and by a shortcut) meets its first ReLU after the next batch norm of that stream.
    """
    params, batch_stats = _double(params), _double(batch_stats)
    activations = {}
    x = convolution(np.asarray(images, dtype=np.float64), params["stem"]["kernel"])
    writers = ["stem"]  # the convolutions whose output the stream's next ReLU receives
    for group, block, channels, width, stride in wide_resnet_plan(depth, widen):
        path = f"group{group}/block{block}"
        layers = params[f"group{group}"][f"block{block}"]
        statistics = batch_stats[f"group{group}"][f"block{block}"]
        projects = channels != width or stride != 1
        if projects != ("shortcut" in layers):
            raise ValueError(f"{path}: shortcut convolution missing or unexpected")

        before = _norm(x, layers["bn1"], statistics["bn1"], train)
        o = relu(before)
        activations.update({writer: (before, o) for writer in writers})

        y = convolution(o, layers["conv1"]["kernel"], stride)
        before = _norm(y, layers["bn2"], statistics["bn2"], train)
        y = relu(before)
        activations[f"{path}/conv1"] = (before, y)

        y = convolution(y, layers["conv2"]["kernel"])
        writers = [f"{path}/conv2"]
        if projects:
            # The projection reads the activated stream; the identity passes on the raw one.
            x = convolution(o, layers["shortcut"]["kernel"], stride)
            writers.append(f"{path}/shortcut")
        x = y + x
    before = _norm(x, params["bn"], batch_stats["bn"], train)
    after = relu(before)
    activations.update({writer: (before, after) for writer in writers})
    return dense(after.mean(axis=(1, 2)), params["head"]), activations
