"""Files of heads: they come back exactly, and anything else is an error that says what."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import make_plan
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from grobust.errors import ConfigError, DataError, ShapeError
from grobust.heads import KEY, HeadInfo, Heads, load_heads, save_heads
from grobust.probe import Probe

INFOS = (
    HeadInfo("none/1", method="none", by="class", seed=1, l2=1e-3, status="converged", objective=0.25),
    HeadInfo("mixture/2", method="mixture", by="class", ratio=2.0, seed=2, l2=1e-2, l1=0.0, objective=float("nan")),
)


def some_heads(dtype: str = "float64") -> Heads:
    rng = np.random.default_rng(0)
    probes = [Probe(rng.standard_normal((3, 5)), rng.standard_normal(3)) for _ in INFOS]
    return Heads.of_probes(
        probes, INFOS, class_names=("a", "b", "ç"), attribute_names=("p", "q"), provenance=make_plan().provenance,
        dtype=dtype,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_heads_come_back_exactly(tmp_path: Path, dtype: str) -> None:
    heads = some_heads(dtype)
    back = load_heads(save_heads(heads, tmp_path / "sub" / "h.safetensors"))
    for name in ("weight", "bias"):
        assert getattr(back, name).dtype == dtype
        np.testing.assert_array_equal(getattr(back, name), getattr(heads, name))
    assert back.infos[0] == INFOS[0]
    assert back.infos[1].objective is None
    assert (back.class_names, back.attribute_names) == (("a", "b", "ç"), ("p", "q"))
    assert back.provenance == heads.provenance
    assert back.version == heads.version
    x = np.random.default_rng(1).standard_normal((4, 5))
    np.testing.assert_allclose(back.probe(1).logits(x), x @ heads.weight[1].T + heads.bias[1], rtol=1e-6)


def test_the_file_is_what_it_says(tmp_path: Path) -> None:
    """Read with safetensors alone; no temporary file is left, and the same heads give the same bytes."""
    path = save_heads(some_heads(), tmp_path / "h.safetensors")
    with safe_open(path, framework="numpy") as file:
        about = json.loads(file.metadata()[KEY])
    assert about["format_version"] == 1
    assert [h["name"] for h in about["heads"]] == ["none/1", "mixture/2"]
    assert about["provenance"]["weights_digest"] == "abc"
    assert load_file(path)["weight"].shape == (2, 3, 5)
    assert [p.name for p in tmp_path.iterdir()] == ["h.safetensors"]
    content = path.read_bytes()
    assert save_heads(some_heads(), path).read_bytes() == content


def test_every_damaged_byte_is_an_error(tmp_path: Path) -> None:
    path = save_heads(some_heads(), tmp_path / "h.safetensors")
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DataError):
            load_heads(path)
    path.write_bytes(content[:-3])
    with pytest.raises(DataError, match="cut short"):
        load_heads(path)


def test_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "h.safetensors"
    with pytest.raises(DataError, match="is not a file"):
        load_heads(path)
    path.write_text("hello")
    with pytest.raises(DataError, match="no safetensors file"):
        load_heads(path)
    save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(DataError, match="not one of heads"):
        load_heads(path)
    save_file({"weight": np.zeros(3)}, path, metadata={KEY: json.dumps({"format_version": 7})})
    with pytest.raises(DataError, match="format version 7"):
        load_heads(path)
    save_file({"weight": np.zeros(3)}, path, metadata={KEY: json.dumps({"format_version": 1})})
    with pytest.raises(DataError, match="bias are missing"):
        load_heads(path)
    save_file({"weight": np.zeros(3), "bias": np.zeros(3)}, path, metadata={KEY: "no json"})
    with pytest.raises(DataError, match="not JSON"):
        load_heads(path)


def test_heads_are_found_by_name_or_number() -> None:
    heads = some_heads()
    assert (heads.index("mixture/2"), heads.index("0")) == (1, 0)
    for bad in ("2", "-1", "mixture"):
        with pytest.raises(ConfigError, match="none/1"):
            heads.index(bad)


def test_features_of_another_kind_are_told_apart() -> None:
    heads = some_heads()
    same = make_plan(dataset="other", dataset_digest="d9", dtype="float16", precision="bfloat16").provenance
    assert heads.difference(same, 5) == {}
    assert heads.difference(same, 6) == {"dim": ("5", "6")}
    other = make_plan(backbone="timm:y@random", weights_digest="xyz", pooling="gap").provenance
    assert heads.difference(other, 5) == {
        "backbone": ("timm:x@random", "timm:y@random"), "weights_digest": ("abc", "xyz"), "pooling": ("model", "gap"),
    }  # fmt: skip
    assert heads.difference(make_plan(options={"max_tokens": "8"}).provenance, 5) == {
        "options.max_tokens": ("(not set)", "8")
    }
    assert heads.difference(make_plan(options={"batch_size": "8"}).provenance, 5) == {}


def test_heads_that_do_not_fit_are_refused() -> None:
    probe = Probe(np.zeros((2, 4)), np.zeros(2))
    with pytest.raises(ConfigError, match="at least one head"):
        Heads.of_probes([], [], class_names=("a", "b"))
    with pytest.raises(ShapeError, match="equal shapes"):
        Heads.of_probes([probe, Probe(np.zeros((2, 5)), np.zeros(2))], INFOS, class_names=("a", "b"))
    with pytest.raises(ShapeError, match="do not fit"):
        Heads.of_probes([probe], INFOS[:1], class_names=("a", "b", "c"))
    with pytest.raises(ConfigError, match="distinct"):
        Heads.of_probes([probe, probe], [INFOS[0], INFOS[0]], class_names=("a", "b"))
