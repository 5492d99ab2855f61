"""Matrix factorisation on the log as it is: the naive risk."""

from debias_jax.methods._terms import bce_term
from debias_jax.methods.base import Method
from debias_jax.methods.batching import pair_frame
from debias_jax.methods.recipes import ADAM_HPARAMS, predict_logits, prediction_group, supervised
from debias_jax.models.base import Model


def mf(
    model: Model, *, batch_size: int = 1024, n_negatives: int = 5, frame: str = "clicks_and_negatives"
) -> Method:
    """Cross-entropy over the pairs of a frame, without any correction.

    L = mean over the frame of BCE(s_ui, Y_ui). On ``frame="clicks_and_negatives"`` it learns the probability of a
    click among the frame's pairs, m_ui gamma_ui up to the frame's over-weight of clicks: exposure and relevance stay
    confounded. On ``frame="observed"`` it is the naive estimator on rated pairs (``risks.naive``).

    Args:
        model: any pairwise model.
        batch_size: rows a step.
        n_negatives: uniform zeros drawn per click, redrawn each epoch.
        frame: see ``methods.batching``.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay`` (coupled L2).

    Raises:
        ValueError: unknown ``frame``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from debias_jax import data, methods, models, training
        >>> log = data.synthetic.generate(seed=0, n_users=8, n_items=6)
        >>> method = methods.mf(models.mf(8, 6, dim=2))
        >>> state = training.fit(method, training.train_data(log), jax.random.key(0), epochs=1).state
        >>> method.predict(state, jnp.arange(8)[:, None], jnp.arange(6)[None, :]).shape
        (8, 6)

    Source:
        The baseline of every paper here; the sampler is CJMF's (Zhu et al. 2020).
    """
    return supervised(
        {"prediction": prediction_group(model)},
        loss=bce_term(model),
        batches=pair_frame(frame, batch_size=batch_size, n_negatives=n_negatives),
        predict=predict_logits(model),
        hparams=ADAM_HPARAMS,
    )
