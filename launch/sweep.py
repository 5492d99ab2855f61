r"""Trains many seeds, and a grid of numeric hyperparameters, as one compiled program a method.

Without a grid it reports the test part, as train.py does. With a grid it reads validation only and prints the best
setting of each method.

python launch/sweep.py --config=configs/coat.py:biif --seeds=16 --workdir=runs/seeds
python launch/sweep.py --config=configs/coat.py:mf --seeds=2 --grid=lr=3e-4,1e-3 --grid=weight_decay=0,1e-5 \
    --workdir=runs/grid
"""

from absl import flags

from debias_jax import _cli, experiment

_CONFIG = _cli.define_config()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the sweep; the same command resumes what stands there."
)
_SEEDS = flags.DEFINE_integer(
    "seeds", None, "Number of seeds, 0 .. seeds - 1; default: the config's seeds.", lower_bound=1
)
_GRID = flags.DEFINE_multi_string(
    "grid", [], "name=value,value,...: values of a numeric hyperparameter; repeatable."
)
_TUNED = flags.DEFINE_string("tuned", None, "tuned.json of launch/tune.py, with settings for the variants.")


def _main():
    config = _CONFIG.value
    if _TUNED.value is not None:
        _cli.say_untuned(experiment.apply_tuned(config, _TUNED.value), _TUNED.value)
    if _SEEDS.value is not None:
        config.seeds = tuple(range(_SEEDS.value))
    if not _GRID.value:
        print(experiment.run(config, _WORKDIR.value).text)
    else:
        print(experiment.sweep(config, _WORKDIR.value, experiment.parse_grid(_GRID.value)).text)


if __name__ == "__main__":
    _cli.main(_main, required=("config", "workdir"))
