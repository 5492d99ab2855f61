"""What Xu et al. (2024) claim of cross-entropy and its sampled forms, by enumeration: where it holds, and where not.

The claims are of one kind: the loss of a target is above -log NDCG or -log RR of its rank, with some probability over
the K items that are drawn uniformly with replacement. Every draw of small K from six items is enumerated as counts, so
that probabilities are exact. The rank of a target counts all that score at least as high, itself included.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import losses

N_ITEMS = 6
SIZES = range(1, 6)
"""How many items are drawn."""
SLACK = 1e-9
"""Rounding in double precision, which ties make visible."""
METRICS = {
    "ndcg": (lambda r: math.log(math.log2(1 + r)), lambda m: 2 ** (2**m) - 1),
    "rr": (math.log, lambda m: 2**m),
}
"""-log of the metric at a rank, and up to which rank m covers a target."""

pytestmark = pytest.mark.usefixtures("x64")


def score_rows(n_rows, n_items=N_ITEMS, seed=0):
    """Scores of which many tie, some are 0, and some lie far apart; the target is the first."""
    rng = np.random.default_rng(seed)
    scale = rng.choice([0.25, 1.0, 4.0], (n_rows, 1))
    return scale * rng.integers(-4, 5, (n_rows, n_items)) / 2


def ranks(scores):
    return (scores >= scores[:, :1]).sum(axis=1)


@functools.cache
def draws(n_drawn, n_items=N_ITEMS):
    """Every outcome of uniform draws with replacement, as counts ``[W, N]``, and their probabilities."""
    if n_items == 1:
        return np.array([[n_drawn]]), np.ones(1)
    blocks, chances = [], []
    for first in range(n_drawn + 1):
        rest, chance = draws(n_drawn - first, n_items - 1)
        p = 1 / n_items
        blocks.append(np.hstack([np.full((len(rest), 1), first), rest]))
        chances.append(chance * math.comb(n_drawn, first) * p**first * (1 - p) ** (n_drawn - first))
    return np.vstack(blocks), np.concatenate(chances)


def all_draws():
    """The outcomes of one to five draws below each other, their probabilities, and how many were drawn."""
    parts = [draws(n_drawn) for n_drawn in SIZES]
    counts, chances = (np.concatenate([part[k] for part in parts]) for k in range(2))
    return counts, chances, counts.sum(axis=1)


def loss_of_every_draw(name, scores, **options):
    """``[S, W]``: the loss of each row's first item under every outcome of the draws."""
    counts = all_draws()[0].astype(np.float64)
    positive_in_sum = {k: options.pop(k) for k in ("positive_in_sum",) if k in options}

    @jax.jit
    def of(scores, options):
        shape = (len(scores), len(counts))
        pos = jnp.broadcast_to(scores[:, :1], shape)
        neg = jnp.broadcast_to(scores[:, None, :], (*shape, N_ITEMS))
        drawn = jnp.broadcast_to(counts[None], neg.shape)
        loss = getattr(losses, name)
        return loss(pos, neg, counts=drawn, reduce_fn=None, **positive_in_sum, **options)

    return np.asarray(of(scores, options))


def uniform(**options):
    return {"log_q_pos": -math.log(N_ITEMS), "log_q_neg": -math.log(N_ITEMS), **options}


def count_violations(name, claim, scores, **options):
    """How many claims there are, how many of them say anything, and how many fail.

    ``claim(m, row of scores, K)`` is the probability that is claimed for all targets that m covers.
    """
    found = {"all": 0, "above 0": 0, "violated": 0}
    values, (_, chance, size) = loss_of_every_draw(name, scores, **options), all_draws()
    for row, rank, loss in zip(scores, ranks(scores), values, strict=True):
        for metric, covered in METRICS.values():
            above = np.where(loss >= metric(rank) - SLACK, chance, 0.0)
            for n_drawn in SIZES:
                holds = above[size == n_drawn].sum()
                for m in range(4):
                    if rank > covered(m):
                        continue
                    claimed = claim(m, row, n_drawn)
                    found["all"] += 1
                    found["above 0"] += 0 < claimed < 1
                    found["violated"] += holds < claimed - SLACK
    return found


def power(base, exponent):
    return base**exponent if exponent else 1.0


