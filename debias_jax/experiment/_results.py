"""Results: what a variant scored, how variants compare, and the tables that say so."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from debias_jax.errors import ConfigError
from debias_jax.training import significance
from debias_jax.training.evaluation import Evaluation, summarise


class Scored(NamedTuple):
    """A trained variant and its test scores.

    Attributes:
        name: the variant.
        dataset: the dataset's name.
        method: the method's name.
        options: the method's options.
        model: the model's settings.
        protocol: the test protocol's fields, None where there is no test part.
        seeds: one a run.
        evaluations: host ``Evaluation`` of each run.
        pcc: per run the Pearson correlation of estimated and true exposure, mean over users; simulated data only.
        exposure: the first run's estimated exposure ``[n_users, n_items]``, or None.
        hparams: the hyperparameters.
        overlap: of methods that weight rows by inverse propensities: effective sample size, largest weight, share
            clipped, rows; else None.
        seconds: wall times.
        history: logs of training.
    """

    name: str
    dataset: str
    method: str
    options: dict[str, Any]
    model: dict[str, Any]
    protocol: dict[str, Any] | None
    seeds: tuple[int, ...]
    evaluations: list[Evaluation]
    pcc: list[float]
    exposure: np.ndarray | None
    hparams: dict[str, float]
    overlap: dict[str, float] | None
    seconds: dict[str, float]
    history: list[dict[str, Any]]

    def values(self) -> dict[str, list[float]]:
        """Every metric's value in each run."""
        summaries = [summarise(one) for one in self.evaluations]
        # A jitted evaluation returns its dict sorted; the table keeps the protocol's order.
        names = self.metric_names() if summaries else []
        values = {name: [float(summary[name]) for summary in summaries] for name in names}
        return {**values, "pcc": list(self.pcc)} if self.pcc else values

    def metric_names(self) -> list[str]:
        """Names of the metrics, in the protocol's order."""
        return [name for name in (self.protocol or {"metrics": []})["metrics"]]

    def to_json(self) -> dict[str, Any]:
        """The public schema of ``results.json``."""
        return {
            "dataset": self.dataset,
            "variant": self.name,
            "method": self.method,
            "options": self.options,
            "model": self.model,
            "hparams": self.hparams,
            "protocol": self.protocol,
            "seeds": list(self.seeds),
            "metrics": {
                name: {
                    "mean": float(np.mean(values)),
                    "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                    "n": len(values),
                    "values": values,
                }
                for name, values in self.values().items()
            },
            "overlap": self.overlap,
            "seconds": self.seconds,
        }


def per_user_arrays(scored: Scored) -> dict[str, np.ndarray]:
    """``[runs, users]`` values of every per-user metric, and ``counted/<metric>`` masks, for ``per_user.npz``."""
    if not scored.evaluations:
        return {}
    first = scored.evaluations[0]
    arrays = {name: np.stack([one.per_user[name] for one in scored.evaluations]) for name in first.per_user}
    return {**arrays, **{f"counted/{name}": np.asarray(first.where[name]) for name in first.where}}


def compare(scored: Sequence[Scored], *, baseline: str, metric: str) -> list[dict[str, Any]]:
    """Each variant against the baseline on one metric.

    Two questions, two tests: over seeds (would another start of training say the same?) a paired t-test, over users
    (would other users?) a paired bootstrap of the mean difference, seeds averaged.

    Args:
        scored: the variants.
        baseline: a variant's name; nothing is compared where it is not among them.
        metric: the metric; pooled metrics have no bootstrap.

    Returns:
        A row a variant: ``difference``, ``p_seeds``, ``low``, ``high`` (95 %), ``p_users``; None where a test cannot
        be made (one seed, no test part, the variants' runs do not vary).
    """
    base = next((one for one in scored if one.name == baseline), None)
    rows: list[dict[str, Any]] = []
    if base is None or len(scored) < 2 or metric not in base.values():
        return rows
    base_values, base_users = base.values()[metric], per_user_arrays(base)
    for one in scored:
        if one.name == baseline:
            continue
        values, users = one.values()[metric], per_user_arrays(one)
        if not (np.isfinite(values).all() and np.isfinite(base_values).all()):
            # An AUC of one class, say: there is nothing to compare.
            continue
        row: dict[str, Any] = {
            "variant": one.name,
            "baseline": baseline,
            "metric": metric,
            "difference": float(np.mean(values) - np.mean(base_values)),
            "p_seeds": None,
            "low": None,
            "high": None,
            "p_users": None,
        }
        if len(values) > 1 and len(values) == len(base_values):
            row["p_seeds"] = significance.paired_t_test(values, base_values)[1]
        if metric in users:
            counted = users[f"counted/{metric}"]
            interval = significance.paired_user_bootstrap(users[metric], base_users[metric], where=counted)
            row |= {"low": interval.low, "high": interval.high, "p_users": interval.p}
        rows.append(row)
    return rows


