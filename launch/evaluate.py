"""Scores the runs of a workdir again, under its own protocol or another.

python launch/evaluate.py --workdir=runs/biif
python launch/evaluate.py --workdir=runs/biif --protocol=saito
"""

from absl import flags

from debias_jax import _cli, experiment

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run.")
_PROTOCOL = flags.DEFINE_string("protocol", None, "Name of a protocol; default: the run's own.")
_DATA_PATH = flags.DEFINE_string("data_path", None, "Where the data lies now, if not where the run read it.")


def _main():
    print(experiment.evaluate(_WORKDIR.value, protocol=_PROTOCOL.value, data_path=_DATA_PATH.value).text)


if __name__ == "__main__":
    _cli.main(_main, required=("workdir",))