def tail_claim(needed, share, n_drawn):
    """1 - m (1 - p)^floor(K / m), which is 1 where nothing is needed."""
    return 1.0 if needed == 0 else 1 - needed * power(1 - share, n_drawn // needed)


def binomial_tail(n_drawn, share, needed):
    """P(Bin(K, p) >= m)."""
    return sum(
        math.comb(n_drawn, j) * share**j * (1 - share) ** (n_drawn - j) for j in range(needed, n_drawn + 1)
    )


class TestCrossEntropy:
    """Proposition 4.1 with corollary 4.2, and eq. 3."""

    @pytest.fixture
    def cases(self):
        """Rows of two to twelve items (the rest are no candidates), ranks, and the larger bound."""
        scores = score_rows(1200, 12)
        candidates = np.arange(12)[None, :] < np.random.default_rng(1).integers(2, 13, 1200)[:, None]
        rank = (candidates & (scores >= scores[:, :1])).sum(axis=1)
        bounds = np.maximum(np.log(np.log2(1 + rank)), np.log(rank))
        return scores, candidates, rank, bounds

    @staticmethod
    def loss(name, cases, **options):
        scores, candidates, *_ = cases
        target = np.zeros(len(scores), np.int32)
        function = functools.partial(getattr(losses, name), reduce_fn=None)
        if name == "top_cross_entropy":
            function = functools.partial(function, n=options.pop("n"))
        return np.asarray(jax.jit(function)(scores, target, candidates=candidates, **options))

    def test_the_loss_of_the_first_n_items_bounds_both_metrics_from_the_targets_rank_on(self, cases):
        rank, bounds = cases[2:]
        checked, too_few = 0, 0
        for n in range(1, 13):
            values = self.loss("top_cross_entropy", cases, n=n)
            assert (values[n >= rank] >= bounds[n >= rank] - SLACK).all()
            checked += (n >= rank).sum()
            too_few += (values[n < rank] < bounds[n < rank] - SLACK).sum()
        assert checked > 5000
        # With fewer the target is not in the sum, and the claim is not made: it would be wrong.
        assert too_few > 100
        # Items that all tie leave no slack.
        assert np.abs(self.loss("cross_entropy", cases) - np.log(rank)).min() < SLACK

    def test_the_truncated_loss_bounds_both_and_rises_to_the_cross_entropy(self, cases):
        scores, _, rank, bounds = cases
        full = self.loss("cross_entropy", cases)
        last = np.full(len(full), -np.inf)
        for eta in (0.0, 0.1, 0.5, 0.7, 1.0, 2.0, 5.0, 100.0):
            values = self.loss("truncated_cross_entropy", cases, eta=eta)
            assert (values >= bounds - SLACK).all()
            assert (values >= last - SLACK).all()
            if eta == 0:
                for n in range(1, 13):
                    top = self.loss("top_cross_entropy", cases, n=n)
                    np.testing.assert_allclose(values[rank == n], top[rank == n], atol=1e-12)
            last = values
        moved = scores[:, 0] != 0
        np.testing.assert_allclose(values[moved], full[moved], atol=1e-12)
        assert (~moved).any()

    def test_the_truncated_loss_of_a_target_at_zero_never_approaches_the_cross_entropy(self):
        """The threshold is eta times |s+|."""
        scores, target = np.array([[0.0, 1.0, -1.0]]), np.array([0])
        for eta in (0.0, 1.0, 1000.0):
            truncated = losses.truncated_cross_entropy(scores, target, eta=eta)
            assert float(truncated) == pytest.approx(math.log(1 + math.e), rel=1e-12)
        full = float(losses.cross_entropy(scores, target))
        assert full == pytest.approx(math.log(1 + math.e + 1 / math.e), rel=1e-12)


def test_lemma_c6_bounds_the_binomial_tail():
    worst = 1.0
    for n_drawn in range(1, 30):
        for needed in range(n_drawn + 1):
            for share in (0.01, 0.1, 0.3, 0.5, 0.9):
                slack = binomial_tail(n_drawn, share, needed) - tail_claim(needed, share, n_drawn)
                assert slack >= -1e-12, (n_drawn, needed, share)
                worst = min(worst, slack)
    assert worst < 1e-12


class TestNoiseContrastive:
    """Theorem 4.3: the bound rests on how many items score above the threshold, not on the rank."""

    @pytest.mark.parametrize("c", [1.0, 10.0])
    def test_nce(self, c):
        scores = score_rows(40) + c

        def claim(m, row, n_drawn):
            above = np.mean(row - c - math.log(n_drawn / N_ITEMS) >= 0)
            return tail_claim(m, above, n_drawn)

        found = count_violations("noise_contrastive", claim, scores, c=c, n_items=N_ITEMS)
        assert found["violated"] == 0
        assert found["above 0"] > 100

    def test_neg(self):
        found = count_violations(
            "negative_sampling",
            lambda m, row, n_drawn: tail_claim(m, np.mean(row >= 0), n_drawn),
            score_rows(40),
        )
        assert found["violated"] == 0
        assert found["above 0"] > 100


def test_importance_sampling_with_uniform_draws():
    def claim(m, row, n_drawn):
        share = np.mean(row >= row[0])
        return 1 - 2**m * power(1 - share, n_drawn // 2**m)

    options = uniform(positive_in_sum=False)
    found = count_violations("importance_sampled_softmax", claim, score_rows(60), **options)
    assert found["violated"] == 0
    assert found["above 0"] > 50


def published(alpha):
    """Eq. 7."""

    def claim(m, row, n_drawn):
        share = np.mean(row >= row[0])
        return 1 - 2**m / alpha * power(1 - share, math.floor(alpha * n_drawn / 2**m))

    return claim


def corrected(alpha, bound=tail_claim):
    """The count that is needed is the whole number M = ceil((2^m - 1) / alpha)."""

    def claim(m, row, n_drawn):
        return bound(math.ceil((2**m - 1) / alpha), np.mean(row >= row[0]), n_drawn)

    return claim


class TestScaledCrossEntropy:
    """Theorem 4.4 and what is near it."""

    @pytest.mark.parametrize("alpha", [1, 2])
    def test_the_theorem_holds_where_alpha_divides_the_power_of_two(self, alpha):
        found = count_violations("scaled_cross_entropy", published(alpha), score_rows(60), alpha=alpha)
        assert found["violated"] == 0
        assert found["above 0"] > 50

    @pytest.mark.parametrize("alpha", [4, 100])
    def test_the_theorem_fails_for_larger_alpha(self, alpha):
        """Among them the alpha of all of the paper's runs, 100."""
        found = count_violations("scaled_cross_entropy", published(alpha), score_rows(60), alpha=alpha)
        assert found["violated"] > 0.05 * found["all"]

    def test_a_counterexample_in_numbers(self):
        """Three of 100 items tie at the top, one of them the target; one draw, alpha = 100.

        Unless the draw is one of the three, the loss is about 100 e^-50. Eq. 7 gives it .9956 at m = 1.
        """
        scores = np.where(np.arange(100) < 3, 0.0, -50.0)
        pos, neg = np.zeros(100), scores[:, None]
        values = np.asarray(losses.scaled_cross_entropy(pos, neg, alpha=100.0, reduce_fn=None))
        bound = math.log(math.log2(1 + 3))
        assert (values >= bound).mean() == 0.03
        assert published(100)(1, scores, 1) == pytest.approx(1 - 0.02 * 0.97**50, rel=1e-12)
        assert published(100)(1, scores, 1) > 0.9956
        assert corrected(100)(1, scores, 1) == pytest.approx(0.03, rel=1e-9)

    @pytest.mark.parametrize("alpha", [1, 2, 3, 4, 100])
    def test_the_corrected_bound_holds(self, alpha):
        for bound in (tail_claim, lambda needed, share, n_drawn: binomial_tail(n_drawn, share, needed)):
            claim = corrected(alpha, bound)
            found = count_violations("scaled_cross_entropy", claim, score_rows(60), alpha=alpha)
            assert found["violated"] == 0
            assert found["above 0"] > 50

    def test_a_larger_alpha_makes_the_bound_likelier_also_in_its_corrected_form(self):
        """12,101 items, 500 draws (Amazon Beauty): what is guaranteed for a target of rank 2, 10, 50, 100."""
        for rank, large, small in ((2, 0.08, 0.08), (10, 0.34, 0.009), (50, 0.87, 0.06), (100, 0.984, 0.24)):
            row = np.where(np.arange(12101) < rank, 0.0, -1.0)
            m = next(m for m in range(4) if rank <= METRICS["ndcg"][1](m))
            assert corrected(100)(m, row, 500) == pytest.approx(1 - (1 - rank / 12101) ** 500, rel=1e-9)
            assert corrected(100)(m, row, 500) == pytest.approx(large, abs=0.006)
            # alpha = 1 with the exact count: 1 + that of draws from the top makes log2(1 + rank).
            tail = binomial_tail(500, rank / 12101, math.ceil(math.log2(1 + rank) - 1))
            assert tail == pytest.approx(small, abs=0.006)
            # Eq. 7 all but promises certainty.
            assert published(100)(m, row, 500) > 0.999

    @pytest.mark.parametrize("alpha", [1.0, 2.5, 100.0])
    def test_it_is_importance_sampling_unless_the_target_is_drawn(self, alpha):
        """Eq. 8: Q = alpha / (N - 1 + alpha) for the target, 1 / (N - 1 + alpha) for all others."""
        scores = score_rows(20)
        log_q = np.log(np.where(np.arange(N_ITEMS) == 0, alpha, 1.0) / (N_ITEMS - 1 + alpha))
        scaled = loss_of_every_draw("scaled_cross_entropy", scores, alpha=alpha)
        sampled = loss_of_every_draw(
            "importance_sampled_softmax", scores, log_q_pos=log_q[0], log_q_neg=log_q
        )
        target_drawn = all_draws()[0][:, 0] > 0
        np.testing.assert_allclose(
            scaled[:, ~target_drawn], sampled[:, ~target_drawn], rtol=1e-12, atol=1e-12
        )
        # A target that is drawn has the weight alpha in the one and 1 in the other.
        gap = np.abs(scaled - sampled)[:, target_drawn]
        assert gap.max() < 1e-12 if alpha == 1 else gap.max() > 0.5

    def test_the_expected_normaliser(self):
        """E[Z] = e^s+ + (alpha K / N) Z_CE: alpha = N / K gives the magnitude of the full sum, and one target more."""
        scores = score_rows(20)
        full = np.exp(np.asarray(losses.cross_entropy(scores, np.zeros(20, np.int32), reduce_fn=None)))
        _, chance, size = all_draws()
        for alpha in (np.ones(len(size)), N_ITEMS / size, np.full(len(size), 100.0)):
            per_example = np.broadcast_to(alpha, (len(scores), len(size)))
            # Relative to e^s+, as the loss is.
            normaliser = np.exp(loss_of_every_draw("scaled_cross_entropy", scores, alpha=per_example))
            for n_drawn in SIZES:
                of_size = size == n_drawn
                expected = 1 + alpha[of_size][0] * n_drawn / N_ITEMS * full
                np.testing.assert_allclose(normaliser[:, of_size] @ chance[of_size], expected, rtol=1e-10)


def test_binary_losses_of_one_sample_in_the_form_of_a_normaliser():
    """Table 1: -s+ + log Z, with (1 + e^s+)(1 + e^s-) for BCE and NEG, e^s+ + e^s- for BPR and SCE."""
    pos, neg = np.array([0.5, -2.0, 3.0]), np.array([[1.0], [-1.0], [4.0]])
    product = -pos + np.log((1 + np.exp(pos)) * (1 + np.exp(neg[:, 0])))
    total = -pos + np.log(np.exp(pos) + np.exp(neg[:, 0]))
    for name, expected in (("bce", product), ("negative_sampling", product), ("bpr", total)):
        np.testing.assert_allclose(getattr(losses, name)(pos, neg, reduce_fn=None), expected, rtol=1e-12)
    scaled = losses.scaled_cross_entropy(pos, neg, alpha=1.0, reduce_fn=None)
    np.testing.assert_allclose(scaled, total, rtol=1e-12)
    # NCE's is the same of the shifted scores s', so that its loss is -s'+ + log Z', and not -s+ + log Z'.
    shift = -10.0 - math.log(1 / N_ITEMS)
    moved = -(pos + shift) + np.log((1 + np.exp(pos + shift)) * (1 + np.exp(neg[:, 0] + shift)))
    nce = losses.noise_contrastive(pos, neg, c=10.0, n_items=N_ITEMS, reduce_fn=None)
    np.testing.assert_allclose(nce, moved, rtol=1e-12)


def test_which_softmax_a_weight_of_n_over_k_approaches():
    """Its target counts twice, unless a draw of the target is left out: then it is the cross-entropy, up to O(1/K)."""
    scores = np.array([0.5, 1.0, -0.5, 0.0, 1.5, -1.0])

    def limit(weights):
        weights = weights * np.exp(scores)
        return weights / weights.sum() - np.eye(N_ITEMS)[0]

    full, twice = limit(np.ones(N_ITEMS)), limit(1.0 + np.eye(N_ITEMS)[0])
    found = {}
    for n_drawn in (8, 16):

        def loss(scores, counts, n_drawn=n_drawn):
            alpha = N_ITEMS / n_drawn
            return losses.scaled_cross_entropy(scores[0], scores, alpha=alpha, counts=counts)

        gradient = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))
        counts, chance = draws(n_drawn)
        for name, left_out in (("all", 0.0), ("without the target", np.eye(N_ITEMS)[0])):
            found[name, n_drawn] = chance @ np.asarray(gradient(scores, counts * (1.0 - left_out)))
    for name, own, other in (("all", twice, full), ("without the target", full, twice)):
        distances = [np.abs(found[name, n_drawn] - own).sum() for n_drawn in (8, 16)]
        assert 1.6 < distances[0] / distances[1] < 2.6
        extrapolated = 2 * found[name, 16] - found[name, 8]
        assert np.abs(extrapolated - own).sum() < 0.2 * np.abs(extrapolated - other).sum()
