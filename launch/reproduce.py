"""Puts a published table beside our numbers and writes it into docs/results.md. Run from the repository's root.

python launch/reproduce.py --table=biif_table2 --config=configs/coat.py:table2 --workdir=runs/coat
python launch/reproduce.py --table=biif_figures --config=configs/ml_100k_exposure.py:figures --workdir=runs/figures
python launch/reproduce.py --table=badr_table3 --config=configs/coat_cvr.py:table3 --workdir=runs/coat_cvr
python launch/reproduce.py --table=retrieval --config=configs/ml_100k_retrieval.py:table --workdir=runs/ml_100k
python launch/reproduce.py --table=sce_table5 --config=configs/beauty.py:sasrec_ce,sasrec_sce --workdir=runs/beauty
python launch/reproduce.py --table=bir_figure7 --config=configs/ml_100k_retrieval.py:figure7 --workdir=runs/figure7

Each row is a run in a folder of its own: the same command resumes, and reads back what is finished. Tables of next-item
models take hours, and are put together from what is finished, here and in records of other machines:

python launch/reproduce.py --table=sce_table5 --config=configs/beauty.py:table5 --workdir=runs/beauty \
    --records=docs/runs/beauty --notrain
"""

from absl import flags

from debias_jax import _cli, experiment
from debias_jax._reproduction import tables

_TABLE = flags.DEFINE_enum(
    "table",
    None,
    sorted(tables.known()),
    "A published table, one of our own, or figures.",
)
_CONFIG = _cli.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the runs; resumed, or read if finished.")
_SECTION = flags.DEFINE_string(
    "section", None, "Section of docs/results.md to write; default the table's own."
)
_TUNED = flags.DEFINE_string("tuned", None, "tuned.json of launch/tune.py, with settings for the variants.")
_RECORDS = flags.DEFINE_string(
    "records",
    None,
    "Folder of small records of finished runs: those of the workdir are added, and all are shown.",
)
_TRAIN = flags.DEFINE_boolean("train", True, "Run what the config names; --notrain shows what is finished.")


def _main():
    if _TUNED.value is not None:
        _cli.say_untuned(experiment.apply_tuned(_CONFIG.value, _TUNED.value), _TUNED.value)
    config = flags.FLAGS[_CONFIG.name]
    command = tables.command_of(
        _TABLE.value,
        config.config_filename,
        config.override_values,
        section=_SECTION.value,
        tuned=_TUNED.value,
        records=_RECORDS.value,
        train=_TRAIN.value,
    )
    print(
        tables.reproduce(
            _TABLE.value,
            _CONFIG.value,
            _WORKDIR.value,
            command=command,
            section=_SECTION.value,
            records=_RECORDS.value,
            train=_TRAIN.value,
        )
    )


if __name__ == "__main__":
    _cli.main(_main, required=("table", "config", "workdir"))
