"""Matrix factorisation with user, item and global biases on the observed pairs: the naive risk."""

from debias_jax.methods.base import Method
from debias_jax.methods.mf import mf
from debias_jax.models.base import Model


def mf_bias(biased_model: Model, *, batch_size: int = 1024) -> Method:
    """Cross-entropy over the observed rows without any correction (``risks.naive``), with a model that has biases.

    The models of the released doubly robust programs have none, although the sum of a user's and an item's term
    predicts unbiased ratings about as well as those programs do (``mean_logit``); this says what biases alone give.

    Args:
        biased_model: a pairwise model with biases, e.g. ``models.mf(..., bias=True)``.
        batch_size: rows a step.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay`` (coupled L2).

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.mf_bias(models.mf(8, 6, dim=2, bias=True))
        >>> sorted(method.hparams)
        ['lr', 'weight_decay']

    Source:
        Koren, Bell and Volinsky, "Matrix factorization techniques for recommender systems", IEEE Computer 42(8), 2009.
    """
    return mf(biased_model, batch_size=batch_size, frame="observed")
