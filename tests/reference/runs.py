"""Folders as finished runs leave them, with made-up scores."""

import json
import pathlib

MONITOR = ((5, 0.1), (10, 0.3), (15, 0.2))


def finish(
    folder,
    variant,
    values,
    *,
    name="",
    seeds=(0, 1),
    monitor=MONITOR,
    epochs=None,
    dataset="beauty",
    ks=(5, 10),
    settings=None,
    train=None,
):
    """A finished run of a variant of SASRec with one value of every metric for each seed.

    The first seed's validation is ``monitor``, that of the others a hundredth of the epoch; a seed whose ``epochs`` are
    over rests, and its rows hold None.
    """
    own = pathlib.Path(folder) / (name or variant)
    own.mkdir(parents=True)
    metrics = {f"{kind}@{k}": {"values": list(values)} for kind in ("hr", "ndcg", "mrr") for k in ks}
    results = {
        "dataset": dataset,
        "variant": variant,
        "method": "next_item",
        "options": {"loss": "cross_entropy", "samples": "windows"},
        "model": {"name": "sasrec", "dim": 64, "options": {"max_len": 50}},
        "hparams": {"lr": 5e-4},
        "protocol": {"name": "leave_one_out"},
        "seeds": list(seeds),
        "metrics": metrics,
        **(settings or {}),
    }
    config = {
        "data": {"name": dataset, "path": str(own), "options": {}, "split": {"name": "leave_one_out"}},
        "protocol": {"validation": "leave_one_out", "monitor": "ndcg@10"},
        "train": {"epochs": 200, "patience": 10, "lr": None, **(train or {})},
        "seeds": list(seeds),
    }
    (own / "results.json").write_text(json.dumps(results))
    (own / "config.json").write_text(json.dumps(config))
    ends = epochs or [max(step for step, _ in monitor)] * len(seeds)
    rows = [
        {
            "step": step,
            "run": run,
            "seed": seed,
            "loss": 1.0 / step if step <= ends[run] else None,
            "ndcg@10": (value if run == 0 else step / 100) if step <= ends[run] else None,
        }
        for step, value in monitor
        for run, seed in enumerate(seeds)
    ]
    (own / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return own
