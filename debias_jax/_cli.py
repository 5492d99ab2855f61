"""What the launch scripts share: the config flag, errors as one line, and where progress goes."""

import ast
import os
import pathlib
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from debias_jax.errors import ConfigError, DebiasError, nearest

# The flags defined here belong to the script that asks for them, so that its --help lists them.
flags.disclaim_key_flags()


class _ConfigParser(flags.ArgumentParser):
    """Loads a config file; says in one line where there is none, or where an override names no key of it.

    Args:
        name: of the flag.
        loader: the parser of ``ml_collections``.
    """

    def __init__(self, name: str, loader: flags.ArgumentParser):
        self.name = name
        self._loader = loader

    def parse(self, path: str) -> ConfigDict:
        file = pathlib.Path(path.partition(":")[0])
        if not file.is_file():
            here = [str(found) for found in (file if file.is_dir() else file.parent).glob("*.py")]
            hint = (
                nearest(str(file), here) if here else "run from the root of the repository, or give its path"
            )
            raise ConfigError(f"there is no config file {file}; {hint}")
        config = self._loader.parse(path)
        for argument in sys.argv[1:]:
            override = re.match(rf"--?(?:no)?{self.name}\.([^=]+)(?:=(.*))?", argument, re.DOTALL)
            if override:
                _add_setting(config, override[1], override[2])
                _check_key(config, self.name, override[1])
        return config


def _add_setting(config: ConfigDict, key: str, value: str | None) -> None:
    """Makes room for a hyperparameter or an option that a variant has not set: the method says whether it has it.

    An override takes the type of what it replaces, so that a value of the right type stands there first.
    """
    parts = key.split(".")
    if len(parts) != 4 or parts[0] != "variants" or parts[2] not in ("hparams", "options") or value is None:
        return
    entry = config.get("variants", {}).get(parts[1])
    if entry is None or parts[3] in entry[parts[2]]:
        return
    try:
        literal = ast.literal_eval(value)
    except (SyntaxError, ValueError):
        literal = value
    if parts[2] == "hparams":
        if isinstance(literal, bool) or not isinstance(literal, int | float):
            raise ConfigError(f"--config.{key} must be a number, got {value!r}")
        literal = float(literal)
    with config.unlocked():
        entry[parts[2]][parts[3]] = literal


def _check_key(config: ConfigDict, path: str, key: str) -> None:
    """Raises unless every part of a dotted key is in the config."""
    for part in key.split("."):
        if not isinstance(config, ConfigDict) or not len(config):
            raise ConfigError(f"unknown key {path}.{part}; {path} has no keys")
        if part not in config:
            raise ConfigError(f"unknown key {path}.{part}; {nearest(part, config.keys())}")
        config, path = config[part], f"{path}.{part}"


def define_config() -> flags.FlagHolder:
    """Defines ``--config=FILE:VARIANT`` and its overrides ``--config.KEY=VALUE``."""
    holder = config_flags.DEFINE_config_file(
        "config", None, "configs/<dataset>.py:<method>[,<method>...]; --config.KEY=VALUE overrides a setting."
    )
    flag = flags.FLAGS[holder.name]
    flag.parser = _ConfigParser(holder.name, flag.parser)
    return holder


def say_untuned(variants: Sequence[str], path: str) -> None:
    """One line about the variants that ``experiment.apply_tuned`` left as they were, if there are any."""
    if variants:
        print(f"{path} has nothing for {', '.join(variants)}: settings of the config", flush=True)


def _innermost(error: BaseException) -> BaseException:
    """The error that the others were raised from."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return error


def _flag_error(error: Exception) -> str:
    """One line about a flag that cannot be read: what is wrong with which value, and what is right."""
    # absl and ml_collections wrap what a config file raises into errors of their own, its traceback in their text.
    inner = _innermost(error)
    if isinstance(inner, DebiasError):
        return str(inner)
    if isinstance(error, flags.UnrecognizedFlagError):
        known = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
        name = error.flagname
        return f"unknown flag --{name}; {nearest(name, [flag.name for flag in known])}"
    text = str(error)
    if "Traceback" in text:
        place = traceback.extract_tb(inner.__traceback__)[-1]
        return f"{place.filename}, line {place.lineno}: {type(inner).__name__}: {inner}"
    flag = re.match(r"flag --([\w.]+)=", text)
    if flag and flag[1] in flags.FLAGS:
        parser = flags.FLAGS[flag[1]].parser
        takes = "true or false" if isinstance(parser, flags.BooleanParser) else parser.syntactic_help
        text += f"; it takes {takes}" if takes else ""
    return text.removeprefix("flag ")


def _exit(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except (flags.Error, ValueError, TypeError) as error:
        _exit(_flag_error(error))


def main(function: Callable[[], None], *, required: tuple[str, ...] = ()) -> None:
    """Runs a launch script: parses flags, prints what the user can mend as one line, exits 2 on it.

    Args:
        function: the script's work; it reads its own flags.
        required: names of flags that must be given.
    """

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            _exit(f"unexpected argument {argv[1]!r}; every setting is a --flag=value")
        for name in required:
            if flags.FLAGS[name].value is None:
                _exit(f"--{name}=... is missing: {flags.FLAGS[name].help}")
        # absl logs at INFO, and every library with it; a run shows warnings only.
        logging.set_verbosity(logging.WARNING)
        try:
            function()
            sys.stdout.flush()
        except DebiasError as error:
            _exit(str(error))
        except BrokenPipeError:
            # The reader (a pager, head) has gone; a second write at interpreter exit would print a traceback.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)
        except OSError as error:
            _exit(str(error))
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)

    app.run(guarded, flags_parser=_parse)
