"""The recipe of methods that are fitted by expectation-maximisation; ``recipes.em`` is its public name."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp

from debias_jax.methods.base import (
    Method,
    PredictFn,
    Range,
    TrainData,
    TrainState,
    check_tables,
    resolve_hparams,
)
from debias_jax.types import Array, Key, Params, PyTree

EStep = Callable[[dict[str, Params], TrainData, dict[str, Array]], PyTree]
"""``(params, data, hparams) -> expectation``: what is known of the hidden variables at these parameters. Arrays, or a
function that an M step calls for one block of users after another, so that no table of all pairs is held."""

MStep = Callable[[dict[str, Params], PyTree, TrainData, dict[str, Array]], dict[str, Params]]
"""``(params, expectation, data, hparams) -> params``: some of the parameters at their maximum, the others as given."""


def em(
    *,
    init: Callable[[Key, dict[str, Array]], dict[str, Params]],
    m_steps: Sequence[MStep],
    objective: Callable[[dict[str, Params], TrainData, dict[str, Array]], Array],
    predict: PredictFn,
    hparams: dict[str, float],
    e_step: EStep | None = None,
    exposure=None,
    ranges: dict[str, Range] | None = None,
) -> Method:
    r"""Maximises a likelihood with hidden variables in closed-form steps over the whole data.

    With parameters in blocks, theta = (theta_1, ..., theta_B), one iteration takes the blocks in turn,

    .. math::
        q = p(\text{hidden} \mid \text{data}, \theta), \qquad
        \theta_b \leftarrow \arg\max_{\theta_b} \; E_q \log p(\text{data}, \text{hidden}, \theta)

    with an E step of its own before each block. Every such pair of steps raises the log posterior or leaves it, and so
    does the iteration. Without hidden variables it is alternating minimisation by blocks, alternating least squares for
    instance.

    Args:
        init: ``(key, hparams) -> params`` by group, where the first iteration starts.
        m_steps: one a block, in their order.
        objective: what an iteration never raises, the negative log posterior, as a function of the parameters.
        predict: scores of pairs.
        hparams: numeric hyperparameters and their defaults.
        e_step: see ``EStep``; without, M steps get None.
        exposure: see ``Method.exposure``.
        ranges: see ``Method.ranges``.

    Returns:
        The method; an epoch is one step, and a step is one iteration over all data. Its logs hold the ``loss``: the
        objective at the parameters that the iteration started from. No randomness enters but that of ``init``.

    References:
        Meng and Rubin, "Maximum likelihood estimation via the ECM algorithm: a general framework", Biometrika 1993: an
        E step before each block is their multi-cycle form.
    """

    def start(key: Key, data: TrainData, given: dict[str, Array]) -> TrainState:
        resolved = resolve_hparams(hparams, given)
        params = init(key, resolved)
        for name, own in params.items():
            check_tables(name, own, data)
        return TrainState(jnp.zeros((), jnp.int32), params, {}, resolved, {})

    def batches(data: TrainData, key: Key):
        del data, key
        return jnp.zeros((1, 1), bool)

    def step(state: TrainState, data: TrainData, batch: PyTree, key: Key):
        del batch, key
        loss, params = objective(state.params, data, state.hparams), state.params
        for m_step in m_steps:
            expectation = None if e_step is None else e_step(params, data, state.hparams)
            params = m_step(params, expectation, data, state.hparams)
        return state._replace(step=state.step + 1, params=params), {"loss": loss}

    return Method(start, batches, step, predict, hparams, exposure, ranges=ranges)
