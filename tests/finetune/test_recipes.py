"""Recipes: the specification's table, the architectures' parameter counts, every value replaceable."""

import subprocess
import sys

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models import get_model
from transformers import BertConfig, BertForSequenceClassification, SwinConfig, SwinForImageClassification

from grobust.errors import ConfigError
from grobust.finetune.recipes import Source, all_recipes, backbone_sizes, recipe_for
from grobust.finetune.schedules import Unit
from grobust.finetune.settings import Decay, FinetuneOptimizer, FinetuneSettings
from grobust.settings import Precision, Schedule

SWIN = {"tiny": ((2, 2, 6, 2), (3, 6, 12, 24), 96), "small": ((2, 2, 18, 2), (3, 6, 12, 24), 96),
        "base": ((2, 2, 18, 2), (4, 8, 16, 32), 128)}  # fmt: skip
BERT = {"tiny": (2, 128, 2), "mini": (4, 256, 4), "small": (4, 512, 8), "medium": (8, 512, 8), "base": (12, 768, 12)}


@pytest.mark.parametrize(
    ("dataset", "backbone", "epochs", "every", "schedule", "decay", "dropout"),
    [
        ("waterbirds", "convnextv2-base", 100, 10, Schedule.COSINE, Decay.ALL, 0.0),
        ("celeba", "convnextv2-nano", 20, 2, Schedule.COSINE, Decay.ALL, 0.0),
        ("civilcomments", "bert-base", 20, 2, Schedule.LINEAR, Decay.MATRICES, 0.1),
        ("civilcomments-wilds", "bert-small", 20, 2, Schedule.LINEAR, Decay.MATRICES, 0.1),
        ("multinli", "bert-base", 20, 2, Schedule.LINEAR, Decay.MATRICES, 0.1),
    ],
)
def test_the_papers_recipes(
    dataset: str, backbone: str, epochs: int, every: int, schedule: Schedule, decay: Decay, dropout: float
) -> None:
    """LaBonte et al. 2024 and its code: what is the same everywhere, and what is not."""
    recipe = recipe_for(dataset, backbone)
    settings = recipe.finetune_settings()
    assert (settings.epochs, settings.eval_every, settings.schedule) == (epochs, every, schedule)
    assert (settings.decay, settings.head_dropout, settings.augment) == (decay, dropout, recipe.kind == "image")
    assert settings.optimizer is FinetuneOptimizer.ADAMW
    assert (settings.lr, settings.weight_decay, settings.batch_size) == (1e-5, 1e-4, 32)
    assert (settings.betas, settings.epsilon) == ((0.9, 0.999), 1e-8)
    assert (settings.warmup, settings.label_smoothing, settings.clip_norm) == (0, 0.0, None)
    assert settings.schedule_by is Unit.EPOCH
    assert settings.precision is Precision.FLOAT32
    assert recipe.settings["lr"].source is Source.CODE
    tokens = {"civilcomments": 220, "multinli": 128}.get(recipe.dataset)
    assert recipe.load_arguments() == ({} if tokens is None else {"max_tokens": tokens})


def test_what_the_paper_reports() -> None:
    assert recipe_for("waterbirds", "convnextv2-base").settings["ratio"].value == 2
    civilcomments = recipe_for("civilcomments", "bert-base")
    assert (civilcomments.settings["ratio"].value, civilcomments.settings["ratio"].source) == (3, Source.PAPER)
    assert civilcomments.facts["best_balance"].value == "mixture 3:1"
    assert recipe_for("multinli", "bert-base").facts["train_loss"].value == 1e-2


@pytest.mark.parametrize("size", backbone_sizes(), ids=lambda size: size.name)
def test_parameters_are_those_of_the_architecture(size) -> None:
    with torch.device("meta"):
        match size.family:
            case "convnextv2":
                network = timm.create_model(f"convnextv2_{size.size}", num_classes=2)
            case "resnet":
                network = get_model(f"resnet{size.size}", num_classes=2)
            case "swin":
                depths, heads, width = SWIN[size.size]
                config = SwinConfig(depths=list(depths), num_heads=list(heads), embed_dim=width, num_labels=2)
                network = SwinForImageClassification(config)
            case _:
                layers, width, heads = BERT[size.size]
                network = BertForSequenceClassification(BertConfig(
                    num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads,
                    intermediate_size=4 * width, num_labels=2,
                ))  # fmt: skip
    assert sum(p.numel() for p in network.parameters()) == size.parameters


@pytest.mark.parametrize(
    ("spec", "family", "parameters"),
    [
        ("transformers:facebook/convnextv2-nano-1k-224", "convnextv2", 14_984_082),
        ("timm:convnextv2_nano@random", "convnextv2", 14_984_082),
        ("timm:convnextv2_base.fcmae_ft_in22k_in1k", "convnextv2", 87_694_850),
        ("torchvision:resnet50@IMAGENET1K_V2", "resnet", 23_512_130),
        ("transformers:microsoft/resnet-18", "resnet", 11_177_538),
        ("timm:resnet18.a1_in1k", "resnet", 11_177_538),
        ("torchvision:swin_t", "swin", 27_520_892),
        ("timm:swin_small_patch4_window7_224", "swin", 48_838_796),
        ("torchvision:wide_resnet50_2", "other", None),
        ("torchvision:swin_v2_t", "other", None),
        ("timm:swinv2_tiny_window8_256", "other", None),
        ("timm:resnet50d", "other", None),
        ("timm:seresnet50", "other", None),
        ("timm:convnextv2_large", "other", None),
        ("packaged:efficientnet_lite0", "other", None),
        ("run:runs/waterbirds-resnet18-none-seed1@20", "other", None),
    ],
)
def test_families_are_known_by_their_specs(spec: str, family: str, parameters: int | None) -> None:
    recipe = recipe_for("waterbirds", spec)
    assert (recipe.family, recipe.parameters, recipe.backbone) == (family, parameters, spec)


