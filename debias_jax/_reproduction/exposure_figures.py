"""Figures 1-3 of Biif, drawn from our own runs; the paper prints no numbers for them."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from debias_jax._reproduction import markdown
from debias_jax._reproduction.rows import run_rows
from debias_jax.data.types import Dataset
from debias_jax.errors import ConfigError, require_extra
from debias_jax.experiment import _plots
from debias_jax.experiment._exposure_variants import FIGURE1, FIGURE2, FIGURE3
from debias_jax.experiment._fit import make_judge
from debias_jax.experiment._logistic_mf import popularity_pcc
from debias_jax.experiment._results import Scored

METHODS = {"1": FIGURE1, "2": FIGURE2, "3": FIGURE3}
"""The methods of each figure. Figures 2 and 3 are on data whose exposure is known."""

CAPTIONS = {
    "1": "Figure 1: is the bi-level step needed",
    "2": "Figure 2: PCC of estimated and true exposure",
    "3": "Figure 3: all methods",
}

METRIC = "dcg@3"


def draw(
    config: ConfigDict, workdir: pathlib.Path, dataset: Dataset, command: str, folder: pathlib.Path
) -> str:
    """Draws those figures of which the config has all methods, each with every variant of its methods.

    Args:
        config: the variants.
        workdir: of the runs.
        dataset: the config's; Figures 2 and 3 need its truth.
        command: to print in the section.
        folder: of the images, beside the page.

    Returns:
        The section: the images and their numbers.

    Raises:
        ConfigError: no figure has all its methods, DCG@3 is not measured, or Figure 2 would lack its first point.
        MissingExtraError: matplotlib is not installed.
    """
    require_extra("matplotlib", "plot")
    chosen = {name: config.variants[name].method for name in config.methods}
    possible = {number: METHODS[number] for number in (METHODS if dataset.truth is not None else "1")}
    numbers = [number for number, wanted in possible.items() if set(wanted) <= set(chosen.values())]
    if not numbers:
        needs = "; ".join(f"Figure {number}: {', '.join(wanted)}" for number, wanted in possible.items())
        raise ConfigError(f"the config has all methods of no figure of {dataset.name}; they are {needs}")
    judge = make_judge(config, dataset, "test")
    if judge is None or METRIC not in judge.protocol.metrics:
        raise ConfigError(
            f"the figures show {METRIC} on the test part, which the runs do not measure; add it to "
            "config.protocol.metrics"
        )
    if "2" in numbers and not config.train.eval_at_start:
        raise ConfigError(
            "Figure 2 begins with the PCC before training; set config.train.eval_at_start=True, and use another "
            "--workdir for what was trained without"
        )
    scored = run_rows(config, workdir)
    shown = {
        number: [one for method in METHODS[number] for one in scored if one.method == method]
        for number in numbers
    }
    folder.mkdir(parents=True, exist_ok=True)
    images = {number: folder / f"biif_figure{number}_{dataset.name}.png" for number in numbers}
    pcc_table: list[str] = []
    for number in numbers:
        if number == "2":
            known = {"pcc": "PCC of estimated and true exposure"}
            popularity = popularity_pcc(dataset)
            _plots.curves(images[number], shown[number], known, levels={"popularity": popularity})
            pcc_table = _pcc_table(shown[number], popularity)
        else:
            _plots.bars(images[number], shown[number], METRIC)
    return "\n\n".join(
        [
            f"### {dataset.name}: Figure{'s' * (len(numbers) > 1)} {', '.join(numbers)} of Biif",
            f"`{command}`, seeds {', '.join(map(str, config.seeds))}. The paper prints no numbers.",
            *(f"![{CAPTIONS[number]}, {dataset.name}](figures/{images[number].name})" for number in numbers),
            f"Test metrics under protocol `{judge.protocol.name}`, mean ± sd over seeds:",
            "\n".join(markdown.ours(scored, digits=4)),
            *_against_joint_opt(shown),
            *pcc_table,
            "\n".join(markdown.hyperparameters({one.name: one.hparams for one in scored})),
        ]
    )


def _against_joint_opt(shown: Mapping[str, Sequence[Scored]]) -> list[str]:
    """What Figure 1 asks, with intervals."""
    lines = markdown.comparison(shown.get("1", []), baseline="joint_opt", metric=METRIC, digits=4)
    return ["\n".join(lines)] if lines else []


def _pcc_table(scored: Sequence[Scored], popularity: float) -> list[str]:
    """The curves of Figure 2 in numbers: where they start, are highest, and end; with popularity's own PCC."""
    body = []
    for one in scored:
        epochs, values = _plots.series(one.history, "pcc")
        # What varies over no user's items has no correlation.
        means = np.where(np.isfinite(values).all(axis=1), values.mean(axis=1), -np.inf)
        start = markdown.measured(values[0], 4) if np.isfinite(means[0]) else "-"
        at_highest, at_last = (
            f"{markdown.measured(values[row], 4)} (epoch {epochs[row]})" for row in (int(means.argmax()), -1)
        )
        body.append([one.name, start, at_highest, at_last])
    body.append(["popularity", *[f"{popularity:.4f}"] * 3])
    head = ["method", "PCC before training", "highest", "last"]
    return [
        "PCC of estimated and true exposure over a user's items, mean over users, mean ± sd over seeds (-: the "
        "estimate is the same for all items):",
        "\n".join(markdown.rows(head, body)),
    ]
