r"""Searches the numeric hyperparameters of each method with Optuna; batches of trials run as one compiled program.

It reads validation only, gives every method the same number of trials, and prints the best setting of each.

python launch/tune.py --config=configs/coat.py:mf --trials=30 --workdir=runs/tune
python launch/train.py --config=configs/coat.py:mf --tuned=runs/tune/tuned.json --workdir=runs/mf
"""

from absl import flags

from debias_jax import _cli, experiment

_CONFIG = _cli.define_config()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the search; the same command resumes what stands there."
)
_TRIALS = flags.DEFINE_integer("trials", None, "Trials a method; default: config.tune.trials.", lower_bound=1)
_BATCH = flags.DEFINE_integer(
    "batch", None, "Trials in one program; default: config.tune.batch.", lower_bound=1
)
_SEEDS = flags.DEFINE_integer(
    "seeds",
    None,
    "Seeds a trial, 0 .. seeds - 1, of which the mean counts; default: the config's first seed.",
    lower_bound=1,
)


def _main():
    config = _CONFIG.value
    config.seeds = config.seeds[:1] if _SEEDS.value is None else tuple(range(_SEEDS.value))
    for name, flag in (("trials", _TRIALS), ("batch", _BATCH)):
        if flag.value is not None:
            config.tune[name] = flag.value
    print(experiment.tune(config, _WORKDIR.value).text)


if __name__ == "__main__":
    _cli.main(_main, required=("config", "workdir"))
