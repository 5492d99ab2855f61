"""Answers from a run's bundle in raw ids, without the training data.

python launch/recommend.py --workdir=runs/biif --user=17 --k=10
python launch/recommend.py --workdir=runs/sasrec --history=B001,B017,B003 --k=10
python launch/recommend.py --workdir=runs/sasrec --history='"tea, green"' --history='jam,"tea, black"' --k=10

For one answer a process imports, reads the bundle and compiles, which is most of its time; what was compiled is kept
for the next one with JAX_COMPILATION_CACHE_DIR=FOLDER. For many answers, see experiment.Recommender.
"""

import csv

from absl import flags

from debias_jax import _cli, experiment
from debias_jax.errors import ConfigError

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run of one method.")
_USER = flags.DEFINE_string("user", None, "Raw id of the user.")
_HISTORY = flags.DEFINE_multi_string(
    "history",
    None,
    "Raw ids of items, the newest last: of a run of next_item, what follows them. Separated by commas, or in flags of "
    "their own; an id that holds a comma stands in double quotes.",
)
_K = flags.DEFINE_integer("k", 10, "Number of items.")
_INCLUDE_SEEN = flags.DEFINE_bool(
    "include_seen",
    None,
    "Also items that the user clicked, or not; default as the run was measured: not, unless users come back to items.",
)
_EXPORT = flags.DEFINE_string(
    "export", None, "Folder that launch/export.py wrote of this workdir; its index is searched."
)
_UNKNOWN = flags.DEFINE_enum("unknown_user", None, ["error", "popular"], "What an unknown user gets.")


def _history() -> list[str]:
    items: list[str] = []
    for value in _HISTORY.value:
        try:
            items += next(csv.reader([value], strict=True), [])
        except csv.Error as error:
            raise ConfigError(f"cannot read --history={value}: {error}") from error
    return items


def _main():
    settings = {
        "k": _K.value,
        "exclude_seen": None if _INCLUDE_SEEN.value is None else not _INCLUDE_SEEN.value,
    }
    if _HISTORY.value is not None:
        for name, value in (("export", _EXPORT.value), ("unknown_user", _UNKNOWN.value)):
            if value is not None:
                raise ConfigError(
                    f"--{name} does not go with --history, which the model itself reads; leave it out"
                )
        recommendations = experiment.recommend_next(_WORKDIR.value, _history(), user=_USER.value, **settings)
    elif _USER.value is None:
        raise ConfigError("name a user, --user=ID, or for a run of next_item a history, --history=ITEM,ITEM")
    else:
        recommendations = experiment.recommend(
            _WORKDIR.value,
            _USER.value,
            unknown_user=_UNKNOWN.value or "error",
            export_folder=_EXPORT.value,
            **settings,
        )
    print("rank\titem\tscore")
    for row in recommendations:
        print(f"{row.rank}\t{row.item}\t{row.score:.4f}")


if __name__ == "__main__":
    _cli.main(_main, required=("workdir",))
