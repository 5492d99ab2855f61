"""CEB: exposure learnt with the likelihood of clicks, relevance with a risk that corrects for it."""

import jax

from debias_jax import losses
from debias_jax._checks import check_choice
from debias_jax.errors import ConfigError
from debias_jax.methods._terms import EXPOSURE_HPARAMS, ExposureTerms, ItemVectors, exposure_group
from debias_jax.methods.base import Method
from debias_jax.methods.batching import pair_frame
from debias_jax.methods.recipes import Context, predict_logits, prediction_group, supervised, total_and_count
from debias_jax.models.base import Model

RISKS = ("weighted", "pu", "added_positives")
"""R_w, R_PU and R_AP; see ``ceb``."""

VARIANTS = ("published", "released")

HPARAMS = {**EXPOSURE_HPARAMS, "likelihood_weight": 20.0, "risk_weight": 1.0}
"""``likelihood_weight``, ``risk_weight``: lambda_pred and lambda_w of the objective, as released."""


def ceb(
    model: Model,
    exposure_model: Model,
    *,
    item_vectors: ItemVectors,
    risk: str = "weighted",
    detach_weights: bool = False,
    batch_size: int = 1024,
    n_negatives: int = 5,
    frame: str = "clicks_and_negatives",
    detach_items: bool = True,
    variant: str = "published",
) -> Method:
    """Minimises lambda_pred BCE(Y, m p) + lambda_w R(p, m) over relevance p and exposure m at once.

    The likelihood alone knows the product m p only, and the risk alone has trivial solutions: m = 1 is the naive loss,
    and with the gradient through the weights ``"weighted"`` falls to 0 at unexposed zeros as p -> 1, ``"pu"`` without
    bound as m -> 0 at a click with p > 1/2. The sum keeps them in check, the better the larger lambda_pred.

    Freedom: the paper's relevance model is a network on texts and its exposure one number per pair of fields; here
    they are any pairwise model and, by default in configs, Biif's exposure, as Biif compares them without a word on
    it. Biif does not say which risk it ran. ``detach_items=True`` cuts the gradient of the objective where the exposure
    model reads the item vectors of the relevance model, as Biif's theory asks of Biif; in CEB the two share none, so
    that nothing is published on it, and ``False`` is the full gradient. The program adds 1e-5 to its denominators;
    the risks here divide by nothing that can vanish, but by the exposure of a click.

    Args:
        model: the relevance model.
        exposure_model: see ``biif``.
        item_vectors: see ``biif``.
        risk: ``"weighted"`` (R_w, ``losses.ceb_weighted``), ``"pu"`` (R_PU, ``losses.relmf``) or
            ``"added_positives"`` (R_AP, ``losses.ceb_added_positives``).
        detach_weights: whether 1/m and the posterior are constants inside the risk. False is the objective as it
            stands, and the program; True leaves the exposure to the likelihood and makes p = gamma stationary.
        batch_size: rows a step.
        n_negatives: uniform zeros drawn per click.
        frame: see ``methods.batching``.
        detach_items: see ``biif``.
        variant: ``"released"`` gives the added positives of R_AP the loss of a negative, with which it is the
            cross-entropy of clicks; the other risks are as published. (The program also tests for R_PU twice, so
            that it never comes to R_AP.) It is refused with another ``risk``, where it would change nothing.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``outer_lr`` (of the exposure), ``min_exposure`` (see
        ``biif``), ``likelihood_weight``, ``risk_weight``.

    Raises:
        ValueError: unknown ``risk``, ``variant`` or ``frame``.
        ConfigError: ``variant="released"`` with a ``risk`` that has no such form.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.ceb(
        ...     models.mf(8, 6, dim=2), models.biif_exposure(8, dim=2), item_vectors=models.item_vectors)
        >>> method.hparams["likelihood_weight"]
        20.0

    Source:
        Gupta, Wang, Lipton, Wang, "Correcting exposure bias for link recommendation", ICML 2021.
    """
    check_choice(RISKS, risk=risk)
    check_choice(VARIANTS, variant=variant)
    if variant == "released" and risk != "added_positives":
        raise ConfigError(
            f"variant='released' of ceb is a form of risk='added_positives', and the risk is {risk!r}, which the "
            "program has as published; leave the variant out, or change the risk"
        )
    terms = ExposureTerms(model, exposure_model, item_vectors=item_vectors, detach_items=detach_items)

    def term(params, context: Context, batch):
        logits = model.apply(params["prediction"], batch.users, batch.items)
        exposure = terms.clipped(params, context, batch)
        likelihood = losses.umf(logits, batch.labels, exposure=exposure, reduce_fn=None)
        weight_logits = logits
        if detach_weights:
            exposure, weight_logits = jax.lax.stop_gradient((exposure, logits))
        of_clicks = {"exposure": exposure, "reduce_fn": None}
        if risk == "pu":
            values = losses.relmf(logits, batch.labels, **of_clicks)
        elif risk == "weighted":
            values = losses.ceb_weighted(logits, batch.labels, weight_logits=weight_logits, **of_clicks)
        else:
            values = losses.ceb_added_positives(
                logits, batch.labels, weight_logits=weight_logits, variant=variant, **of_clicks
            )
        hparams = context.hparams
        values = hparams["likelihood_weight"] * likelihood + hparams["risk_weight"] * values
        return total_and_count(values, batch.where, batch.weights)

    return supervised(
        {"prediction": prediction_group(model), "exposure": exposure_group(exposure_model)},
        loss=term,
        batches=pair_frame(frame, batch_size=batch_size, n_negatives=n_negatives),
        predict=predict_logits(model),
        hparams=HPARAMS,
        exposure=terms.estimate,
    )
