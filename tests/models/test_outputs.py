"""Several poolings and layers of one pass: each the same as by itself, and as the library's own way to it."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers import text_backbone, toy_texts
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision import transforms
from torchvision.transforms._presets import ImageClassification

from grobust.data.digits import load_digits
from grobust.data.tables import take_rows
from grobust.errors import BackboneError, ConfigError
from grobust.features.extract import ExtractSettings, Progress, extract_features, extract_together
from grobust.features.store import FeatureStore
from grobust.models.backbone import Pool
from grobust.models.backbones import load_backbone, load_backbones
from grobust.models.collate import ImageCollate
from grobust.models.outputs import encode_together, output_name
from grobust.models.views import View

pytestmark = pytest.mark.usefixtures("one_torch_thread")

PHOTOS = [Image.fromarray(pixels).resize((180, 140)) for pixels in load_sample_images().images]
DIGITS = take_rows(load_digits(), range(60))


@pytest.mark.parametrize(
    ("spec", "size", "pools", "layers"),
    [
        ("timm:test_vit@random", None, [Pool.GAP, Pool.CLS, Pool.MODEL], []),
        ("timm:test_vit@random", None, [Pool.GAP, Pool.CLS], ["blocks.0", "blocks.2"]),
        ("timm:test_resnet@random", 64, [Pool.GAP, Pool.FLATTEN], []),
        ("torchvision:resnet18@random", 64, [Pool.MODEL, Pool.GAP, Pool.FLATTEN], []),
        ("torchvision:convnext_tiny@random", 64, [Pool.MODEL, Pool.GAP], []),
        ("open_clip:RN50@random", 64, [], ["layer1", "layer4"]),
    ],
)
def test_outputs_of_one_pass_are_those_of_each(
    spec: str, size: int | None, pools: list[Pool], layers: list[str], tmp_path: Path
) -> None:
    together = load_backbones(spec, pools=pools, layers=layers, image_size=size)
    names = [output_name(backbone) for backbone in together]
    assert len(set(names)) == len(names) == max(1, len(pools)) * max(1, len(layers))
    paths = [tmp_path / f"{name}.h5" for name in names]
    data = take_rows(DIGITS, range(6))
    extract_together(data, together, paths, settings=ExtractSettings(batch_size=4))
    for backbone, path in zip(together, paths, strict=True):
        alone = load_backbone(spec, pool=backbone.pooling, image_size=size, layer=backbone.options.get("layer"))
        assert alone.arguments == backbone.arguments or not layers
        extract_features(data, alone, tmp_path / "alone.h5", settings=ExtractSettings(batch_size=4))
        assert (tmp_path / "alone.h5").read_bytes() == path.read_bytes()
        (tmp_path / "alone.h5").unlink()


@pytest.mark.parametrize("spec", ["timm:test_vit@random", "torchvision:resnet18@random"])
def test_a_mirrored_view_is_that_of_the_mirror_image(spec: str, tmp_path: Path) -> None:
    layer = "blocks.1" if "vit" in spec else "layer2"
    size = None if "vit" in spec else 64
    views = [View.PLAIN, View.MIRROR]
    several = load_backbones(spec, views=views, image_size=size)
    several += load_backbones(spec, views=views, layers=[layer], image_size=size)
    assert [output_name(b) for b in several] == ["model", "model.mirror", f"{layer}.gap", f"{layer}.gap.mirror"]
    square = [photo.resize((64, 64)) for photo in PHOTOS]
    pixels = several[0].collate(square)["pixels"].numpy()
    flipped = torch.from_numpy(np.ascontiguousarray(pixels[..., ::-1]))
    for plain, mirror in (several[:2], several[2:]):
        a, b = encode_together([plain, mirror], plain.collate(square))
        torch.testing.assert_close(a, plain.encode(plain.collate(square)))
        torch.testing.assert_close(b, plain.encode({"pixels": flipped}), rtol=1e-3, atol=1e-4)
        assert not torch.allclose(a, b, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(mirror.encode(mirror.collate(square)), b)
    extract_features(take_rows(DIGITS, range(4)), several[1], tmp_path / "f.h5")
    assert FeatureStore(tmp_path / "f.h5").provenance.options["view"] == "mirror"


def test_texts_in_several_poolings(tmp_path: Path) -> None:
    layers = ["encoder.layer.1"]
    pools = [Pool.MEAN, Pool.CLS]
    texts = ["a photo of a bird", "on water"]
    together = load_backbones("packaged:all-MiniLM-L6-v2", pools=pools, layers=layers)
    network = together[0].network
    batch = together[0].collate(texts)
    with torch.inference_mode():
        hidden = network(**batch, output_hidden_states=True).hidden_states[2]
    mask = batch["attention_mask"].unsqueeze(-1)
    torch.testing.assert_close(together[0].encode(batch), (hidden * mask).sum(1) / mask.sum(1))
    torch.testing.assert_close(together[1].encode(batch), hidden[:, 0])
    with pytest.raises(BackboneError, match="pads its inputs in another way"):
        load_backbones("packaged:all-MiniLM-L6-v2", pools=[Pool.MEAN, Pool.FLATTEN])


def test_layers_equal_the_librarys_own_intermediates() -> None:
    vit = load_backbone("timm:test_vit@random", layer="blocks.1", pool=Pool.CLS)
    batch = vit.collate(PHOTOS)
    with torch.inference_mode():
        x = vit.network._pos_embed(vit.network.patch_embed(batch["pixels"]))
        x = vit.network.norm_pre(x)
        for block in vit.network.blocks[:2]:
            x = block(x)
    torch.testing.assert_close(vit.encode(batch), x[:, 0])
    resnet = load_backbone("torchvision:resnet18@random", layer="layer3", image_size=64)
    network, pixels = resnet.network, resnet.collate(PHOTOS)["pixels"]
    with torch.inference_mode():
        x = network.maxpool(network.relu(network.bn1(network.conv1(pixels))))
        expected = network.layer3(network.layer2(network.layer1(x))).mean(dim=(2, 3))
    assert resnet.dim == 256
    torch.testing.assert_close(resnet.encode({"pixels": pixels}), expected)


@pytest.mark.parametrize("layer", ["bn1", "layer4.1.bn2"])
def test_a_layer_before_work_in_place_is_its_own_output(layer: str) -> None:
    """A ReLU behind it that overwrites its input must not be what is stored."""
    backbone = load_backbone("torchvision:resnet18@random", pool=Pool.GAP, layer=layer, image_size=64)
    batch = backbone.collate([DIGITS[row] for row in range(2)])
    seen: list[torch.Tensor] = []
    hook = backbone.network.get_submodule(layer).register_forward_hook(lambda m, given, out: seen.append(out.clone()))
    found = backbone.encode(batch)
    hook.remove()
    torch.testing.assert_close(found, seen[-1].mean((2, 3)))


def test_a_killed_run_of_several_outputs_continues_each(tmp_path: Path) -> None:
    """One store finished, one interrupted, one not begun: the pass does what is left, and the bytes are the same."""
    settings = ExtractSettings(batch_size=4, part_rows=4)
    together = load_backbones("timm:test_vit@random", pools=[Pool.GAP, Pool.CLS, Pool.MODEL])
    whole = [tmp_path / f"whole.{output_name(b)}.h5" for b in together]
    extract_together(DIGITS, together, whole, settings=settings)
    paths = [tmp_path / f"f.{output_name(b)}.h5" for b in together]

    def stop(progress: Progress) -> None:
        if progress.done >= 24:
            raise KeyboardInterrupt

    extract_features(DIGITS, together[0], paths[0], settings=settings)
    with pytest.raises(KeyboardInterrupt):
        extract_together(DIGITS, together[:2], paths[:2], settings=settings, on_progress=stop)
    results = extract_together(DIGITS, together, paths, settings=settings)
    assert [result.reused for result in results] == [True, False, False]
    assert results[1].n_resumed >= 20
    assert [result.n_extracted + result.n_resumed for result in results[1:]] == [60, 60]
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in whole]


@pytest.mark.parametrize(
    ("spec", "pools", "layers", "text"),
    [
        ("timm:test_vit@random", [Pool.GAP, Pool.GAP], [], "asked for twice"),
        ("timm:test_resnet@random", [Pool.GAP, Pool.CLS], [], "no pooling 'cls'"),
        ("timm:test_vit@random", [], ["block.1"], "Names like it: "),
        ("timm:test_vit@random", [Pool.MODEL], ["blocks.1"], "of the last layer"),
        ("timm:test_resnet@random", [Pool.CLS], ["layer2"], "gap or flatten"),
        ("torchvision:resnet18@random", [], ["fc"], ""),
    ],
)
def test_outputs_that_are_not_there(spec: str, pools: list[Pool], layers: list[str], text: str) -> None:
    if text == "":
        # The removed classifier's place is part of the pass: it gives the vector that enters it.
        assert load_backbones(spec, layers=layers)[0].dim == 512
        return
    with pytest.raises(BackboneError, match=text):
        load_backbones(spec, pools=pools, layers=layers)


def test_outputs_of_different_networks_are_refused(tmp_path: Path) -> None:
    data = toy_texts()
    with pytest.raises(BackboneError, match="one network"):
        extract_together(data, [text_backbone(), text_backbone()], [tmp_path / "a.h5", tmp_path / "b.h5"])
    one = text_backbone()
    with pytest.raises(ConfigError, match="as many different stores"):
        extract_together(data, [one, one], [tmp_path / "a.h5", tmp_path / "a.h5"])


@pytest.mark.parametrize("make", ["timm", "torchvision", "compose", "other"])
def test_batches_of_images_are_the_librarys_bit_for_bit(make: str) -> None:
    other = transforms.Compose([transforms.Resize(32), transforms.CenterCrop(32), transforms.ToTensor()])
    transform = {
        "timm": timm.data.create_transform((3, 48, 48), is_training=False, crop_pct=0.9),
        "torchvision": ImageClassification(crop_size=40, resize_size=48),
        "compose": transforms.Compose([*other.transforms, transforms.Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.1])]),
        "other": other,
    }[make]
    grey = PHOTOS[0].convert("L")
    batch = ImageCollate(transform)([*PHOTOS, grey])["pixels"]
    expected = torch.stack([transform(image.convert("RGB")) for image in (*PHOTOS, grey)])
    assert batch.shape == expected.shape
    assert torch.equal(batch, expected)
    if make != "other":
        assert batch.is_contiguous(memory_format=torch.channels_last)


def test_the_store_says_which_layer(tmp_path: Path) -> None:
    backbone = load_backbone("timm:test_resnet@random", layer="layer2", image_size=64)
    extract_features(take_rows(DIGITS, range(5)), backbone, tmp_path / "f.h5")
    provenance = FeatureStore(tmp_path / "f.h5").provenance
    assert (provenance.options["layer"], provenance.pooling) == ("layer2", "gap")
    assert np.isfinite(FeatureStore(tmp_path / "f.h5").read()).all()
