"""Which softmax the negatives of each in-batch loss follow, against the batch size.

    python benchmarks/in_batch_targets.py

One query with scores from N(0, 1.5^2) for 200 items of Zipf popularity; a batch is B items drawn by popularity, and the
expected gradient of each loss in the scores, added to the positive, is what its negatives weigh. Printed is the L1
distance of that to three distributions, a mean over draws of batches (and of resampled columns). The limits are those
of ``losses.in_batch``; ``tests/statistical/test_in_batch_claims.py`` has them without noise for small batches.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from debias_jax import losses, sampling
from debias_jax.types import Array

N_ITEMS = 200
ELEMENTS = 2**21  # scores of one block of batches


def in_batch(**options):
    """A loss of one row of scores, of which no column is the positive's."""

    def loss(scores: Array, log_pop: Array, key) -> Array:
        del key
        log_q = log_pop if options.get("corrected") else jnp.zeros_like(log_pop)
        logits = options.get("sharpness", 1.0) * scores - log_q
        return jax.nn.logsumexp(logits) / options.get("sharpness", 1.0)

    return loss


def resampled(variant: str):
    """BIR's loss with as many columns drawn anew as there are."""

    def loss(scores: Array, log_pop: Array, key) -> Array:
        logits = jax.lax.stop_gradient(scores) - log_pop
        indices = sampling.in_batch_resample(key, logits, n=scores.shape[0])
        log_w = jax.nn.log_softmax(logits)[None, :] if variant == "corrected" else None
        return losses.resampled_softmax(
            jnp.zeros(1), scores[None, :], indices[None, :], log_w=log_w, variant=variant
        )

    return loss


FORMS = {
    "`in_batch_softmax`": in_batch(),
    "`in_batch_softmax(log_q)`": in_batch(corrected=True),
    "`in_batch_softmax(log_q, sharpness=2)`": in_batch(corrected=True, sharpness=2.0),
    "`resampled_softmax` (BIR)": resampled("published"),
    '`resampled_softmax(variant="corrected")`': resampled("corrected"),
    '`resampled_softmax(variant="mean")`': resampled("mean"),
}


def expected(loss, scores: np.ndarray, popularity: np.ndarray, size: int, *, batches: int) -> np.ndarray:
    """What the negatives weigh, by item, a mean over batches."""
    log_pop = jnp.asarray(np.log(popularity), jnp.float32)
    all_scores = jnp.asarray(scores, jnp.float32)
    cumulative = jnp.cumsum(jnp.asarray(popularity, jnp.float32))

    @jax.jit
    def block(keys):
        def one(key):
            draw, resample = jax.random.split(key)
            uniform = jax.random.uniform(draw, (size,)) * cumulative[-1]
            items = jnp.minimum(jnp.searchsorted(cumulative, uniform, side="right"), N_ITEMS - 1)
            weights = jax.grad(loss)(all_scores[items], log_pop[items], resample)
            return jnp.zeros(N_ITEMS).at[items].add(weights)

        return jax.vmap(one)(keys).mean(axis=0)

    per_block = max(1, min(batches, ELEMENTS // size))
    blocks = -(-batches // per_block)
    keys = jax.random.split(jax.random.key(0), (blocks, per_block))
    return np.mean([np.asarray(block(part), np.float64) for part in keys], axis=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="64,512,4096", help="batch sizes, comma-separated")
    parser.add_argument("--draws", type=int, default=4_000_000, help="items drawn for each cell")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.sizes.split(",")]
    rng = np.random.default_rng(0)
    scores = rng.normal(0.0, 1.5, N_ITEMS)
    popularity = 1.0 / np.arange(1, N_ITEMS + 1)
    popularity = rng.permutation(popularity / popularity.sum())
    softmax = np.exp(scores) / np.exp(scores).sum()
    targets = {
        "pop x softmax(s)": popularity * softmax / (popularity * softmax).sum(),
        "softmax(s)": softmax,
        "softmax(2s)": softmax**2 / (softmax**2).sum(),
    }
    print("| loss | " + " | ".join(f"B = {size}: {target}" for size in sizes for target in targets) + " |")
    print("|---" * (1 + len(sizes) * len(targets)) + "|")
    for name, loss in FORMS.items():
        cells = []
        for size in sizes:
            weights = expected(loss, scores, popularity, size, batches=max(1, arguments.draws // size))
            distances = {target: np.abs(weights - law).sum() for target, law in targets.items()}
            nearest = min(distances, key=distances.get)
            cells += [f"**{d:.3f}**" if t == nearest else f"{d:.3f}" for t, d in distances.items()]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
