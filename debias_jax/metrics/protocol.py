"""Evaluation as a value: which candidates are ranked, for whom, and with which conventions."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from debias_jax.errors import ConfigError, nearest
from debias_jax.metrics import _rank
from debias_jax.types import Array

POOLED = ("auc", "log_loss")
"""Metrics of all pairs at once; they have no cut-off and need listed candidates."""
RANKED = ("dcg", "ndcg", "map", "recall", "precision", "hr", "mrr", "snips_dcg")
"""Metrics of one user's list, written ``name@k``, or without ``@k`` over the whole list."""

_OPTIONS = {
    "candidates": ("test_items", "catalogue", "given"),
    "mask_seen": ("none", "positives", "rows"),
    "eligible_users": ("test", "all", "cjmf"),
    "eligible_items": ("all", "clicked"),
    "users_without_positives": ("zero", "one", "skip"),
    "short_lists": ("raise", "cut"),
    "ties": ("pessimistic", "by_index"),
    "gain": ("linear", "exponential"),
    "discount": ("log2", "jarvelin"),
    "ideal": ("top_k", "full"),
    "ap_normaliser": ("positives", "min_k", "hits", "none"),
    "recall_denominator": ("positives", "min_k"),
    "precision_denominator": ("k", "candidates"),
}


@dataclasses.dataclass(frozen=True)
class EvalProtocol:
    """Everything that a number depends on besides the scores and the data. Hashable, so static under ``jit``.

    Attributes:
        name: what the results call it.
        metrics: ``"auc"``, ``"log_loss"`` (pooled over all pairs), ``"dcg@3"``, ``"ndcg@5"``, ``"map@3"``,
            ``"recall@5"``, ``"precision@5"``, ``"hr@10"``, ``"mrr@10"``, ``"snips_dcg@3"``.
        candidates: ``"test_items"`` ranks a user's test rows, ``"catalogue"`` all items, ``"given"`` the rows
            of a candidate list (a fixed file of sampled negatives, say).
        mask_seen: what a catalogue ranking leaves out: ``"none"``, the user's training ``"positives"``, or
            all training ``"rows"``. Held-out pairs that are left out do not count as positives.
        eligible_users: ``"test"``, users with a test row; ``"all"``, every user of the vocabulary;
            ``"cjmf"``, users with a positive and a negative among their candidates and a positive in
            training.
        eligible_items: ``"all"``, or ``"clicked"``: candidates without a training positive are dropped.
        threshold: a pair is positive where its rating is at least this; None takes the labels (>= 0.5) as
            they are.
        users_without_positives: ``"zero"``, they count with the metric's own value, which is 0 without a
            label floor; ``"one"``, the same but NDCG counts 1; ``"skip"``, they do not count. Pooled metrics
            keep their pairs.
        short_lists: where a user has fewer candidates than a metric's k: ``"raise"`` when the set is built,
            or ``"cut"`` k to the list on purpose.
        ties: ``"pessimistic"`` or ``"by_index"`` (lowest item code first).
        gain: of DCG and NDCG, ``"linear"`` or ``"exponential"``.
        discount: ``"log2"`` or ``"jarvelin"``.
        ideal: of NDCG, ``"top_k"`` or ``"full"``.
        ap_normaliser: ``"positives"``, ``"min_k"``, ``"hits"`` or ``"none"``.
        recall_denominator: ``"positives"`` or ``"min_k"``.
        precision_denominator: ``"k"`` or ``"candidates"``.
        label_floor: f in the relevance f + (1 - f) y that the ranking metrics see.

    Raises:
        ConfigError: an option or metric is unknown, or two do not fit each other.

    Example:
        >>> PROTOCOLS["badr"].with_metrics("auc", "ndcg@50").metrics
        ('auc', 'ndcg@50')
        >>> EvalProtocol.from_dict(PROTOCOLS["cjmf"].to_dict()) == PROTOCOLS["cjmf"]
        True
    """

    name: str
    metrics: tuple[str, ...]
    candidates: str = "test_items"
    mask_seen: str = "none"
    eligible_users: str = "test"
    eligible_items: str = "all"
    threshold: float | None = None
    users_without_positives: str = "skip"
    short_lists: str = "raise"
    ties: str = "pessimistic"
    gain: str = "linear"
    discount: str = "log2"
    ideal: str = "top_k"
    ap_normaliser: str = "min_k"
    recall_denominator: str = "positives"
    precision_denominator: str = "k"
    label_floor: float = 0.0

    def __post_init__(self):
        for field, allowed in _OPTIONS.items():
            value = getattr(self, field)
            if value not in allowed:
                raise ConfigError(
                    f"protocol {self.name}: {field} = {value!r} is unknown; "
                    f"it must be one of {', '.join(allowed)}"
                )
        if isinstance(self.metrics, str) or not self.metrics:
            raise ConfigError(
                f"protocol {self.name}: metrics must be a non-empty tuple, got {self.metrics!r}"
            )
        object.__setattr__(self, "metrics", tuple(self.metrics))
        for metric in self.metrics:
            kind, _ = parse_metric(metric)
            if self.candidates == "catalogue" and kind in POOLED:
                raise ConfigError(
                    f"protocol {self.name}: {kind} needs labelled candidates; a catalogue ranking has none, "
                    "use candidates='test_items'"
                )
        if self.candidates == "catalogue" and self.eligible_items != "all":
            raise ConfigError(f"protocol {self.name}: eligible_items='clicked' needs listed candidates")
        if self.candidates != "catalogue" and self.mask_seen != "none":
            raise ConfigError(
                f"protocol {self.name}: mask_seen={self.mask_seen!r} needs candidates='catalogue'; "
                "listed candidates are ranked as they are"
            )
        if not (self.threshold is None or isinstance(self.threshold, int | float)):
            raise ConfigError(
                f"protocol {self.name}: threshold must be a number or None, got {self.threshold!r}"
            )
        if not (isinstance(self.label_floor, int | float) and 0.0 <= self.label_floor < 0.5):
            raise ConfigError(
                f"protocol {self.name}: label_floor = {self.label_floor!r} must be a number in [0, 0.5), "
                "or negatives would count as relevant"
            )

    @property
    def max_k(self) -> int | None:
        """The most ranks that any metric needs; None for whole lists, 0 where nothing is ranked."""
        cuts = [k for kind, k in map(parse_metric, self.metrics) if kind in RANKED]
        return None if None in cuts else max(cuts, default=0)

    def with_metrics(self, *metrics: str) -> "EvalProtocol":
        """A copy with other metrics."""
        return dataclasses.replace(self, metrics=metrics)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**dataclasses.asdict(self), "metrics": list(self.metrics)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "EvalProtocol":
        """The inverse of ``to_dict``.

        Raises:
            ConfigError: a field is unknown or missing, or a value does not fit.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for field in fields:
            if field not in known:
                raise ConfigError(f"protocol field {field!r} is unknown; {nearest(field, known)}")
        missing = [field for field in ("name", "metrics") if field not in fields]
        if missing:
            raise ConfigError(f"protocol lacks {' and '.join(missing)}")
        metrics = fields["metrics"]
        return cls(**{**fields, "metrics": metrics if isinstance(metrics, str) else tuple(metrics)})


def parse_metric(metric: str) -> tuple[str, int | None]:
    """``"ndcg@5"`` to ``("ndcg", 5)``, ``"auc"`` to ``("auc", None)``.

    Raises:
        ConfigError: the name is unknown, the cut-off is no positive integer, or a pooled metric has one.
    """
    kind, at, cut = metric.partition("@")
    if kind not in POOLED + RANKED:
        raise ConfigError(f"metric {metric!r} is unknown; {nearest(kind, POOLED + RANKED)}")
    if not at:
        return kind, None
    if kind in POOLED:
        raise ConfigError(f"metric {metric!r}: {kind} is pooled over all pairs and has no cut-off")
    if not (cut.isascii() and cut.isdigit() and int(cut) > 0):
        raise ConfigError(f"metric {metric!r}: the cut-off after @ must be a positive integer")
    return kind, int(cut)


def user_metrics(
    protocol: EvalProtocol,
    scores: Array,
    labels: Array,
    *,
    propensity: Array | None = None,
    where: Array | None = None,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Every ranked metric of a protocol for each list, after one sort.

    Args:
        protocol: names the metrics and all conventions.
        scores: float ``[..., n]``.
        labels: ``[..., n]``, in [0, 1].
        propensity: float ``[..., n]``, for ``snips_dcg``, up to a common factor; 0 skips a positive.
        where: boolean ``[..., n]``, False for entries that are no candidates.

    Returns:
        Values ``{metric: [...]}``, and for each metric which lists count, boolean ``[...]``.

    Raises:
        ConfigError: ``snips_dcg`` is asked for without propensities.
        TypeError: a dtype is wrong.
        ValueError: shapes differ.

    Example:
        >>> protocol = PROTOCOLS["badr"].with_metrics("ndcg@2", "recall@2")
        >>> values, counted = user_metrics(protocol, jnp.array([[0.9, 0.1]]), jnp.array([[0.0, 0.0]]))
        >>> float(values["ndcg@2"][0]), float(values["recall@2"][0])  # no positive: 1 and 0 there
        (1.0, 0.0)

    Source:
        The presets' papers and programs, see ``PROTOCOLS``.
    """
    labels = jnp.asarray(labels)
    floor = protocol.label_floor
    relevance = labels if floor == 0.0 else floor + (1.0 - floor) * labels
    max_k = protocol.max_k
    if max_k == 0:
        return {}, {}
    ranking = _rank.rank(scores, relevance, k=max_k, where=where, ties=protocol.ties)
    has_positives = ranking.n_relevant > 0
    by_default = jnp.ones_like(has_positives) if protocol.users_without_positives != "skip" else has_positives
    values, counted = {}, {}
    for metric in protocol.metrics:
        kind, k = parse_metric(metric)
        if kind in POOLED:
            continue
        counted[metric] = by_default
        if kind == "dcg":
            value = _rank.ranked_dcg(ranking, k, gain=protocol.gain, discount=protocol.discount)
        elif kind == "ndcg":
            value = _rank.ranked_ndcg(
                ranking, k, gain=protocol.gain, discount=protocol.discount, ideal=protocol.ideal
            )
            if protocol.users_without_positives == "one":
                value = jnp.where(has_positives, value, 1.0)
        elif kind == "map":
            value = _rank.ranked_average_precision(ranking, k, normaliser=protocol.ap_normaliser)
        elif kind == "recall":
            value = _rank.ranked_recall(ranking, k, denominator=protocol.recall_denominator)
        elif kind == "precision":
            value = _rank.ranked_precision(ranking, k, denominator=protocol.precision_denominator)
        elif kind == "hr":
            value = _rank.ranked_hit_rate(ranking, k)
        elif kind == "mrr":
            value = _rank.ranked_mrr(ranking, k)
        else:
            if propensity is None:
                raise ConfigError(f"protocol {protocol.name}: {metric} needs propensities, got none")
            value, counted[metric] = _rank.ranked_snips_dcg(
                ranking, k, discount=protocol.discount, propensity=propensity
            )
        values[metric] = value
    return values, counted


