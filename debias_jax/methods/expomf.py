"""Exposure matrix factorisation: what was not clicked may not have been seen, fitted by EM."""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import xlog1py, xlogy

from debias_jax import sampling
from debias_jax._checks import check_choice, check_sizes
from debias_jax.methods import _als
from debias_jax.methods.base import Method, Range
from debias_jax.methods.recipes import em, predict_logits
from debias_jax.models.base import Model

HPARAMS = {
    "regularization": 1e-5,
    "precision": 1.0,
    "initial_exposure": 0.01,
    "prior_exposed": 1.0,
    "prior_unexposed": 1.0,
}
"""``regularization``: lambda_theta = lambda_beta; only their product matters at a maximum, since user vectors can be
scaled up and item vectors down. ``precision``: lambda_y. ``initial_exposure``: mu_i at the start. ``prior_exposed``,
``prior_unexposed``: alpha_1 and alpha_2 of the beta prior, both at least 1. The defaults are the released program's."""

RANGES = {
    "regularization": Range(0.0),
    "precision": Range(0.0, without_ends=True),
    "initial_exposure": Range(0.0, 1.0, without_ends=True),
    "prior_exposed": Range(1.0),
    "prior_unexposed": Range(1.0),
}
"""An exposure that starts at 0 or 1 stays there, and a beta prior below 1 has its maximum at infinity."""

VARIANTS = ("corrected", "released")
"""The constant of the normal density: see ``expomf``."""

EXPOSURES = ("prior", "posterior")
"""What ``expomf`` reports as its exposure estimate."""


