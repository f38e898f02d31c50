"""Public names: all there, all documented, none left out."""

import inspect

import pytest

import grobust


@pytest.mark.parametrize("name", grobust.__all__)
def test_public_names_exist_and_are_documented(name: str) -> None:
    value = getattr(grobust, name)
    assert name == "__version__" or inspect.getdoc(value)


def test_nothing_else_is_public() -> None:
    assert sorted(grobust.__all__) == sorted({*grobust._HOME, "__version__"})
    assert set(grobust.__all__) <= set(dir(grobust))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        grobust.nonsense  # noqa: B018


def test_public_signatures_are_typed() -> None:
    for name in grobust.__all__:
        value = getattr(grobust, name)
        if inspect.isfunction(value):
            hints = inspect.signature(value)
            assert hints.return_annotation is not inspect.Signature.empty, name
            assert all(p.annotation is not inspect.Parameter.empty for p in hints.parameters.values()), name
