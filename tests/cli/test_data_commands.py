"""Data sets from the command line: every layout through extract, probe and spectrum; verify, describe; bad input."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from grobust.data.civilcomments import IDENTITIES
from grobust.data.fixtures import (
    Fixture,
    write_arrow,
    write_celeba,
    write_civilcomments,
    write_image_folder,
    write_metadata_csv,
    write_multinli,
    write_waterbirds,
    write_webdataset,
)
from grobust.features.store import FeatureStore
from grobust.groups import Split
from grobust_cli.main import app

RUNNER = CliRunner()
IMAGES = ("--backbone", "timm:test_resnet@random", "--image-size", "32")
PACKAGED_IMAGES = ("--backbone", "packaged:efficientnet_lite0", "--image-size", "64")
TEXTS = ("--backbone", "packaged:all-MiniLM-L6-v2", "--max-tokens", "16")
HF = ("--column", "label=label", "--column", "attribute=attribute")
CASES: dict[str, tuple[str, Callable[..., Fixture], tuple[str, ...]]] = {
    "waterbirds": ("waterbirds", write_waterbirds, PACKAGED_IMAGES),
    "celeba": ("celeba", write_celeba, IMAGES),
    "celeba prepared": ("celeba", lambda f, **k: write_celeba(f, layout="prepared", **k), IMAGES),
    "civilcomments": ("civilcomments", write_civilcomments, TEXTS),
    "multinli": ("multinli", write_multinli, TEXTS),
    "metadata_csv": ("metadata_csv", write_metadata_csv, IMAGES),
    "image_folder": ("image_folder", write_image_folder, IMAGES),
    "webdataset": ("webdataset", write_webdataset, IMAGES),
    "huggingface": ("arrow", write_arrow, (*IMAGES, *HF)),
    "parquet": ("arrow", lambda f, **k: write_arrow(f, layout="parquet", **k), (*IMAGES, *HF)),
}
QUICK = ("--null", "40", "--interval", "0", "--permutations", "0", "--no-diagnostics")


def run(*arguments: str | Path, code: int = 0) -> str:
    """stdout of a command that must end with `code`, without a traceback; all output where it must fail."""
    result = RUNNER.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result.stdout if code == 0 else result.output


@pytest.mark.parametrize("case", CASES)
def test_extract_probe_spectrum(tmp_path: Path, case: str) -> None:
    name, write, more = CASES[case]
    written = write(tmp_path / "data", per_group=4)
    store, records = tmp_path / "f.h5", tmp_path / "r.jsonl"
    run("extract", "--dataset", name, "--data-dir", tmp_path / "data", "--out", store, *more)
    with FeatureStore(store) as opened:
        assert opened.groups.ids.tolist() == (written.labels * written.n_attributes + written.attributes).tolist()
        assert opened.split.tolist() == written.split.tolist()
        for split in Split:
            assert opened.groups.take(opened.rows(split)).counts.tolist() == written.counts(split)
    report = json.loads(run("probe", store, "--seeds", "1", "--balance", "mixture", "--records", records, "--json"))
    groups = report["runs"][0]["test"]["groups"]
    assert [group["n"] for group in groups] == written.counts(Split.TEST)
    report = json.loads(run("spectrum", store, *QUICK, "--records", records, "--json"))
    assert [group["n"] for group in report["groups"]] == written.counts(Split.TRAIN)
    # A group of few tiny images may have one and the same feature vector; not every group has.
    largest = [group["eigenvalues"][0] for group in report["groups"]]
    assert min(largest) >= 0
    assert max(largest) > 0


def test_overlapping_groups_are_reported(tmp_path: Path) -> None:
    write_civilcomments(tmp_path / "data", per_group=10)
    store, heads, records = tmp_path / "f.h5", tmp_path / "h.safetensors", tmp_path / "r.jsonl"
    run("extract", "--dataset", "civilcomments-wilds", "--data-dir", tmp_path / "data", "--out", store, *TEXTS)
    arguments = ("--seeds", "1", "--balance", "upweighting", "--records", records)
    report = json.loads(run("probe", store, *arguments, "--save", heads, "--json"))
    test = report["runs"][0]["test"]
    names = [f"{y} / {identity}" for y in ("non-toxic", "toxic") for identity in IDENTITIES]
    assert [group["name"] for group in test["groups"]] == names
    assert test["average_train_weighted"]["value"] is None
    # The same heads, row by row, and a loop over rows and identities.
    out = tmp_path / "p.csv"
    predicted = json.loads(run("predict", store, heads, "--out", out, "--json"))
    assert predicted["heads"][0]["metrics"]["groups"] == test["groups"]
    with out.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    for group in test["groups"]:
        label, identity = group["name"].split(" / ")
        members = [r for r in lines if r["label"] == label and identity in r["attribute"].split("+")]
        assert group["n"] == len(members)
        if members:
            hits = sum(r["prediction"] == label for r in members)
            assert group["value"] == pytest.approx(hits / len(members))
    text = run("probe", store, *arguments)
    assert "non-toxic / LGBTQ" in text
    assert "share" not in text
    assert "overlapping" in run("probe", store, "--trajectory", "--epochs", "1", code=2)
    run("spectrum", store, *QUICK, "--records", records)


def test_the_papers_held_out_half(tmp_path: Path) -> None:
    written = write_waterbirds(tmp_path / "data", per_group=6)
    store = tmp_path / "half.h5"
    common = ("--dataset", "waterbirds", "--data-dir", tmp_path / "data", *IMAGES)
    run("extract", *common, "--split", "half:3", "--out", store)
    val = np.flatnonzero(written.split == Split.VAL)
    shuffled = val.copy()
    np.random.default_rng(3).shuffle(shuffled)
    halves = {"train": shuffled[: val.size // 2], "val": shuffled[val.size // 2 :]}
    with FeatureStore(store) as opened:
        for name, expected in halves.items():
            found = {opened.sample_ids[row] for row in opened.rows(Split[name.upper()])}
            assert found == {written.items[row] for row in expected}
        assert opened.n == val.size + (written.split == Split.TEST).sum()
        assert opened.provenance.dataset == "waterbirds[half:3]"
    # Another half is another data set; the store is not taken for it.
    assert "dataset" in run("extract", *common, "--split", "half:4", "--out", store, code=2)
    assert "Expected half[:SEED]" in run("extract", *common, "--split", "third", "--out", store, code=2)


def test_tables_without_splits_get_some(tmp_path: Path) -> None:
    lines = [f"text {i // 2},{i % 2},{i // 2 % 2}" for i in range(200)]
    (tmp_path / "metadata.csv").write_text("\n".join(["text,y,a", *lines]))
    arguments = ("data", "describe", "metadata_csv", "--data-dir", tmp_path)
    assert "no column 'split'" in run(*arguments, code=2)
    content = json.loads(run(*arguments, "--split", "fraction:70/10/20", "--json"))
    assert {name: each["n"] for name, each in content["splits"].items()} == {"train": 140, "val": 20, "test": 40}
    assert [group["n"] for group in content["splits"]["val"]["groups"]] == [5, 5, 5, 5]
    verified = json.loads(run("data", "describe", "metadata_csv", "--data-dir", tmp_path, "--split",
                              "content:50/25/25:7", "--samples", "200", "--json"))  # fmt: skip
    assert sum(each["n"] for each in verified["splits"].values()) == 200
    assert verified["digest"] != content["digest"]


def test_verify_exits_with_1_on_a_mismatch(tmp_path: Path) -> None:
    write_waterbirds(tmp_path / "w")
    output = run("data", "verify", "waterbirds", "--data-dir", tmp_path / "w", code=1)
    for word in ("3,498", "6 ✗", "MISMATCH train, all rows: 30 here, 4,795 published", "manifest digest", "NOT as it"):
        assert word in output
    result = RUNNER.invoke(app, ["data", "verify", "waterbirds", "--data-dir", str(tmp_path / "w"), "--json"])
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    assert content["ok"] is False
    assert content["splits"]["train"][0] == {"group": "landbird / land", "n": 6, "published": 3498}
    write_image_folder(tmp_path / "i")
    output = run("data", "verify", "image_folder", "--data-dir", tmp_path / "i", "--json")
    assert json.loads(output)["ok"] is True


def test_describe_prints_everything(tmp_path: Path) -> None:
    write_celeba(tmp_path / "c")
    sheet = tmp_path / "groups.png"
    text = run("data", "describe", "celeba", "--data-dir", tmp_path / "c", "--sheet", sheet)
    for word in ("blond / man", "Cramér's V", "minority group", "largest / smallest class", "95% interval"):
        assert word in text
    with Image.open(sheet) as image:
        assert image.format == "PNG"
    write_multinli(tmp_path / "m")
    text = run("data", "describe", "multinli", "--data-dir", tmp_path / "m", "--samples", "1")
    assert "⟂" in text
    assert "shows images" in run("data", "describe", "multinli", "--data-dir", tmp_path / "m", "--sheet", sheet, code=2)


def edited(path: Path, old: str, new: str | bytes) -> None:
    content = path.read_bytes()
    assert old.encode() in content
    path.write_bytes(content.replace(old.encode(), new.encode() if isinstance(new, str) else new, 1))


def row_of(path: Path, row: int) -> str:
    return path.read_text(encoding="utf-8-sig").splitlines()[row - 1]


BAD: dict[str, tuple[str, Callable[[Path], object], tuple[str, ...]]] = {
    "wrong folder": ("waterbirds", lambda f: (f / "other.txt").write_text(""), ("no metadata.csv", "other.txt")),
    "no folder": ("celeba", lambda f: f.rmdir(), ("does not exist",)),
    "a file": ("celeba", lambda f: (f.rmdir(), f.write_text("")), ("is a file",)),
    "missing column": (
        "waterbirds",
        lambda f: (write_waterbirds(f), edited(f / "metadata.csv", "place,", "Place,")),
        ("metadata.csv", "no column 'place'", "Did you mean 'Place'"),
    ),
    "unknown label": (
        "waterbirds",
        lambda f: (write_waterbirds(f), edited(f / "metadata.csv", row_of(f / "metadata.csv", 4),
                                               "3,x.jpg,7,0,0,p")),
        ("metadata.csv, row 4, column 'y': '7'", "0 to 1 (landbird, waterbird)"),
    ),
    "empty group": (
        "waterbirds",
        lambda f: (f / "metadata.csv").write_text("img_filename,y,split,place\na.jpg,0,0,0\nb.jpg,1,0,1\n"),
        ("metadata.csv, columns 'y' and 'place'", "'landbird / water'", "2 rows"),
    ),
    "empty value": (
        "metadata_csv",
        lambda f: (f / "metadata.csv").write_text("text,y,a,split\nx,0,0,0\ny,1,,0\n"),
        ("metadata.csv, row 3, column 'a': ''", "expected a value"),
    ),
    "no UTF-8": (
        "metadata_csv",
        lambda f: (f / "metadata.csv").write_bytes(b"text,y,a,split\nfine,0,0,0\ncaf\xe9,1,0,0\n"),
        ("metadata.csv, row 3, column 'text'", "UTF-8", "encoding="),
    ),
    "no UTF-8 in comments": (
        "civilcomments",
        lambda f: (write_civilcomments(f, quirks=False),
                   edited(f / "all_data_with_identities.csv", " 3.", b" \xff\xfe")),
        ("all_data_with_identities.csv, row 5, column 'comment_text'", "UTF-8"),
    ),
    "toxicity": (
        "civilcomments",
        lambda f: (write_civilcomments(f), edited(f / "all_data_with_identities.csv", "0.49999", "high")),
        ("column 'toxicity': 'high'", "a number"),
    ),
    "no partition": (
        "celeba",
        lambda f: (write_celeba(f), (f / "list_eval_partition.txt").unlink()),
        ("list_attr_celeba.txt with list_eval_partition.txt",),
    ),
    "an image without a partition": (
        "celeba",
        lambda f: (write_celeba(f), edited(f / "list_eval_partition.txt", "000007.jpg", "100007.jpg")),
        ("list_attr_celeba.txt, row 9, column 'image_id': '000007.jpg'", "list_eval_partition.txt"),
    ),
    "attribute 2": (
        "celeba",
        lambda f: (write_celeba(f), edited(f / "list_attr_celeba.txt", "000003.jpg -1", "000003.jpg -1  5 -1 #")),
        ("list_attr_celeba.txt",),
    ),
    "no texts": (
        "multinli",
        lambda f: (write_multinli(f), (f / "multinli_1.0_dev_matched.jsonl").unlink(),
                   (f / "cached_train_bert-base-uncased_128_mnli").write_bytes(b"\x80\x04.")),
        ("no multinli_1.0_dev_matched.jsonl", "pickle", "never loads it"),
    ),
    "texts in another order": (
        "multinli",
        lambda f: (write_multinli(f, quirks=False), (f / "multinli_1.0_train.jsonl").write_text(
            "\n".join(reversed((f / "multinli_1.0_train.jsonl").read_text().splitlines())))),
        ("metadata_random.csv, row", "column 'gold_label'", "not those of this table"),
    ),
    "a line without a label": (
        "multinli",
        lambda f: (write_multinli(f), edited(f / "metadata_random.csv", "\n4,", "\n3,")),
        ("metadata_random.csv, row 5, column 'Unnamed: 0': '3'", "a line with a gold label"),
    ),
    "no JSON": (
        "multinli",
        lambda f: (write_multinli(f), edited(f / "multinli_1.0_train.jsonl", "sentence1", "sentence_1")),
        ("multinli_1.0_train.jsonl, row 1", "sentence1"),
    ),
    "gold label": (
        "multinli",
        lambda f: (write_multinli(f), edited(f / "multinli_1.0_train.jsonl", '"gold_label": "-"',
                                             '"gold_label": "maybe"')),
        ("multinli_1.0_train.jsonl, row 4, column 'gold_label': 'maybe'",),
    ),
    "too many fields": (
        "metadata_csv",
        lambda f: (f / "metadata.csv").write_text("text,y,a,split\nx,0,0,0,9\ny,1,0,0,9\n"),
        ("more fields than the header",),
    ),
    "too many fields in one row": (
        "metadata_csv",
        lambda f: (f / "metadata.csv").write_text("text,y,a,split\nx,0,0,0\ny,1,0,0,9\n"),
        ("metadata.csv", "line 3"),
    ),
    "a huge code": (
        "metadata_csv",
        lambda f: (f / "metadata.csv").write_text("text,y,a,split\nx,0,0,0\ny,9999999999,0,0\n"),
        ("row 3, column 'y': '9999999999'", "at most"),
    ),
    "open quote": (
        "metadata_csv",
        lambda f: (f / "metadata.csv").write_text('text,y,a,split\n"x,0,0,0\ny,1,0,0\n'),
        ("not a readable CSV",),
    ),
    "an image elsewhere": (
        "image_folder",
        lambda f: (write_image_folder(f), (f / "train" / "cat" / "lost.jpg").write_bytes(b"")),
        ("train/cat/lost.jpg", "outside split/label/attribute/"),
    ),
    "no split": (
        "image_folder",
        lambda f: (write_image_folder(f), (f / "train").rename(f / "spare")),
        ("spare", "is no split"),
    ),
    "no images": ("image_folder", lambda f: (f / "a.txt").write_text(""), ("has no images",)),
    "no shards": ("webdataset", lambda f: (f / "train.tar.gz").write_text(""), ("train.tar.gz is compressed",)),
    "a cut shard": (
        "webdataset",
        lambda f: (write_webdataset(f), (f / "train-000000.tar").write_bytes(
            (f / "train-000000.tar").read_bytes()[:3000])),
        ("train-000000.tar",),
    ),
    "no tables": ("arrow", lambda f: (f / "a.txt").write_text(""), ("no files *.parquet or *.arrow",)),
    "a cut table": (
        "arrow",
        lambda f: (write_arrow(f, layout="parquet"), (f / "data" / "val-00000-of-00001.parquet").write_bytes(b"PAR1x")),
        ("val-00000-of-00001.parquet", "cannot be read"),
    ),
    "no such column": (
        "arrow",
        lambda f: write_arrow(f, layout="parquet"),
        ("test-00000-of-00001.parquet", "no column 'y'", "image, label, attribute"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_on_one_screen(tmp_path: Path, case: str) -> None:
    name, spoil, words = BAD[case]
    folder = tmp_path / "data"
    folder.mkdir()
    spoil(folder)
    out = tmp_path / "f.h5"
    output = run("extract", "--dataset", name, "--data-dir", folder, "--out", out, *IMAGES, code=2)
    for word in words:
        assert word in output
    assert len(output.splitlines()) <= 24
    assert len(output) < 2500
    assert {path.name for path in tmp_path.iterdir()} <= {"data"}
    for command in ("verify", "describe"):
        assert words[0] in run("data", command, name, "--data-dir", folder, code=2)


def test_an_unreadable_image_stops_the_extraction_and_names_the_file(tmp_path: Path) -> None:
    written = write_waterbirds(tmp_path / "data", per_group=3)
    broken = tmp_path / "data" / written.items[7]
    broken.write_bytes(broken.read_bytes()[:150])
    arguments = ("extract", "--dataset", "waterbirds", "--data-dir", tmp_path / "data", "--out", tmp_path / "f.h5")
    output = run(*arguments, *IMAGES, code=2)
    assert written.items[7] in output
    assert "cannot be read" in output
    assert not (tmp_path / "f.h5").exists()
    assert "1 unreadable" in run("data", "verify", "waterbirds", "--data-dir", tmp_path / "data", code=1)


@pytest.mark.parametrize("command", ["verify", "describe"])
def test_help_has_examples(command: str) -> None:
    text = run("data", command, "--help")
    assert f"grobust data {command}" in text
    assert "--data-dir" in text
    assert command in run("data", "--help")


def test_describe_loads_neither_torch_nor_a_plotting_library(tmp_path: Path) -> None:
    write_waterbirds(tmp_path)
    code = (
        "import sys; sys.argv = ['grobust', 'data', 'describe', 'waterbirds', '--data-dir', sys.argv[1], '--json']\n"
        "from grobust_cli.main import app\n"
        "try: app()\nexcept SystemExit: pass\n"
        "assert not {'torch', 'matplotlib', 'timm', 'transformers', 'h5py'} & set(sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["n"] == 114