PROTOCOLS: dict[str, EvalProtocol] = {
    protocol.name: protocol
    for protocol in (
        EvalProtocol(
            "badr",
            ("auc", "ndcg@5", "recall@5", "precision@5"),
            users_without_positives="one",
            short_lists="cut",
            precision_denominator="candidates",
        ),
        EvalProtocol(
            "cjmf",
            ("dcg@1", "dcg@2", "dcg@3", "map@1", "map@2", "map@3"),
            eligible_users="cjmf",
            eligible_items="clicked",
            ap_normaliser="hits",
        ),
        EvalProtocol(
            "saito",
            tuple(f"{kind}@{k}" for kind in ("dcg", "map", "recall") for k in (1, 3, 5)),
            users_without_positives="zero",
            discount="jarvelin",
            ap_normaliser="none",
            label_floor=0.001,
        ),
        EvalProtocol(
            "leave_one_out",
            ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr@5", "mrr@10"),
            candidates="catalogue",
            mask_seen="rows",
        ),
        EvalProtocol(
            "xir",
            tuple(f"{kind}@{k}" for kind in ("ndcg", "recall") for k in (10, 20, 50)),
            candidates="catalogue",
            mask_seen="rows",
            eligible_users="all",
            users_without_positives="zero",
        ),
        EvalProtocol(
            "strict",
            ("auc", "ndcg@5", "recall@5", "map@5", "mrr@5"),
            recall_denominator="min_k",
        ),
        EvalProtocol(
            "snips",
            ("snips_dcg@3",),
            candidates="catalogue",
            mask_seen="positives",
        ),
    )
}
"""The conventions of the papers and of their programs, by name. Ties are pessimistic in all of them; the
programs leave the order of equal scores to their sort.

- ``badr``: the released BADR and its baselines. The user's test items; one pooled AUC; NDCG is 1, recall 0
  for users without positives, who count; k = min(K, items of the user). K is 5 on Yahoo! R3 and Coat, 50 on
  KuaiRec.
- ``cjmf``: CJMF's evaluator, which Biif's tables used. Test items with a training positive; users with both
  classes there and a training positive (237 on Coat, 2,374 on Yahoo! R3); average precision over the hits
  within K.
- ``saito``: Saito et al. (WSDM 2020). Relevance .001 + .999 y, all test users, rank 2 undiscounted, average
  precision without a normaliser.
- ``leave_one_out``: one held-out item against the catalogue without the user's history; for data with
  repeated interactions use ``mask_seen="none"``.
- ``xir``: the catalogue without training items; users without test items count 0.
- ``strict``: users with positives only, recall and average precision that can reach 1.
- ``snips``: for tuning on biased held-out positives; Yang et al. (RecSys 2018) with P_i = theta_i (Biif eq.
  13), the catalogue without training positives.
"""
