"""Training transforms: torchvision's crops in distribution and pixel for pixel, the backbone's own mean and sd."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import text_backbone
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import Compose, Normalize, RandomResizedCrop, ToTensor
from transformers import ConvNextImageProcessor, ConvNextV2Config, ConvNextV2Model, ViTImageProcessor

from grobust.errors import BackboneError
from grobust.models import augment
from grobust.models.augment import Crop, ImageAugment, draw_crop, training_collate
from grobust.models.backbone import Backbone, ImageInput
from grobust.models.backbones import load_backbone

IMAGENET = ImageInput((48, 40), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def photo(height: int = 90, width: int = 70) -> Image.Image:
    rng = np.random.default_rng(1)
    small = rng.integers(0, 256, size=(height // 10 + 1, width // 10 + 1, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def transformers_folder(path: Path, processor: object) -> str:
    ConvNextV2Model(ConvNextV2Config(hidden_sizes=[8, 8, 16, 24], depths=[1, 1, 1, 1])).save_pretrained(path)
    processor.save_pretrained(path)
    return f"transformers:{path}"


@pytest.fixture(scope="module", params=["timm", "torchvision", "open_clip", "convnext", "vit", "packaged"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A backbone for images of each source, with inputs of 64 pixels or so."""
    match request.param:
        case "convnext":
            processor = ConvNextImageProcessor(
                size={"shortest_edge": 64}, crop_pct=1.0, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3]
            )
            return load_backbone(transformers_folder(tmp_path_factory.mktemp("cnx"), processor))
        case "vit":
            # Values 0 … 255 that are shifted and scaled without being divided by 255 first.
            processor = ViTImageProcessor(
                size={"height": 64, "width": 64}, do_rescale=False, image_mean=[100.0] * 3, image_std=[50.0] * 3
            )
            return load_backbone(transformers_folder(tmp_path_factory.mktemp("vit"), processor))
        case other:
            spec = {"timm": "timm:resnet18@random", "torchvision": "torchvision:resnet18@random",
                    "open_clip": "open_clip:RN50@random", "packaged": "packaged:efficientnet_lite0"}[other]  # fmt: skip
            return load_backbone(spec, image_size=64)


def test_a_plain_colour_comes_out_as_in_evaluation(backbone: Backbone) -> None:
    """Whatever the crop: so size, mean and sd are the evaluation transform's, for every source."""
    grey_and_colours = [Image.new("RGB", (80, 80), (10, 120, 240)), Image.new("L", (75, 80), 77)]
    expected = backbone.collate(grey_and_colours)["pixels"]
    found = training_collate(backbone, seed=3)(grey_and_colours, [(0, 0), (0, 1)])["pixels"]
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_pixels_equal_torchvisions_for_the_same_crop(monkeypatch: pytest.MonkeyPatch) -> None:
    image, crop = photo(), Crop(7, 4, 60, 55)
    monkeypatch.setattr(augment, "draw_crop", lambda rng, height, width: crop)
    monkeypatch.setattr(RandomResizedCrop, "get_params", staticmethod(lambda img, scale, ratio: tuple(crop)))
    peer = Compose([RandomResizedCrop(IMAGENET.size), ToTensor(), Normalize(IMAGENET.mean, IMAGENET.sd)])
    straight, flipped = peer(image), torch.flip(peer(image), dims=(2,))
    augmented = ImageAugment(IMAGENET, seed=0)([image] * 40, [(0, i) for i in range(40)])["pixels"]
    is_flipped = [torch.allclose(one, flipped, atol=1e-6) for one in augmented]
    for one, mirrored in zip(augmented, is_flipped, strict=True):
        torch.testing.assert_close(one, flipped if mirrored else straight, rtol=0, atol=1e-6)
    assert 8 < sum(is_flipped) < 32


@pytest.mark.parametrize(("height", "width"), [(90, 70), (64, 64), (200, 40), (30, 100)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    """Kolmogorov-Smirnov of every number, 3000 crops each; the wide and the tall image fall back to the centre."""
    torch.manual_seed(0)
    blank = Image.new("RGB", (width, height))
    peer = np.array([RandomResizedCrop.get_params(blank, [0.7, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)])
    ours = np.array([draw_crop(np.random.default_rng([5, i]), height, width) for i in range(3000)])
    for column in range(4):
        assert ks_2samp(ours[:, column], peer[:, column]).pvalue > 1e-3


@given(st.integers(1, 120), st.integers(1, 120), st.integers(0, 50))
def test_crops_lie_in_the_image(height: int, width: int, seed: int) -> None:
    top, left, h, w = draw_crop(np.random.default_rng(seed), height, width)
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert min(h, w) >= 1


@given(st.permutations(range(6)), st.integers(1, 5), st.integers(0, 3))
def test_a_sample_is_augmented_by_its_own_draw_alone(order: list[int], cut: int, epoch: int) -> None:
    """Not by its neighbours, the order, or the global random state."""
    images = [photo(50 + i, 60) for i in range(6)]
    collate = ImageAugment(IMAGENET, seed=9)
    together = collate(images, [(epoch, i) for i in range(6)])["pixels"]
    torch.manual_seed(cut)
    np.random.seed(cut)  # noqa: NPY002 - the global state is what must not matter
    parts = [order[:cut], order[cut:]]
    for rows in parts:
        found = collate([images[i] for i in rows], [(epoch, i) for i in rows])["pixels"]
        assert found.equal(together[rows])


def test_draws_and_seeds_differ() -> None:
    image = photo()
    collate = ImageAugment(IMAGENET, seed=1)
    found = collate([image] * 4, [(0, 5), (1, 5), (0, 6), (0, 5)])["pixels"]
    assert found[0].equal(found[3])
    assert not found[0].equal(found[1])
    assert not found[0].equal(found[2])
    assert not replace(collate, seed=2)([image], [(0, 5)])["pixels"][0].equal(found[0])


def test_it_pickles_small_and_runs_beside_itself(backbone: Backbone) -> None:
    collate = training_collate(backbone, seed=4)
    content = pickle.dumps(collate)
    assert len(content) < 2000
    again = pickle.loads(content)
    batches = [([photo(80, 60 + i)], [(0, i)]) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda batch: again(*batch)["pixels"], batches))
    assert all(one.equal(collate(*batch)["pixels"]) for one, batch in zip(found, batches, strict=True))


def test_texts_are_as_in_evaluation() -> None:
    backbone = text_backbone()
    texts = ["a longer text", "b"]
    found = training_collate(backbone, seed=1)(texts, [(0, 0), (0, 1)])
    assert found["codes"].equal(backbone.collate(texts)["codes"])


def test_a_backbone_that_does_not_say_what_it_takes(backbone: Backbone) -> None:
    with pytest.raises(BackboneError, match="train without augmentation"):
        training_collate(replace(backbone, image=None), seed=1)
