"""The sequence models from their equations, one history and one slot at a time, in float64.

``params`` are those of the library as numpy arrays. A history is a list of items without pads; where a model reads
pads, they are put in here, up to its full length.
"""

import math

import numpy as np


def layer_norm(p, x, epsilon):
    mean = sum(x) / len(x)
    variance = sum((x - mean) ** 2) / len(x)
    return (x - mean) / math.sqrt(variance + epsilon) * p["scale"] + p["bias"]


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def gelu(x):
    return np.array([value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])


def softmax(x):
    e = np.exp(np.asarray(x) - max(x))
    return e / e.sum()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def attend(p, query, memory, n_heads):
    """The answer to one query, ``memory`` a list of the slots that it sees."""
    dim = len(query)
    kernel, bias = p["in_projection"]["kernel"], p["in_projection"]["bias"]
    q = (query @ kernel + bias)[:dim]
    k = [(slot @ kernel + bias)[dim : 2 * dim] for slot in memory]
    v = [(slot @ kernel + bias)[2 * dim :] for slot in memory]
    answer = np.zeros(dim)
    size = dim // n_heads
    for head in range(n_heads):
        own = slice(head * size, (head + 1) * size)
        weights = softmax([q[own] @ key[own] / math.sqrt(size) for key in k])
        answer[own] = sum(weight * value[own] for weight, value in zip(weights, v, strict=True))
    return dense(p["out_projection"], answer)


def layers(p):
    return [p[str(number)] for number in range(len(p))]


def sasrec(p, items, *, n_heads, norm="query", pad_keys="attended"):
    """``[items, dim]``: the vectors after each item."""
    max_len, dim = p["position"].shape
    n_pads = max_len - len(items)
    x = [np.zeros(dim)] * n_pads
    x += [math.sqrt(dim) * p["item"][item] + p["position"][n_pads + t] for t, item in enumerate(items)]
    for block in layers(p["blocks"]):
        normal = [layer_norm(block["attention_norm"], slot, 1e-8) for slot in x]
        memory = normal if norm == "pre" else x
        after = [np.zeros(dim)] * n_pads
        for t in range(n_pads, max_len):
            seen = memory[: t + 1] if pad_keys == "attended" else memory[n_pads : t + 1]
            h = x[t] + attend(block["attention"], normal[t], seen, n_heads)
            z = layer_norm(block["forward_norm"], h, 1e-8)
            f = dense(block["output"], np.maximum(dense(block["hidden"], z), 0))
            after.append(f + (h if norm == "pre" else z))
        x = after
    return np.array([layer_norm(p["norm"], slot, 1e-8) for slot in x[n_pads:]])


def gru4rec(p, items):
    """``[items, dim]``: the vectors after each item."""
    inputs = [p["item"][item] for item in items]
    for layer in layers(p["layers"]):
        w_r, w_z, w_n = np.split(layer["input"], 3, axis=1)
        u_r, u_z, u_n = np.split(layer["state"], 3, axis=1)
        h, states = np.zeros(len(u_r)), []
        for x in inputs:
            r, z = sigmoid(x @ w_r + h @ u_r), sigmoid(x @ w_z + h @ u_z)
            n = np.tanh(x @ w_n + r * (h @ u_n))
            h = (1 - z) * n + z * h
            states.append(h)
        inputs = states
    return np.array([dense(p["output"], h) for h in inputs])


def caser(p, items, user, *, max_len):
    """``[2 dim + 1]``: the layer's and the user's vector, and the 1 that a bias is multiplied by."""
    pad = len(p["item"]) - 1
    x = p["item"][[pad] * (max_len - len(items)) + list(items)]
    dim, features = x.shape[1], []
    for f in range(p["vertical"]["kernel"].shape[1]):
        features += [x[:, d] @ p["vertical"]["kernel"][:, f] + p["vertical"]["bias"][f] for d in range(dim)]
    for height in range(1, max_len + 1):
        filters = p["horizontal"][str(height - 1)]
        for f in range(filters["kernel"].shape[1]):
            kernel = filters["kernel"][:, f].reshape(height, dim)
            responses = [
                (x[t : t + height] * kernel).sum() + filters["bias"][f] for t in range(max_len - height + 1)
            ]
            features.append(max(0.0, *responses))
    z = np.maximum(dense(p["hidden"], np.array(features)), 0)
    return np.concatenate([z, p["user"][user], [1.0]])


def bert4rec(p, items, *, n_heads):
    """``[items, dim]``: the vectors at each item, which may be the mask token."""
    first = len(p["position"]) - len(items)
    x = [
        layer_norm(p["norm"], p["item"][item] + p["position"][first + t], 1e-5)
        for t, item in enumerate(items)
    ]
    for block in layers(p["blocks"]):
        h = [slot + attend(block["attention"], slot, x, n_heads) for slot in x]
        h = [layer_norm(block["attention_norm"], slot, 1e-5) for slot in h]
        f = [dense(block["output"], gelu(dense(block["hidden"], slot))) for slot in h]
        x = [layer_norm(block["forward_norm"], a + b, 1e-5) for a, b in zip(h, f, strict=True)]
    return np.array(x)


def fmlp_rec(p, items):
    """``[max_len, dim]``: the vectors of all slots."""
    max_len, dim = p["position"].shape
    pad = len(p["item"]) - 1
    items = [pad] * (max_len - len(items)) + list(items)
    x = [layer_norm(p["norm"], p["item"][item] + p["position"][t], 1e-12) for t, item in enumerate(items)]
    for block in layers(p["blocks"]):
        real, imaginary = block["filter"]
        spectrum = np.fft.rfft(np.array(x), axis=0, norm="ortho") * (real + 1j * imaginary)
        filtered = np.fft.irfft(spectrum, n=max_len, axis=0, norm="ortho")
        h = [layer_norm(block["filter_norm"], a + b, 1e-12) for a, b in zip(x, filtered, strict=True)]
        f = [dense(block["output"], gelu(dense(block["hidden"], slot))) for slot in h]
        x = [layer_norm(block["forward_norm"], a + b, 1e-12) for a, b in zip(h, f, strict=True)]
    return np.array(x)
