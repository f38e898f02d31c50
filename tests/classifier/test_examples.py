"""The examples of the docstrings run, and give what they say."""

import doctest
from importlib import import_module

import pytest

MODULES = ("_estimator", "_search", "_scoring")


@pytest.mark.parametrize("module", MODULES)
def test_examples(module: str) -> None:
    result = doctest.testmod(import_module(f"grobust.classifier.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
