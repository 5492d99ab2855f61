"""Trains one or several methods and prints their table.

python launch/train.py --config=configs/coat.py:biif --workdir=runs/biif
python launch/train.py --config=configs/synthetic.py:mf,relmf,biif --config.seeds='(0,1,2)' --workdir=runs/three
"""

from absl import flags

from debias_jax import _cli, experiment

_CONFIG = _cli.define_config()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; the same command resumes what stands there."
)
_TUNED = flags.DEFINE_string("tuned", None, "tuned.json of launch/tune.py, with settings for the variants.")


def _main():
    if _TUNED.value is not None:
        _cli.say_untuned(experiment.apply_tuned(_CONFIG.value, _TUNED.value), _TUNED.value)
    print(experiment.run(_CONFIG.value, _WORKDIR.value).text)


if __name__ == "__main__":
    _cli.main(_main, required=("config", "workdir"))
