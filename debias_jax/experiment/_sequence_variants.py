"""Next-item models and losses as named variants, such as ``sasrec_ce``, for the configs of several datasets.

``sasrec_plus`` is SASRec trained on prefixes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from debias_jax.experiment._build import SEQUENCE_MODELS
from debias_jax.experiment._config import use_own_settings, variant


class Published(NamedTuple):
    """Settings of a model with a loss, as its published runs have them.

    Attributes:
        lr: of Adam.
        weight_decay: coupled, of Adam.
        dropout: of the model.
        batch_size: samples a step.
        mask_rate: share of the items that a bidirectional model is asked for.
        epochs: at most; None for 200 with the full softmax, else 300.
        eval_every: epochs between two looks at validation.
        max_len: items that the model reads; None for what the dataset's models do.
    """

    lr: float
    weight_decay: float
    dropout: float
    batch_size: int = 512
    mask_rate: float | None = None
    epochs: int | None = None
    eval_every: int = 5
    max_len: int | None = None


SEQUENCE_LOSSES = ("ce", "bpr", "bce", "nce", "sce")
"""Losses in the order of the tables."""

SCE_TABLE = tuple(f"{model}_{loss}" for loss in SEQUENCE_LOSSES for model in SEQUENCE_MODELS)
"""The rows of Xu et al.'s Tables 5 and 7."""

SEQUENCE_GROUPS = {
    "table5": SCE_TABLE,
    **{model: tuple(f"{model}_{loss}" for loss in SEQUENCE_LOSSES) for model in SEQUENCE_MODELS},
}
"""Lists of variants by name: all rows of the tables, and those of each model."""

TO_CONVERGENCE = {"epochs": 500, "patience": 0}
"""``train`` of runs that show when they converge, which an early stop would hide."""

_MODEL_OPTIONS: dict[str, dict[str, Any]] = {
    "sasrec": {"n_heads": 1, "n_blocks": 2},
    "sasrec_plus": {"n_heads": 1, "n_blocks": 2},
    "gru4rec": {"n_layers": 1},
    "caser": {"max_len": 5, "n_vertical": 4, "n_horizontal": 16},
    "bert4rec": {"n_heads": 4, "n_blocks": 2},
    "fmlp_rec": {"n_blocks": 4},
}

_SAMPLES: dict[str, dict[str, Any]] = {
    "sasrec": {"samples": "windows"},
    "sasrec_plus": {"samples": "prefixes"},
    "gru4rec": {"samples": "prefixes"},
    "caser": {"samples": "prefixes", "min_items": 5},
    "bert4rec": {"samples": "cloze"},
    "fmlp_rec": {"samples": "prefixes", "truncate": True},
}

_LOSSES: dict[str, tuple[str, dict[str, Any], dict[str, float]]] = {
    "ce": ("cross_entropy", {}, {}),
    "ce_eta": ("truncated_cross_entropy", {}, {"eta": 0.7}),
    "bce": ("bce", {"negatives": "unseen", "n_negatives": 1}, {}),
    "bpr": ("bpr", {"negatives": "unseen", "n_negatives": 1}, {}),
    "nce": ("noise_contrastive", {}, {"c": 10.0}),
    "neg": ("negative_sampling", {}, {}),
    "ssm": ("scaled_cross_entropy", {}, {"alpha": 1.0}),
    "sce": ("scaled_cross_entropy", {}, {"alpha": 100.0}),
    "sce_shared": ("scaled_cross_entropy", {"shared": True}, {"alpha": 100.0}),
    "is": ("importance_sampling", {}, {}),
    "is_popularity": ("importance_sampled_softmax", {"negatives": "popularity"}, {}),
    "gbce": ("gbce", {"n_negatives": 256}, {}),
}
"""Name in a variant -> loss of ``methods.next_item``, its options, its hyperparameters."""

_LIKE = {"bce": "bce", "bpr": "bpr", "gbce": "bce"}
"""Whose settings a loss takes that has none of its own; the others take those of the full softmax."""


def sequence_variants(
    published: Mapping[str, Mapping[str, Published]], *, max_len: int, n_negatives: int
) -> dict[str, ConfigDict]:
    """Every model with every loss.

    Args:
        published: model -> loss -> settings; of a loss without an entry those of ``"ce"``, or of ``"bce"`` for
            ``gbce``. Of ``sasrec_plus`` those of ``sasrec``, if it has none.
        max_len: items that a model reads; Caser reads 5.
        n_negatives: K of the losses that sample for each position.

    Returns:
        Variant name -> entry of ``config.variants``.
    """
    table = {}
    for model, model_options in _MODEL_OPTIONS.items():
        settings = published.get(model, published.get(model.removesuffix("_plus")))
        if settings is None:
            continue
        for loss, (name, options, hparams) in _LOSSES.items():
            own = settings.get(loss, settings.get(_LIKE.get(loss, "ce"), settings["ce"]))
            sampled = loss not in ("ce", "ce_eta")
            method_options = {"loss": name, **_SAMPLES[model], **options}
            if sampled:
                method_options = {"n_negatives": n_negatives} | method_options
            if own.mask_rate is not None:
                hparams = {**hparams, "mask_rate": own.mask_rate}
            table[f"{model}_{loss}"] = variant(
                "next_item",
                options=method_options,
                model={
                    "name": model.removesuffix("_plus"),
                    "options": {"max_len": own.max_len or max_len, "dropout": own.dropout, **model_options},
                },
                train={
                    "batch_size": own.batch_size,
                    "epochs": own.epochs or (300 if sampled else 200),
                    "eval_every": own.eval_every,
                    # It may stand still for longer than the others wait before it learns.
                    **({"patience": 0} if loss == "neg" else {}),
                },
                lr=own.lr,
                weight_decay=own.weight_decay,
                **hparams,
            )
    return table


def sequence_settings(config: ConfigDict, *, metrics: Sequence[str] = ()) -> None:
    """Evaluation and selection as the published runs have them; call it when the variants are selected.

    Validation NDCG@10 chooses among all epochs that were evaluated; a run ends early after ten evaluations without
    improvement, which the published runs do not.

    Args:
        config: to change.
        metrics: of the test part; those of the protocol, if none.
    """
    config.data.split = {"name": "leave_one_out"}
    config.model.dim = 64
    config.protocol.validation = "leave_one_out"
    config.protocol.test = "leave_one_out"
    config.protocol.validation_metrics = ("ndcg@10", "hr@10", "mrr@10")
    config.protocol.metrics = tuple(metrics)
    config.protocol.monitor = "ndcg@10"
    config.protocol.headline = "ndcg@10"
    config.train.restore = "best"
    config.train.patience = 10
    config.tune.space = {"default": {"lr": ("log", 3e-5, 1e-2), "weight_decay": ("log", 1e-9, 1e-2)}}
    config.tune.first = {name: [_in_log_ranges(config.variants[name].hparams)] for name in config.methods}
    config.baseline = next((name for name in config.methods if name.endswith("_ce")), config.methods[0])
    use_own_settings(config)


def _in_log_ranges(hparams: Mapping[str, float]) -> dict[str, float]:
    """The settings of a variant with which its search begins; a decay of 0 is in no logarithmic range."""
    return {name: hparams[name] for name in ("lr", "weight_decay") if hparams[name] > 0}
