"""DIB: a biased part takes up what the observation process put into the labels, and is left out of predictions."""

from debias_jax._reduce import safe_reduce
from debias_jax.methods.base import Method, PairBatch
from debias_jax.methods.batching import pair_frame
from debias_jax.methods.doubly_robust import cross_entropy
from debias_jax.methods.recipes import (
    ADAM_HPARAMS,
    Context,
    Group,
    adam,
    as_term,
    predict_logits,
    prediction_group,
    supervised,
)
from debias_jax.models.base import Model

HPARAMS = {**ADAM_HPARAMS, "combined_weight": 0.15, "biased_weight": 0.05}
"""``combined_weight``: alpha; ``biased_weight``: gamma; the official search draws them from U(.1, .2), U(.01, .1)."""


def dib(model: Model, *, batch_size: int = 1024, n_negatives: int = 1, frame: str = "observed") -> Method:
    r"""Cross-entropy of the unbiased score z and of z + c, minus that of the biased score c.

    .. math:: L = \text{mean} \big[ (1 - \alpha)\, \mathrm{CE}(z; r) - \gamma\, \mathrm{CE}(c; r)
              + \alpha\, \mathrm{CE}(z + c; r) \big]

    z and c are two models of one kind with parameters of their own; predictions are z. For matrix factorisations their
    sum is the score of the paper's concatenated embeddings, <z, z> + <c, c>, as the blocks that would cross are zero.

    With gamma > alpha c gains more by being wrong than z + c loses. Below that L still falls without bound along
    z = -2 c, if slowly: what holds it is the weight decay of z.

    Freedom: the sign of gamma. Here it is that of the official program, which takes information about the labels out of
    c; the re-implementation of the authors of BADR adds the term, and adds the embeddings instead of the scores, so
    that products of z and c enter. As in the official program only z has weight decay.

    Args:
        model: any pairwise model, for z and for c.
        batch_size: rows a step.
        n_negatives: see ``frame``.
        frame: ``"observed"``: the labels of the observed rows; ``"clicks_and_negatives"``: clicks against
            ``n_negatives`` uniform zeros each, the implicit setting of the paper; see ``methods.batching``.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``combined_weight``, ``biased_weight``.

    Raises:
        ValueError: unknown ``frame``.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.dib(models.mf(8, 6, dim=2))
        >>> sorted(method.hparams)
        ['biased_weight', 'combined_weight', 'lr', 'weight_decay']

    Source:
        Liu et al., "Mitigating confounding bias in recommendation via information bottleneck", RecSys 2021, and its
        program (dgliu/RecSys21_DIB).
    """

    def term(params, context: Context, batch: PairBatch):
        unbiased = model.apply(params["prediction"], batch.users, batch.items)
        biased = model.apply(params["biased"], batch.users, batch.items)
        alpha, gamma = context.hparams["combined_weight"], context.hparams["biased_weight"]
        values = (1.0 - alpha) * cross_entropy(unbiased, batch.labels)
        values -= gamma * cross_entropy(biased, batch.labels)
        values += alpha * cross_entropy(unbiased + biased, batch.labels)
        return as_term(safe_reduce(values, weights=batch.weights, where=batch.where))

    return supervised(
        {"prediction": prediction_group(model), "biased": Group(model.init, adam(weight_decay=None))},
        loss=term,
        batches=pair_frame(frame, batch_size=batch_size, n_negatives=n_negatives),
        predict=predict_logits(model),
        hparams=HPARAMS,
    )
