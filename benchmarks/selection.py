"""Whether a search held settings that do better on the test part than the one which validation chose.

    python launch/tune.py --config=configs/coat_cvr.py:d_dr --trials=60 --seeds=3 --workdir=runs/tune
    python benchmarks/selection.py configs/coat_cvr.py d_dr runs/tune

A diagnosis of rows that stay below a published number, made after the table; nothing may be chosen by it. Every setting
of a finished search is trained again with one seed and scored on both parts, on test by the config's headline metric.
Printed are its value at the setting that validation chose in the search, the best value of all settings (a maximum over
many, and so too high by itself) and the rank correlation of the two parts. If the best is above the published number,
the method can reach it with these settings and validation did not find them; if it is not, the space, the schedule or
the method differs. With ``--stop-on test`` the epoch too is the best one on the test part, which leaves the space and
the method.
"""

import argparse
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from _measure import load_config

from debias_jax import experiment, training
from debias_jax.experiment import _build, _fit
from debias_jax.training import evaluation


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, ties in order."""
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")


def diagnose(path: str, name: str, tuned: pathlib.Path, *, seed: int, stop_on: str) -> list[str]:
    """A row of the table."""
    config = load_config(path, name)
    dataset, _ = experiment.load_dataset(config)
    if stop_on == "test":
        dataset = dataset.replace(validation=dataset.test)
    entry = config.variants[name]
    task = _fit.make_task(config, entry, dataset, label=name)
    method = task.method
    lines = (tuned / name / "trials.jsonl").read_text().splitlines()
    trials = [trial for trial in map(json.loads, lines) if trial["outcome"] == "complete"]
    chosen = int(np.argmax([trial["value"] for trial in trials]))
    given = [{**_build.variant_hparams(config, entry, method), **trial["hparams"]} for trial in trials]
    fitted = training.fit_many(
        method,
        task.data,
        jnp.stack([training.run_key(seed)] * len(given)),
        {key: jnp.asarray([one[key] for one in given], jnp.float32) for key in given[0]},
        epochs=config.train.epochs,
        eval_every=config.train.eval_every,
        on_nonfinite="drop",
        **task.settings,
    )
    protocol, eval_set = _fit.make_judge(config, dataset, "test", history=_fit.history_of(method))

    @jax.jit
    def score(states):
        return jax.lax.map(
            lambda state: evaluation.summarise(
                evaluation.evaluate(protocol, method.predict, state, eval_set)
            ),
            states,
        )

    test = np.asarray(score(fitted.state)[config.protocol.headline])
    validation = np.asarray(fitted.best_value)
    kept = ~np.asarray(fitted.diverged)
    correlation = np.corrcoef(ranks(validation[kept]), ranks(test[kept]))[0, 1]
    best = int(np.argmax(np.where(kept, test, -np.inf)))
    return [
        name,
        str(kept.sum()),
        f"{test[chosen]:.4f}",
        f"{test[best]:.4f}",
        f"{correlation:.2f}",
        ", ".join(f"{key} {value:.3g}" for key, value in sorted(trials[best]["hparams"].items())),
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="a file such as configs/coat_cvr.py")
    parser.add_argument("methods", help="names, separated by commas")
    parser.add_argument("tuned", type=pathlib.Path, help="workdir of launch/tune.py")
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--stop-on", choices=("validation", "test"), default="validation")
    options = parser.parse_args()
    print("| method | settings | test, the chosen | test, the best | rank correlation | the best setting |")
    print("|---|---|---|---|---|---|")
    for name in options.methods.split(","):
        row = diagnose(options.config, name, options.tuned, seed=options.seed, stop_on=options.stop_on)
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
