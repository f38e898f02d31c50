"""verify finds what is wrong with a folder, and only that; describe's numbers are those of a plain loop."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grobust.data.catalog import load_dataset
from grobust.data.contact_sheet import write_contact_sheet
from grobust.data.content import item_digest
from grobust.data.describe import sample_rows
from grobust.data.fixtures import write_celeba, write_civilcomments, write_metadata_csv, write_waterbirds
from grobust.data.published import SPLITS, published_counts
from grobust.data.schemes import overlapping_scheme
from grobust.data.verify import check_items, compare_counts
from grobust.errors import DataError
from grobust.experiments.describe import DescribeConfig, run_describe
from grobust.experiments.verify_data import VerifyConfig, run_verify_data
from grobust.groups import Split

BENCHMARKS = ("waterbirds", "celeba", "civilcomments", "multinli")
# Test counts as LaBonte et al. print them; the file of published counts must agree.
TEST_COUNTS = {
    "waterbirds": [2255, 2255, 642, 642],
    "celeba": [9767, 7535, 2480, 180],
    "civilcomments": [74780, 43778, 6455, 8769],
    "multinli": [34597, 6655, 40496, 886, 39930, 1148],
}


@pytest.fixture(scope="module")
def whole_waterbirds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 11,788 rows with the published counts; every image is one of two files."""
    folder = tmp_path_factory.mktemp("waterbirds")
    published = published_counts("waterbirds")
    assert published is not None
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    for split, counts in enumerate(published.counts.tolist()):
        for group, n in enumerate(counts):
            lines += [f"0,{split}/{group}/{i}.png,{group // 2},{split},{group % 2},p" for i in range(n)]
            source = folder / f"{group // 2}.png"
            if not source.exists():
                Image.new("L", (2, 2), color=100 * (group // 2)).save(source)
            (folder / str(split) / str(group)).mkdir(parents=True)
            for i in range(n):
                os.link(source, folder / str(split) / str(group) / f"{i}.png")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


def test_published_counts_are_consistent() -> None:
    for name in BENCHMARKS:
        published = published_counts(name)
        assert published is not None
        assert published.counts[Split.TEST].tolist() == TEST_COUNTS[name]
        assert published.counts.sum(axis=1).tolist() == list(published.rows)
        assert published.source
    wilds = published_counts("civilcomments-wilds")
    assert wilds is not None
    assert wilds.groups == ()
    assert published_counts("metadata_csv") is None


def test_a_whole_benchmark_is_as_published(whole_waterbirds: Path) -> None:
    report = run_verify_data(VerifyConfig("waterbirds", whole_waterbirds))
    assert report.ok
    assert report.mismatches == ()
    assert report.counts["train"] == {
        "landbird / land": 3498, "landbird / water": 184, "waterbird / land": 56, "waterbird / water": 1057,
    }  # fmt: skip
    assert (report.items.n, report.items.n_repeated) == (11788, 11786)
    # The two contents, each in all three splits.
    assert [{split for split, _ in each.rows} for each in report.items.duplicates] == [set(SPLITS)] * 2
    described = run_describe(DescribeConfig("waterbirds", whole_waterbirds))
    assert described.splits[0].class_imbalance == pytest.approx(3682 / 1113)
    minorities = [described.splits[0].groups.names[g] for g in described.splits[0].minorities if g is not None]
    assert minorities == ["landbird / water", "waterbird / land"]


def test_missing_unreadable_and_duplicate_images_are_listed(tmp_path: Path) -> None:
    written = write_waterbirds(tmp_path, per_group=4, quirks=False)
    train, test = (np.flatnonzero(written.split == split) for split in (Split.TRAIN, Split.TEST))
    names = written.items
    (tmp_path / names[3]).unlink()
    broken = tmp_path / names[5]
    broken.write_bytes(broken.read_bytes()[:200])
    source, copy = (int(rows[rows > 6][0]) for rows in (train, test))
    # The same pixels in another lossless file.
    with Image.open(tmp_path / names[source]) as image:
        image.save(tmp_path / names[copy], format="PNG")
        image.save(tmp_path / names[copy], format="BMP")
    data = load_dataset("waterbirds", data_dir=tmp_path)
    seen = []
    found = check_items(data, on_progress=lambda done, total: seen.append((done, total)))
    assert found.missing == (names[3],)
    assert [name for name, _ in found.unreadable] == [names[5]]
    assert "cannot be read" in found.unreadable[0][1]
    assert [sorted(each.rows) for each in found.duplicates] == [[("test", names[copy]), ("train", names[source])]]
    assert seen[-1] == (len(data), len(data))
    quick = check_items(data, decode=False)
    assert (quick.missing, quick.unreadable, quick.duplicates) == ((names[3],), (), ())
    report = run_verify_data(VerifyConfig("waterbirds", tmp_path))
    assert not report.ok


def test_one_row_in_another_group_is_a_mismatch_of_two_groups(whole_waterbirds: Path, tmp_path: Path) -> None:
    text = (whole_waterbirds / "metadata.csv").read_text().replace("0/0/5.png,0,0,0", "0/0/5.png,0,0,1")
    (tmp_path / "metadata.csv").write_text(text)
    published = published_counts("waterbirds")
    assert published is not None
    found = compare_counts(load_dataset("waterbirds", data_dir=tmp_path), published)
    assert [(each.split, each.group, each.found, each.published) for each in found] == [
        ("train", "landbird / land", 3497, 3498), ("train", "landbird / water", 185, 184),
    ]  # fmt: skip


def test_texts_that_stand_in_two_splits(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("text,y,a,split\nsame,0,0,0\nsame,1,1,2\nother,0,1,0\nother,1,0,0\n")
    found = check_items(load_dataset("metadata_csv", data_dir=tmp_path))
    assert [each.rows for each in found.duplicates] == [(("train", "row-0"), ("test", "row-1"))]
    assert found.n_repeated == 2
    assert item_digest(("ab", "c")) != item_digest(("a", "bc"))


def test_description_by_a_plain_loop(tmp_path: Path) -> None:
    written = write_celeba(tmp_path, per_group=5)
    report = run_describe(DescribeConfig("celeba", tmp_path, samples=3))
    for split, each in zip(Split, report.splits, strict=True):
        counts = written.counts(split)
        content = each.as_dict()
        assert [group["n"] for group in content["groups"]] == counts
        assert [group["share"] for group in content["groups"]] == pytest.approx([n / sum(counts) for n in counts])
        classes = [counts[0] + counts[1], counts[2] + counts[3]]
        assert content["class_imbalance"] == max(classes) / min(classes)
        assert content["group_imbalance"] == max(counts) / min(counts)
        smaller = ["not blond / woman" if counts[0] < counts[1] else "not blond / man"]
        smaller += ["blond / woman" if counts[2] < counts[3] else "blond / man"]
        assert [c["minority_group"] for c in content["classes"]] == smaller
    names = {name: i for i, name in enumerate(written.items)}
    for group, (name, rows) in enumerate(report.samples):
        assert name == load_dataset("celeba", data_dir=tmp_path).groups.names[group]
        for sample_id, text in rows:
            row = names[sample_id]
            assert text is None
            assert (written.labels[row] * 2 + written.attributes[row], written.split[row]) == (group, Split.TRAIN)
        assert len(rows) == 3
    again = run_describe(DescribeConfig("celeba", tmp_path, samples=3))
    assert again.samples == report.samples
    assert run_describe(DescribeConfig("celeba", tmp_path, samples=3, seed=2)).samples != report.samples


def test_samples_of_overlapping_groups(tmp_path: Path) -> None:
    write_civilcomments(tmp_path)
    data = load_dataset("civilcomments-wilds", data_dir=tmp_path)
    scheme = overlapping_scheme(data.name, data.groups)
    assert scheme is not None
    for group, (name, rows) in enumerate(sample_rows(data, 2, seed=1, scheme=scheme)):
        assert name == scheme.names[group]
        assert rows
        assert all(scheme.membership[row, group] for row in rows)
    assert overlapping_scheme("civilcomments", data.groups) is None
    report = run_describe(DescribeConfig("civilcomments-wilds", tmp_path))
    assert len(report.splits[0].as_dict()["groups"]) == 16
    assert "overlap" in report.notes[0]


def test_contact_sheet_shows_the_images(tmp_path: Path) -> None:
    write_metadata_csv(tmp_path / "d", quirks=False)
    data = load_dataset("metadata_csv", data_dir=tmp_path / "d")
    rows = sample_rows(data, 2, seed=1)
    path = write_contact_sheet(data, rows, [name for name, _ in rows], tmp_path / "new" / "sheet.png")
    with Image.open(path) as image:
        sheet = np.asarray(image.convert("RGB")).astype(int)
    # Every tile holds its image, enlarged: the colours in its middle are near the image's own.
    for line, (_, chosen) in enumerate(rows):
        for column, row in enumerate(chosen):
            top, left = 6 + line * 136 + 18, 6 + column * 118
            middle = sheet[top + 20 : top + 70, left + 20 : left + 90].reshape(-1, 3).mean(axis=0)
            np.testing.assert_allclose(middle, np.asarray(data[row]).reshape(-1, 3).mean(axis=0), atol=12)
    assert [p.name for p in path.parent.iterdir()] == ["sheet.png"]
    (tmp_path / "d" / data.sample_ids[rows[0][1][0]]).unlink()
    with pytest.raises(DataError, match="does not exist"):
        write_contact_sheet(data, rows, [name for name, _ in rows], tmp_path / "other.png")
    assert not (tmp_path / "other.png").exists()
    with pytest.raises(DataError, match=r"ends in \.png"):
        write_contact_sheet(data, rows, [name for name, _ in rows], tmp_path / "other.jpg")
