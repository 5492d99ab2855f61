"""The implicit-feedback methods and their named variants, as the configs of all implicit datasets list them."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from debias_jax._config import variant

EXPOSURE_LEARNING = ("biif", "joint_opt", "alter_opt", "bi_opt2")

IMPLICIT = ("mean_logit", "mf", "bpr", "ips", "snips", "relmf", "umf", *EXPOSURE_LEARNING)
"""The methods of the implicit family, in the order of the tables."""

_UNIFORM = {"frame": "clicks_and_uniform_pairs"}


def implicit_variants(tuned: Mapping[str, Mapping[str, float]]) -> dict[str, ConfigDict]:
    """Every variant, each with the tuned hyperparameters of its method.

    Args:
        tuned: method or variant name -> hyperparameters; a variant without an entry takes its method's.

    Returns:
        Variant name -> entry of ``config.variants``.
    """
    plain = {name: (name, {}, {}) for name in IMPLICIT}
    named = {
        # A rated log says which shown items were disliked; these three read it, the click methods do not.
        "mean_logit_ratings": ("mean_logit", {"feedback": "ratings"}, {}),
        "mf_rated": ("mf", {"frame": "observed"}, {}),
        "ips_popularity": ("ips", {"propensity": "popularity"}, {}),
        "ips_logged": ("ips", {"propensity": "logged"}, {}),
        "snips_logged": ("snips", {"propensity": "logged"}, {}),
        "bpr_5": ("bpr", {"n_negatives": 5}, {}),
        "relmf_unclipped": ("relmf", {"probability_clip": None}, {}),
        "mf_uniform": ("mf", _UNIFORM, {}),
        "relmf_uniform": ("relmf", _UNIFORM, {}),
        "umf_uniform": ("umf", _UNIFORM, {}),
        "biif_uniform": ("biif", _UNIFORM, {}),
        "biif_mean": ("biif", {"reduction": "mean"}, {}),
        "biif_frozen": ("biif", {}, {"outer_lr": 0.0}),
        "biif_attached": ("biif", {"detach_items": False}, {}),
        "biif_inner_adam": ("biif", {"inner_step": "adam"}, {}),
        "biif_inner_sgd": ("biif", {"inner_step": "sgd"}, {}),
    }
    return {
        name: variant(method, options=options, **{**tuned.get(method, {}), **tuned.get(name, {}), **fixed})
        for name, (method, options, fixed) in (plain | named).items()
    }
