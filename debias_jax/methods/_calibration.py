r"""Calibration experts (DCE): several Platt scalings of a logit, one picked for each user by a gate.

.. math::
    q_{ui} = \sum_m g_m(u)\, \sigma(a_m s_{ui} + b_m), \qquad
    g(u) = \operatorname{softmax}\Big( \frac{W \omega_u + c + \text{Gumbel noise}}{T} \Big)

At temperature T near 0 the gate picks one expert at random, m with probability softmax(W omega_u + c)_m; the mean over
the noise is then the mixture without noise at T = 1.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from debias_jax import optimizers, sampling
from debias_jax.methods.base import TrainData
from debias_jax.methods.cvr_batches import look_up
from debias_jax.types import Array, Key, Params

FINAL_TEMPERATURE = 1e-3

HELD_OUT_SHARE = 0.1
"""Share of the observed pairs that calibrates and does not train."""

FIT_STEPS, FIT_ROWS = 200, 4096

FIT_LOSSES = ("cross_entropy", "released")

UserVectors = Callable[[Params, Array], Array]
"""``(params, users) -> vectors [..., dim]``, or numbers ``[...]``: what the gate of a model's experts looks at."""


def temperature(progress: Array) -> Array:
    """From 1 at ``progress`` 0, geometrically, to ``FINAL_TEMPERATURE`` at 1 and beyond."""
    return FINAL_TEMPERATURE ** jnp.clip(progress, 0.0, 1.0)


def init_experts(key: Key, *, n_experts: int, dim: int) -> Params:
    """Experts that all start at a = 1, b = -1, and a gate that is a linear layer within 1 / sqrt(dim).

    Returns:
        ``scale [n_experts]`` a, ``shift [n_experts]`` b, ``gate_weight [dim, n_experts]``, ``gate_bias [n_experts]``.
    """
    weight_key, bias_key = jax.random.split(key)
    bound = dim**-0.5
    return {
        "scale": jnp.ones(n_experts, jnp.float32),
        "shift": jnp.full(n_experts, -1.0, jnp.float32),
        "gate_weight": jax.random.uniform(weight_key, (dim, n_experts), jnp.float32, -bound, bound),
        "gate_bias": jax.random.uniform(bias_key, (n_experts,), jnp.float32, -bound, bound),
    }


def gumbel_noise(key: Key, logits: Array, experts: Params) -> Array:
    """Noise of each pair and expert: ``logits.shape + (n_experts,)``."""
    return jax.random.gumbel(key, (*logits.shape, experts["scale"].shape[0]), jnp.float32)


def calibrate(
    experts: Params,
    logits: Array,
    vectors: Array,
    *,
    noise: Array | None = None,
    temperature: Array | float = 1.0,
) -> tuple[Array, Array]:
    """Calibrated probabilities, as ``(log q, log(1 - q))``, finite for any logit.

    Args:
        experts: see ``init_experts``.
        logits: ``[...]`` of the model.
        vectors: ``[..., dim]`` of the users, broadcasting against ``logits``; the gradient stops there.
        noise: ``[..., n_experts]`` Gumbel(0, 1) noise; None for none.
        temperature: T.

    Returns:
        Two arrays like ``logits``.
    """

    def over_pairs(values: Array) -> Array:
        return jnp.reshape(values, (1,) * logits.ndim + values.shape)

    gate = jax.lax.stop_gradient(vectors) @ experts["gate_weight"] + over_pairs(experts["gate_bias"])
    if noise is not None:
        gate = gate + noise
    log_gate = jax.nn.log_softmax(gate / temperature, axis=-1)
    scaled = logits[..., None] * over_pairs(experts["scale"]) + over_pairs(experts["shift"])
    return tuple(
        jax.nn.logsumexp(log_gate + jax.nn.log_sigmoid(sign * scaled), axis=-1) for sign in (1.0, -1.0)
    )


def listwise_loss(probabilities: Array, labels: Array) -> Array:
    """The released loss of propensity experts: the softmax over the batch of probabilities, summed over positives.

    It ranks the pairs of a batch and does not calibrate: a constant added to all probabilities changes nothing.
    """
    return -jnp.sum(labels * jax.nn.log_softmax(probabilities))


