"""What the launch scripts share: errors as one line, and where progress goes."""

import os
import sys
from collections.abc import Callable

from absl import app, flags, logging

from debias_jax.errors import DebiasError


def main(function: Callable[[], None], *, required: tuple[str, ...] = ()) -> None:
    """Runs a launch script: parses flags, prints a ``DebiasError`` as one line, exits 2 on it.

    Args:
        function: the script's work; it reads its own flags.
        required: names of flags that must be given.
    """
    for name in required:
        flags.mark_flag_as_required(name)

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            print(f"error: unexpected argument {argv[1]!r}; every setting is a --flag=value", file=sys.stderr)
            sys.exit(2)
        # absl logs at INFO, and every library with it; a run shows warnings only.
        logging.set_verbosity(logging.WARNING)
        try:
            function()
            sys.stdout.flush()
        except DebiasError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except BrokenPipeError:
            # The reader (a pager, head) has gone; a second write at interpreter exit would print a traceback.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)

    app.run(guarded)
