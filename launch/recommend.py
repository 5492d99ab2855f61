"""Answers from a run's bundle in raw ids, without the training data.

python launch/recommend.py --workdir=runs/biif --user=17 --k=10
"""

from absl import flags

from debias_jax import _cli, experiment

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run of one method.")
_USER = flags.DEFINE_string("user", None, "Raw id of the user.")
_K = flags.DEFINE_integer("k", 10, "Number of items.")
_INCLUDE_SEEN = flags.DEFINE_bool("include_seen", False, "Also items that the user clicked in training.")
_EXPORT = flags.DEFINE_string(
    "export", None, "Folder that launch/export.py wrote of this workdir; its index is searched."
)
_UNKNOWN = flags.DEFINE_enum("unknown_user", "error", ["error", "popular"], "What an unknown user gets.")


def _main():
    recommendations = experiment.recommend(
        _WORKDIR.value,
        _USER.value,
        k=_K.value,
        exclude_seen=not _INCLUDE_SEEN.value,
        unknown_user=_UNKNOWN.value,
        export_folder=_EXPORT.value,
    )
    print("rank\titem\tscore")
    for row in recommendations:
        print(f"{row.rank}\t{row.item}\t{row.score:.4f}")


if __name__ == "__main__":
    _cli.main(_main, required=("workdir", "user"))