def held_out(users: Array, items: Array) -> Array:
    """Whether pairs are held out for calibration: a fixed pseudo-random ``HELD_OUT_SHARE`` of all pairs.

    A function of the pair alone, so that every epoch, seed and frame agrees on it.
    """
    user_bits = users.astype(jnp.uint32) * jnp.uint32(0x9E3779B1)
    item_bits = items.astype(jnp.uint32) * jnp.uint32(0x85EBCA6B)
    return sampling.hash_bits(user_bits ^ item_bits) < jnp.uint32(HELD_OUT_SHARE * 2**32)


def fit_propensity_experts(
    logits: Callable[[Array, Array], Array],
    vectors: Callable[[Array], Array],
    experts: Params,
    key: Key,
    data: TrainData,
    *,
    learning_rate: Array,
    weight_decay: Array,
    ratio: int,
    loss: str,
) -> Params:
    r"""Fits the experts of a fitted propensity model on held-out observed pairs and uniform pairs.

    ``loss="cross_entropy"``: the cross-entropy of "observed" over all pairs, in which the held-out pairs stand for the
    n observed ones,

    .. math::
        \frac{n}{N} \operatorname{mean}_{\text{held out}} (-\log q)
        + \operatorname{mean}_U \big[ -(1 - o) \log (1 - q) \big]

    ``loss="released"``: ``listwise_loss`` of both samples together.

    Args:
        logits: ``(users, items) -> logits`` of the fitted model.
        vectors: ``users -> [..., dim]``.
        experts: where to start.
        key: for the draws and the noise.
        data: its observed pairs.
        learning_rate: of Adam.
        weight_decay: coupled L2.
        ratio: uniform pairs for each held-out pair.
        loss: one of ``FIT_LOSSES``.

    Returns:
        The fitted experts, after ``FIT_STEPS`` steps of at most ``FIT_ROWS`` held-out pairs.
    """
    n, (n_users, n_items) = data.users.shape[0], data.matrix_size
    held = held_out(data.users, data.items)
    # A static number of places, a few more than there will be held-out rows.
    places = min(n, int(1.25 * HELD_OUT_SHARE * n) + 16)
    rows = jnp.nonzero(held, size=places, fill_value=0)[0]
    n_held = jnp.minimum(jnp.sum(held, dtype=jnp.int32), places)
    density = n / (float(n_users) * float(n_items))
    batch_size = min(places, FIT_ROWS)
    tx = optimizers.adam(learning_rate, weight_decay=weight_decay)

    def step(carry, number):
        experts, opt_state = carry
        row_key, pair_key, noise_key = jax.random.split(jax.random.fold_in(key, number), 3)
        drawn = rows[jax.random.randint(row_key, (batch_size,), 0, jnp.maximum(n_held, 1))]
        pairs = sampling.uniform_pairs(pair_key, (batch_size * ratio,), n_users=n_users, n_items=n_items)
        observed = look_up(data, *pairs)[0].astype(jnp.float32)
        users = jnp.concatenate([data.users[drawn], pairs[0]])
        values = logits(users, jnp.concatenate([data.items[drawn], pairs[1]]))
        noise = gumbel_noise(noise_key, values, experts)
        annealed = temperature(number.astype(jnp.float32) / FIT_STEPS)

        def objective(experts):
            log_q, log_not_q = calibrate(experts, values, vectors(users), noise=noise, temperature=annealed)
            if loss == "released":
                return listwise_loss(
                    jnp.exp(log_q), jnp.concatenate([jnp.ones(batch_size, jnp.float32), observed])
                )
            held_loss = -jnp.mean(log_q[:batch_size])
            return density * held_loss - jnp.mean((1.0 - observed) * log_not_q[batch_size:])

        updates, opt_state = tx.update(jax.grad(objective)(experts), opt_state, experts)
        return (optax.apply_updates(experts, updates), opt_state), None

    start = (experts, tx.init(experts))
    return jax.lax.scan(step, start, jnp.arange(FIT_STEPS, dtype=jnp.int32))[0][0]
