"""Views of several crops: torchvision's FiveCrop on the resized image, in every library; one decoding of an image."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification
from transformers import (
    CLIPImageProcessor,
    ConvNextImageProcessor,
    ConvNextV2Config,
    ConvNextV2Model,
    ViTImageProcessor,
)
from typer.testing import CliRunner

from grobust.data.dataset import GroupedDataset
from grobust.data.digits import load_digits
from grobust.data.tables import take_rows
from grobust.errors import BackboneError
from grobust.features.extract import ExtractSettings, extract_features, extract_together
from grobust.features.store import FeatureStore
from grobust.models.backbone import Backbone, Pool
from grobust.models.backbones import load_backbones
from grobust.models.collate import ImageCollate, ProcessorCollate
from grobust.models.crops import CENTRE, CORNERS, with_corners
from grobust.models.outputs import encode_together, output_name
from grobust.models.views import View
from grobust_cli.main import app

pytestmark = pytest.mark.usefixtures("one_torch_thread")

RNG = np.random.default_rng(2)
# Wide and high, with margins that are even and odd.
IMAGES = [Image.fromarray(RNG.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((90, 141), (160, 96))]
NAMES = (*CORNERS, CENTRE)
MEAN, SD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))


def five(image: Image.Image, resize: Any, size: int) -> np.ndarray:
    """(5, 3, size, size) in 0 … 1, by torchvision."""
    crops = transforms.FiveCrop(size)(resize(image))
    return np.stack([np.asarray(crop, dtype=np.float64).transpose(2, 0, 1) / 255 for crop in crops])


def normalized(crops: np.ndarray, mean: Any, sd: Any) -> np.ndarray:
    return (crops - np.array(mean)[:, None, None]) / np.array(sd)[:, None, None]


def cases() -> dict[str, tuple[str, int, Any, Any, Any]]:
    """Spec, input size, resizing before the crop, mean and deviation; written down, not read off the libraries."""
    modes = transforms.InterpolationMode
    clip = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    half = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return {
        "timm": ("timm:test_resnet@random", 64, transforms.Resize(67), *half),
        "torchvision": ("torchvision:resnet18@random", 64, transforms.Resize(73), MEAN, SD),
        # No margin but along the longer side.
        "open_clip": ("open_clip:RN50@random", 64, transforms.Resize(64, modes.BICUBIC), *clip),
    }


@pytest.mark.parametrize("library", ["timm", "torchvision", "open_clip"])
def test_crops_and_their_mean_are_those_of_torchvision(library: str) -> None:
    spec, size, resize, mean, sd = cases()[library]
    plain, averaged = load_backbones(spec, views=[View.PLAIN, View.FIVE_CROP], image_size=size)
    batch = averaged.collate(IMAGES)
    expected = [normalized(five(image, resize, size), mean, sd) for image in IMAGES]
    for number, name in enumerate(NAMES):
        found = np.stack([crops[number] for crops in expected])
        np.testing.assert_allclose(batch[name].numpy(), found, atol=2e-6)
        assert batch[name].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch[CENTRE], plain.collate(IMAGES)[CENTRE])
    each = np.stack([plain.encode({"pixels": batch[name]}).double().numpy() for name in NAMES])
    np.testing.assert_allclose(averaged.encode(batch).numpy(), each.mean(0), rtol=1e-5, atol=1e-6)
    assert not np.array_equal(each[0], each[4])


@pytest.mark.parametrize("processor", ["convnext", "clip"])
def test_transformers_processors(processor: str, tmp_path: Path) -> None:
    """One crops within its resizing, the other by its switch."""
    config = ConvNextV2Config(hidden_sizes=[8, 8, 16, 24], depths=[1, 1, 1, 1])
    ConvNextV2Model(config).save_pretrained(tmp_path)
    made = {
        "convnext": ConvNextImageProcessor(size={"shortest_edge": 64}),
        "clip": CLIPImageProcessor(size={"shortest_edge": 73}, crop_size={"height": 64, "width": 64}),
    }[processor]
    made.save_pretrained(tmp_path)
    plain, averaged = load_backbones(f"transformers:{tmp_path}", views=[View.PLAIN, View.FIVE_CROP])
    batch = averaged.collate(IMAGES)
    assert torch.equal(batch[CENTRE], plain.collate(IMAGES)[CENTRE])
    for row, image in enumerate(IMAGES):
        tensor = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
        short, long = sorted(image.size)
        size = [int(73 * long / short) if side == long else 73 for side in (image.height, image.width)]
        crops = v2.FiveCrop(64)(v2.functional.resize(tensor, size, v2.InterpolationMode.BICUBIC, antialias=True))
        expected = normalized(np.stack([c.numpy() / 255 for c in crops]), made.image_mean, made.image_std)
        found = np.stack([batch[name][row].numpy() for name in NAMES])
        np.testing.assert_allclose(found, expected, atol=1e-5)
    each = np.stack([plain.encode({"pixels": batch[name]}).double().numpy() for name in NAMES])
    np.testing.assert_allclose(averaged.encode(batch).numpy(), each.mean(0), rtol=1e-4, atol=1e-6)
    # It goes to loader processes.
    again = pickle.loads(pickle.dumps(averaged.collate))(IMAGES)
    assert all(torch.equal(again[name], batch[name]) for name in NAMES)


@settings(deadline=None)
@given(width=st.integers(20, 200), height=st.integers(20, 200), grey=st.booleans())
def test_crops_of_any_image_are_the_librarys_bit_for_bit(width: int, height: int, grey: bool) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    image = image.convert("L") if grey else image
    preset = ImageClassification(crop_size=40, resize_size=48)
    batch = with_corners("x", ImageCollate(preset))([image])
    resized = transforms.Resize(48)(image.convert("RGB"))
    ending = transforms.Compose([transforms.ToTensor(), transforms.Normalize(preset.mean, preset.std)])
    for name, crop in zip(NAMES, transforms.FiveCrop(40)(resized), strict=True):
        assert torch.equal(batch[name][0], ending(crop))
    assert torch.equal(batch[CENTRE][0], preset(image.convert("RGB")))


def test_ten_crops_are_those_of_torchvision() -> None:
    plain, averaged = load_backbones("torchvision:resnet18@random", views=[View.PLAIN, View.TEN_CROP], image_size=56)
    # Even margins: the centre of the mirror image is the mirror image of the centre.
    images = [image.resize(size) for image, size in zip(IMAGES, ((74, 146), (200, 100)), strict=True)]
    crops = [
        torch.stack([transforms.functional.normalize(transforms.functional.to_tensor(c), MEAN, SD) for c in ten])
        for ten in (transforms.TenCrop(56)(transforms.Resize(64)(image)) for image in images)
    ]
    expected = torch.stack([plain.encode({"pixels": ten.float()}).double().mean(0) for ten in crops])
    found = averaged.encode(averaged.collate(images))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


class Counting:
    """Says how often an image was decoded."""

    def __init__(self, data: GroupedDataset) -> None:
        self.data, self.reads = data, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        self.reads.append(index)
        return self.data[index]


def test_views_of_one_pass_are_those_of_each_and_images_are_decoded_once(tmp_path: Path) -> None:
    digits = take_rows(load_digits(), range(10))
    data = Counting(digits)
    spec, layer, how = "timm:test_vit@random", "blocks.1", ExtractSettings(batch_size=4)
    several = [*load_backbones(spec, views=list(View))]
    inner = load_backbones(spec, views=[View.TEN_CROP], layers=[layer], pools=[Pool.CLS])
    one = several[0]
    several += [_of_network(inner[0], one)]
    names = [output_name(backbone) for backbone in several]
    assert names == ["model", "model.mirror", "model.five-crop", "model.ten-crop", "blocks.1.cls.ten-crop"]
    paths = [tmp_path / f"{name}.h5" for name in names]
    extract_together(data, several, paths, settings=how)
    assert sorted(data.reads) == list(range(10))
    for backbone, path in zip((*load_backbones(spec, views=list(View)), *inner), paths, strict=True):
        extract_features(data, backbone, tmp_path / "alone.h5", settings=how)
        assert (tmp_path / "alone.h5").read_bytes() == path.read_bytes()
        (tmp_path / "alone.h5").unlink()
    options = FeatureStore(paths[3]).provenance.options
    assert options["view"] == "ten-crop"
    assert options["crops"].startswith("mean of the features of the four corners and the centre of the resized image")
    assert "crops" not in FeatureStore(paths[1]).provenance.options
    stores = [FeatureStore(path).read() for path in paths[:4]]
    assert not any(np.allclose(stores[0], other, rtol=1e-3) for other in stores[1:])


def _of_network(backbone: Backbone, other: Backbone) -> Backbone:
    """The same output of a network that is loaded already."""
    return type(backbone)(**(vars(backbone) | {"network": other.network}))


def test_a_mean_over_crops_of_an_inner_layer_is_that_of_its_crops() -> None:
    spec = "torchvision:resnet18@random"
    plain, averaged = load_backbones(spec, views=[View.PLAIN, View.FIVE_CROP], layers=["layer2"], image_size=32)
    batch = averaged.collate(IMAGES)
    a, b = encode_together([plain, averaged], batch)
    each = torch.stack([plain.encode({"pixels": batch[name]}).double() for name in NAMES])
    torch.testing.assert_close(b.double(), each.mean(0), rtol=1e-5, atol=1e-6)
    assert torch.equal(a, plain.encode(plain.collate(IMAGES)))
    bodies = averaged.forward.body(averaged.network, batch)
    assert torch.equal(averaged.forward.pooled(averaged.network, batch, bodies), averaged.encode(batch))


def test_what_has_no_crops_is_said(tmp_path: Path) -> None:
    bordered = timm.data.create_transform((3, 48, 48), is_training=False, crop_mode="border")
    squashed = timm.data.create_transform((3, 48, 48), is_training=False, crop_mode="squash", crop_pct=1.0)
    small = transforms.Compose(
        [transforms.Resize(32), transforms.CenterCrop(48), transforms.ToTensor(), transforms.Normalize(MEAN, SD)]
    )
    other = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor(), transforms.Normalize(MEAN, SD)])
    for collate in (*map(ImageCollate, (bordered, squashed, small, other)), ProcessorCollate(ViTImageProcessor())):
        with pytest.raises(BackboneError, match="x has no corners to cut"):
            with_corners("x", collate)
    with pytest.raises(BackboneError, match="takes texts, which have no crops"):
        load_backbones("packaged:all-MiniLM-L6-v2", views=[View.FIVE_CROP])
    command = ["extract", "--dataset", "tweets", "--backbone", "packaged:all-MiniLM-L6-v2", "--view", "ten-crop"]
    result = CliRunner().invoke(app, [*command, "--limit", "50", "--out", str(tmp_path / "f.h5")])
    assert result.exit_code == 2
    assert "which have no crops" in result.output
    assert not list(tmp_path.iterdir())