def test_what_is_not_published_is_ours() -> None:
    for backbone in ("resnet-50", "swin-base", "timm:vit_tiny_patch16_224"):
        recipe = recipe_for("celeba", backbone)
        assert {value.source for value in recipe.settings.values()} == {Source.OURS}
        assert recipe.facts == {}
        assert recipe.finetune_settings().epochs == 20
    assert recipe_for("celeba", "timm:vit_tiny_patch16_224").finetune_settings().head_dropout is None


def test_the_embedded_data_sets_and_those_of_users() -> None:
    digits = recipe_for("digits:celeba:parity", "timm:resnet10t@random")
    assert digits.load_arguments() == {"image_size": 64}
    assert not digits.finetune_settings().augment
    assert recipe_for("digits", "convnextv2-atto").load_arguments() == {}
    tweets = recipe_for("tweets", "packaged:all-MiniLM-L6-v2")
    assert (tweets.finetune_settings().epochs, tweets.load_arguments()) == (3, {"max_tokens": 64})
    own = recipe_for("metadata_csv", "bert-tiny", kind="text")
    assert (own.dataset, own.backbone) == ("texts", "transformers:google/bert_uncased_L-2_H-128_A-2")
    assert {value.source for value in own.settings.values()} == {Source.OURS}


@given(st.floats(1e-7, 1), st.integers(1, 500), st.sampled_from(list(Schedule)), st.integers(16, 512))
def test_every_value_can_be_replaced(lr: float, epochs: int, schedule: Schedule, tokens: int) -> None:
    recipe = recipe_for("multinli", "bert-mini")
    given_values = {"lr": lr, "epochs": epochs, "schedule": str(schedule), "max_tokens": tokens, "clip_norm": None}
    changed = recipe.with_values(given_values)
    settings = changed.finetune_settings()
    assert (settings.lr, settings.epochs, settings.schedule, settings.clip_norm) == (lr, epochs, schedule, None)
    assert changed.load_arguments() == {"max_tokens": tokens}
    assert {name for name, value in {**changed.settings, **changed.inputs}.items() if value.source is Source.GIVEN} == (
        set(given_values)
    )
    # The rest stays, and so does the recipe itself.
    assert settings.weight_decay == recipe.finetune_settings().weight_decay
    assert recipe.finetune_settings().epochs == 20


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rat": 1}, "no setting of finetuning"),
        ({"warmups": 1}, "Did you mean 'warmup'"),
        ({"schedule": "exponential"}, "schedule must be one of constant, linear, cosine, step; got 'exponential'"),
        ({"epochs": 1.5}, "epochs must be int, got 1.5"),
        ({"epochs": True}, "epochs must be int, got True"),
        ({"lr": "fast"}, "lr must be float, got 'fast'"),
        ({"betas": [0.9]}, "betas must be"),
    ],
)
def test_values_that_do_not_fit(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe_for("celeba", "resnet-18").with_values(values)


def test_values_out_of_range_are_the_settings_errors() -> None:
    with pytest.raises(ConfigError, match="lr must be a positive number"):
        recipe_for("celeba", "resnet-18").with_values({"lr": -1}).finetune_settings()


@pytest.mark.parametrize(
    ("dataset", "backbone", "message"),
    [
        ("celebb", "resnet-18", "Did you mean 'celeba'"),
        ("celeba", "resnet-19", "Did you mean 'resnet-1"),
        ("celeba", "bert-base", "bert-base takes texts, but celeba holds images"),
        ("multinli", "torchvision:resnet18", "takes images, but multinli holds texts"),
    ],
)
def test_what_has_no_recipe(dataset: str, backbone: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe_for(dataset, backbone)
    with pytest.raises(ConfigError, match="kind must be image or text"):
        recipe_for("mine", "resnet-18", kind="sound")


def test_all_recipes_make_settings() -> None:
    recipes = all_recipes()
    assert {recipe.name for recipe in recipes} >= {"waterbirds/convnextv2", "multinli/bert", "digits/other"}
    assert len(recipes) == 3 * 4 + 3 * 2
    for recipe in recipes:
        assert isinstance(recipe.finetune_settings(), FinetuneSettings)
        assert all(value["source"] in {"paper", "code", "ours"} for value in recipe.as_dict()["settings"].values())
    assert {recipe.dataset for recipe in all_recipes("digits:celeba")} == {"digits"}


def test_recipes_load_no_torch() -> None:
    code = "import sys, grobust.finetune.recipes as r; r.all_recipes(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