def _columns(rows: list[list[str]]) -> str:
    """Rows of cells as aligned text; the first row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _p(value: float | None) -> str:
    return (
        "-"
        if value is None
        else "<.0001"
        if value < 1e-4
        else f"{value:.4f}".lstrip("0")
        if value < 1
        else "1"
    )


def table(scored: Sequence[Scored], comparison: Sequence[dict[str, Any]], *, headline: str) -> str:
    """The table at the end of a run: mean and sd of every metric, and the comparison with the baseline."""
    first = scored[0]
    names = list(first.values())
    if not names:
        return f"{first.dataset}: no test part, so nothing was scored; see metrics.jsonl for validation"
    head = ["method", *names]
    body = []
    for one in scored:
        cells = [one.name]
        for name in names:
            values = one.values().get(name)
            if not values:
                cells.append("-")
                continue
            sd = f" ±{np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.4f}{sd}")
        body.append(cells)
    if any("pcc" in one.values() for one in scored) and "pcc" not in names:
        head.append("pcc")
        for one, cells in zip(scored, body, strict=True):
            values = one.values().get("pcc")
            cells.append(
                f"{np.mean(values):.4f} ±{np.std(values, ddof=1):.4f}" if values and len(values) > 1 else "-"
            )
    n_seeds = len(first.seeds)
    seeds = f"{n_seeds} seed{'s' if n_seeds > 1 else ''}"
    title = f"{first.dataset}, protocol {first.protocol['name']}: mean ± sd over {seeds}"
    text = [title, _columns([head, *body])]
    for one in scored:
        if one.overlap is not None:
            share = one.overlap["clipped_share"]
            clipped = f", {share:.0%} of the propensities clipped" if share else ""
            text.append(
                f"{one.name}: weights worth {one.overlap['effective_sample_size']:.0f} of {one.overlap['rows']} rows "
                f"(effective sample size), largest weight {one.overlap['largest_weight']:.1f}{clipped}"
            )
    if len(scored) > 1 and not comparison:
        text.append(
            f"no comparison on {headline}: the baseline is not among the variants, or it is undefined"
        )
    if comparison:
        base = comparison[0]["baseline"]
        rows = [
            ["method", f"{headline} - {base}", "95 % interval (users)", "p (users)", "p (seeds)", "verdict"]
        ]
        for row in comparison:
            interval = "-" if row["low"] is None else f"[{row['low']:+.4f}, {row['high']:+.4f}]"
            tests = [p for p in (row["p_users"], row["p_seeds"]) if p is not None]
            sure = bool(tests) and max(tests) < 0.05
            shown = "better" if row["difference"] > 0 else "worse"
            verdict = shown if sure else "no difference shown" if tests else "not tested"
            rows.append(
                [
                    row["variant"],
                    f"{row['difference']:+.4f}",
                    interval,
                    _p(row["p_users"]),
                    _p(row["p_seeds"]),
                    verdict,
                ]
            )
        text += [
            "",
            f"against {base} on {headline}: paired bootstrap over users, paired t-test over seeds; "
            "a verdict needs each p < .05, not corrected for the number of methods",
            _columns(rows),
        ]
    return "\n".join(text)


def validation_scores(fitted, *, n_seeds: int, monitor: str, restore: str) -> np.ndarray:
    """``[settings, seeds]`` scores of the runs of a fit, NaN for those that diverged.

    The score is the monitored metric at the state that would be kept: the best epoch with ``restore="best"``, the
    last one otherwise.
    """
    if restore == "best":
        scores = np.asarray(fitted.best_value, np.float64)
    else:
        last = fitted.history[-1][monitor]
        scores = np.asarray([np.nan if value is None else value for value in last], np.float64)
    return np.where(np.isfinite(scores) & ~fitted.diverged, scores, np.nan).reshape(-1, n_seeds)


def sweep_rows(
    fitted, points: Sequence[dict[str, float]], *, n_seeds: int, monitor: str, restore: str
) -> list[dict]:
    """A row for each point of a grid, best mean validation score first; see ``validation_scores``."""
    scores = validation_scores(fitted, n_seeds=n_seeds, monitor=monitor, restore=restore)
    rows = []
    for point, values in zip(points, scores, strict=True):
        sound = bool(np.isfinite(values).all())
        rows.append(
            {
                "hparams": point,
                "mean": float(values.mean()) if sound else None,
                "sd": float(values.std(ddof=1)) if sound and n_seeds > 1 else None,
                "values": values.tolist(),
            }
        )
    return sorted(rows, key=lambda row: -np.inf if row["mean"] is None else row["mean"], reverse=True)


def sweep_table(name: str, monitor: str, rows: Sequence[dict], seconds: float, n_runs: int) -> str:
    """The text of a sweep: every point, best first."""
    keys = list(rows[0]["hparams"])
    cells = [[monitor, "sd", *keys]]
    for row in rows:
        mean = "diverged" if row["mean"] is None else f"{row['mean']:.4f}"
        sd = "-" if row["sd"] is None else f"{row['sd']:.4f}"
        cells.append([mean, sd, *(f"{row['hparams'][key]:g}" for key in keys)])
    return f"{name}: {n_runs} runs in one program, {seconds:.1f} s; validation only\n{_columns(cells)}"


def tune_table(results: Sequence[dict[str, Any]]) -> str:
    """The text of a search: the best setting of each variant, and a ``TUNED`` to paste into a config."""
    first = results[0]
    cells = [["method", first["monitor"], "trials", "pruned", "diverged", "seconds", "best setting"]]
    for one in results:
        value = "-" if one["value"] is None else f"{one['value']:.4f}"
        best = ", ".join(f"{name} {setting:.3g}" for name, setting in one["hparams"].items())
        counts = [str(one[name]) for name in ("trials", "pruned", "diverged")]
        cells.append([one["variant"], value, *counts, f"{one['seconds']:.1f}", best or "none finished"])
    seeds = len(first["seeds"])
    snippet = [
        f'    "{one["variant"]}": {{'
        + ", ".join(f'"{name}": {float(f"{value:.4g}")!r}' for name, value in one["hparams"].items())
        + "},"
        for one in results
        if one["hparams"]
    ]
    return "\n".join(
        [
            f"{first['dataset']}: best trial, mean of {seeds} seed{'s' if seeds > 1 else ''}; validation only",
            _columns(cells),
            "",
            "TUNED = {",
            *snippet,
            "}",
        ]
    )


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file, None where there is none."""
    path = pathlib.Path(path)
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); move it away, or use another workdir") from error
