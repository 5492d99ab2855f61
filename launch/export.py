"""Writes the item vectors of a run and a faiss index of them, and says which share of the exact top it finds.

python launch/export.py --workdir=runs/ssl_pop --folder=runs/ssl_pop_items --index=hnsw
python launch/recommend.py --workdir=runs/ssl_pop --export=runs/ssl_pop_items --user=17 --k=10
"""

from absl import flags

from debias_jax import _cli, experiment

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run of one method.")
_FOLDER = flags.DEFINE_string("folder", None, "Folder of the export; an older export there is replaced.")
_FORMAT = flags.DEFINE_enum("format", "safetensors", ["safetensors", "npz"], "File of the vectors.")
_INDEX = flags.DEFINE_enum("index", "flat", ["flat", "hnsw", "ivf", "none"], "Kind of the index.")
_K = flags.DEFINE_integer("k", 100, "Items of which the recall is measured.", lower_bound=1)


def _main():
    report = experiment.export(
        _WORKDIR.value, _FOLDER.value, format=_FORMAT.value, index=_INDEX.value, k=_K.value
    )
    print(f"{_FOLDER.value}: {report.n_items:,} item vectors of {report.dim} numbers")
    if report.recall is not None:
        print(
            f"index {report.index}: {report.recall:.4f} of the exact top {report.k}, {report.n_users} users asked"
        )


if __name__ == "__main__":
    _cli.main(_main, required=("workdir", "folder"))
