"""`grobust recipes`: everything in full, as tables and as JSON."""

import json

import pytest
from typer.testing import CliRunner

from grobust.finetune.recipes import all_recipes, backbone_sizes
from grobust_cli.main import app


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["recipes", *arguments])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def test_tables_show_every_value_and_backbone() -> None:
    text = run()
    for recipe in all_recipes():
        for name in (*recipe.settings, *recipe.inputs, *recipe.facts):
            assert f" {name} " in text
    for size in backbone_sizes():
        assert size.name in text
        assert f"{size.parameters:,}" in text
        assert all(spec in text for spec in size.specs)
    assert "1e-05 (code)" in text
    assert "mixture 2:1 (paper)" in text


def test_json_of_one_data_set() -> None:
    content = json.loads(run("civilcomments", "--json"))
    assert [recipe["name"] for recipe in content["recipes"]] == ["civilcomments/bert", "civilcomments/other"]
    bert = content["recipes"][0]
    assert bert["settings"]["epochs"] == {"value": 20, "source": "code"}
    assert bert["settings"]["betas"] == {"value": [0.9, 0.999], "source": "code"}
    assert bert["inputs"]["max_tokens"] == {"value": 220, "source": "code"}
    assert {size["family"] for size in content["backbones"]} == {"bert"}


def test_one_backbone() -> None:
    content = json.loads(run("waterbirds", "--backbone", "convnextv2-nano", "--json"))
    (recipe,), (size,) = content["recipes"], content["backbones"]
    assert recipe["backbone"] == "transformers:facebook/convnextv2-nano-1k-224"
    assert recipe["parameters"] == size["parameters"] == 14_984_082


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("waterbird",), "Did you mean 'waterbirds'?"),
        (("waterbirds", "--backbone", "convnextv2-nan"), "Did you mean 'convnextv2-nano'?"),
        (("--backbone", "resnet-18"), "--backbone needs a data set"),
    ],
)
def test_what_cannot_be_mended_is_said(arguments: tuple[str, ...], message: str) -> None:
    assert message in run(*arguments, code=2)
