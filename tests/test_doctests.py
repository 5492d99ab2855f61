"""The examples of all docstrings run and print what they say."""

import doctest
import importlib
import pathlib

import pytest

import debias_jax
from debias_jax.errors import MissingExtraError

ROOT = pathlib.Path(debias_jax.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    try:
        outcome = doctest.testmod(module, raise_on_error=True)
    except doctest.UnexpectedException as error:
        if isinstance(error.exc_info[1], MissingExtraError):
            pytest.skip(str(error.exc_info[1]))
        raise error.exc_info[1] from error
    except doctest.DocTestFailure as failure:
        example = failure.example
        pytest.fail(
            f"{failure.test.name}, example {example.source.strip()!r}: expected {example.want!r}, "
            f"got {failure.got!r}"
        )
    assert outcome.failed == 0
