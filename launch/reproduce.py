"""Puts a published table beside our numbers and writes it into docs/results.md. Run from the repository's root.

python launch/reproduce.py --table=biif_table2 --config=configs/coat.py:table2 --workdir=runs/coat
"""

import shlex
import sys

from absl import flags

from debias_jax import _cli, _reproduce

_TABLE = flags.DEFINE_enum("table", None, sorted(_reproduce.TABLES), "The published table.")
_CONFIG = _cli.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the runs; resumed, or read if finished.")
_SECTION = flags.DEFINE_string(
    "section", None, "Section of docs/results.md to write; default the table's own."
)


def _main():
    given = [argument for argument in sys.argv[1:] if not argument.startswith("--workdir")]
    command = shlex.join(["python", "launch/reproduce.py", *given, "--workdir=DIR"])
    print(
        _reproduce.reproduce(
            _TABLE.value, _CONFIG.value, _WORKDIR.value, command=command, section=_SECTION.value
        )
    )


if __name__ == "__main__":
    _cli.main(_main, required=("table", "config", "workdir"))