def expomf(
    model: Model, *, variant: str = "corrected", exposure: str = "prior", chunk_size: int = 1024
) -> Method:
    r"""Matrix factorisation of clicks in which a pair without a click counts as far as it was exposed.

    Exposure is hidden: ``a_ui ~ Bern(mu_i)``; a click is ``y_ui ~ N(theta_u . beta_i, 1 / lambda_y)`` where exposed and
    0 elsewhere; vectors have normal priors, ``mu_i ~ Beta(alpha_1, alpha_2)``. An iteration updates users, items and
    mu in turn, each after an E step:

    .. math::
        q_{ui} = 1 \text{ at a click, else } \frac{\mu_i N_{ui}}{\mu_i N_{ui} + 1 - \mu_i}, \quad
        N_{ui} = \sqrt{\tfrac{\lambda_y}{2 \pi}} \, e^{-\lambda_y (\theta_u \cdot \beta_i)^2 / 2}

    .. math::
        \theta_u = \Big(\sum_i q_{ui} \beta_i \beta_i^\top + \tfrac{\lambda_\theta}{\lambda_y} I\Big)^{-1}
        \sum_i q_{ui} y_{ui} \beta_i, \qquad
        \mu_i = \frac{\alpha_1 + \sum_u q_{ui} - 1}{\alpha_1 + \alpha_2 + U - 2}

    and the same for items. One iteration is an epoch; the paper's program stops after ten. All pairs take part: the
    time of an iteration is U x I x dim^2, the memory ``chunk_size`` x (I + dim^2) and I x dim^2 / 2 numbers.

    Args:
        model: ``models.mf`` without biases, which gives the start (its ``init_scale`` is .01 in the program).
        variant: ``"corrected"``: N is the normal density; ``"released"``: its constant is sqrt(lambda_y pi / 2), as in
            the released program, pi times too large: pairs without a click get pi times the odds of exposure. (The
            1e-8 that the program adds to the density is left out of both.)
        exposure: what ``Method.exposure`` gives: the ``"prior"`` mu_i, the model's probability that a pair is exposed,
            the same for all users; or the ``"posterior"`` q_ui given the click, which is 1 at clicks and, where the
            score is high without one, low. The prior is an estimate of the exposure probability m_ui, as other
            methods have it, and follows it better on simulated logs; the posterior is one of the exposure itself.
        chunk_size: users whose pairs are held at once.

    Returns:
        The method; hyperparameters ``regularization``, ``precision``, ``initial_exposure``, ``prior_exposed``,
        ``prior_unexposed``. Scores are on the scale of the click, 0 to 1 or so, and no logits. Its ``loss`` is the
        negative log posterior over the number of pairs, without the constants of the priors.

    Raises:
        ValueError: unknown ``variant`` or ``exposure``.
        ConfigError: the model has other parameters than user and item vectors, or ``chunk_size`` is below 1.

    Example:
        >>> import jax
        >>> from debias_jax import data, methods, models, training
        >>> log = training.train_data(data.synthetic.generate(seed=0, n_users=20, n_items=15))
        >>> method = methods.expomf(models.mf(20, 15, dim=2))
        >>> history = training.fit(method, log, jax.random.key(0), epochs=3).history
        >>> history[0]["loss"] > history[1]["loss"] > history[2]["loss"]
        True

    Source:
        Liang, Charlin, McInerney, Blei, "Modeling user exposure in recommendation", WWW 2016, section 3; the order of
        the updates is the program's (dawenl/expo-mf), its constant is issue 4 there. Open choice: Biif correlates
        ExpoMF's exposure with the truth and does not say which of the two it is.
    """
    check_choice(VARIANTS, variant=variant)
    check_choice(EXPOSURES, exposure=exposure)
    _als.check_factors("expomf", model)
    check_sizes(chunk_size=chunk_size)
    constant = 1.0 / (2.0 * math.pi) if variant == "corrected" else math.pi / 2.0

    def log_density(gap, hparams):
        """Log of N at a score that is ``gap`` away from the click."""
        return 0.5 * (jnp.log(hparams["precision"] * constant) - hparams["precision"] * jnp.square(gap))

    def posterior(scores, prior, hparams):
        """Probability that a pair without a click was exposed."""
        return jax.nn.sigmoid(jnp.log(prior) - jnp.log1p(-prior) + log_density(scores, hparams))

    def init(key, hparams):
        vectors = model.init(key)
        prior = jnp.full(vectors["item"].shape[0], hparams["initial_exposure"], jnp.float32)
        return {"prediction": vectors, "exposure": {"prior": prior}}

    def pairs_of(params, data, users):
        """Vectors, clicks and scores of consecutive users with all items, and which of the users are not padding."""
        vectors, real = params["prediction"], users < data.matrix_size[0]
        own = jnp.where(real[:, None], vectors["user"][jnp.where(real, users, 0)], 0.0)
        return own, _als.clicks_of(data, users, own.dtype), own @ vectors["item"].T, real[:, None]

    def e_step(params, data, hparams):
        def block(users):
            own, clicks, scores, real = pairs_of(params, data, users)
            exposed = jnp.where(
                clicks > 0, 1.0, posterior(scores, params["exposure"]["prior"][None, :], hparams)
            )
            return own, clicks, jnp.where(real, exposed, 0.0)

        return block

    def ridge(hparams):
        return hparams["regularization"] / hparams["precision"]

    def update_users(params, block, data, hparams):
        items = params["prediction"]["item"]
        products = _als.packed_products(items)

        def solved(users):
            _, clicks, exposed = block(users)
            # q is 1 at a click, so that q y is y.
            return _als.solve(exposed @ products, clicks @ items, ridge(hparams))

        chunks = _als.user_chunks(data.matrix_size[0], chunk_size)
        users = jax.lax.map(solved, chunks).reshape(chunks.size, -1)[: data.matrix_size[0]]
        return params | {"prediction": {"user": users, "item": items}}

    def update_items(params, block, data, hparams):
        def add(sums, users):
            own, clicks, exposed = block(users)
            return (sums[0] + exposed.T @ _als.packed_products(own), sums[1] + clicks.T @ own), None

        vectors = params["prediction"]
        zeros = (jnp.zeros_like(_als.packed_products(vectors["item"])), jnp.zeros_like(vectors["item"]))
        sums, _ = jax.lax.scan(add, zeros, _als.user_chunks(data.matrix_size[0], chunk_size))
        items = _als.solve_in_chunks(*sums, ridge(hparams), chunk_size)
        return params | {"prediction": {"user": vectors["user"], "item": items}}

    def update_prior(params, block, data, hparams):
        def add(total, users):
            return total + jnp.sum(block(users)[2], axis=0), None

        prior = params["exposure"]["prior"]
        chunks = _als.user_chunks(data.matrix_size[0], chunk_size)
        exposed, _ = jax.lax.scan(add, jnp.zeros_like(prior), chunks)
        above, below = hparams["prior_exposed"] - 1.0, hparams["prior_unexposed"] - 1.0
        # Rounding can carry the mean of posteriors that are all 1 past it.
        prior = jnp.clip((exposed + above) / (data.matrix_size[0] + above + below), 0.0, 1.0)
        return params | {"exposure": {"prior": prior}}

    def objective(params, data, hparams):
        prior = params["exposure"]["prior"]

        def add(total, users):
            _, clicks, scores, real = pairs_of(params, data, users)
            exposed = jnp.log(prior)[None, :] + log_density(clicks - scores, hparams)
            values = jnp.where(clicks > 0, exposed, jnp.logaddexp(exposed, jnp.log1p(-prior)[None, :]))
            return total + jnp.sum(jnp.where(real, values, 0.0)), None

        (n_users, n_items), vectors = data.matrix_size, params["prediction"]
        zero = jnp.zeros((), vectors["user"].dtype)
        total, _ = jax.lax.scan(add, zero, _als.user_chunks(n_users, chunk_size))
        squares = sum(jnp.sum(jnp.square(table)) for table in vectors.values())
        total -= 0.5 * hparams["regularization"] * squares
        total += jnp.sum(xlogy(hparams["prior_exposed"] - 1.0, prior))
        total += jnp.sum(xlog1py(hparams["prior_unexposed"] - 1.0, -prior))
        return -total / (float(n_users) * float(n_items))

    def estimate(state, data, users, items):
        prior = state.params["exposure"]["prior"][items]
        if exposure == "prior":
            return jnp.broadcast_to(prior, jnp.broadcast_shapes(users.shape, items.shape))
        scores = predict_logits(model)(state, users, items)
        clicked = sampling.contains(data.click_set, users, items)
        return jnp.where(clicked, 1.0, posterior(scores, prior, state.hparams))

    return em(
        init=init,
        e_step=e_step,
        m_steps=(update_users, update_items, update_prior),
        objective=objective,
        predict=predict_logits(model),
        hparams=HPARAMS,
        exposure=estimate,
        ranges=RANGES,
    )
