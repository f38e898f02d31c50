"""The command line on real data: what a newcomer types, and what they mistype."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from typer.testing import CliRunner

from grobust.experiments.records import read_records
from grobust.features.store import FeatureStore
from grobust_cli.main import app

RUNNER = CliRunner()
COMMANDS = (
    "demo", "extract", "finetune", "import", "probe", "predict", "spectrum", "table", "plot", "report", "info",
    "verify",
)  # fmt: skip


def run(*arguments: str | Path, code: int = 0) -> str:
    """stdout of a command that must end with `code`, without a traceback."""
    result = RUNNER.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result.stdout if code == 0 else result.output


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 digits through the packaged ImageNet network."""
    path = tmp_path_factory.mktemp("cli") / "f.h5"
    run(*extraction(path))
    return path


def extraction(path: Path, *more: str) -> list[str]:
    backbone = ["--backbone", "packaged:efficientnet_lite0", "--image-size", "48", "--limit", "400"]
    return ["extract", "--dataset", "digits", *backbone, "--out", str(path), *more]


def test_extract_reports_json_and_reuses(store: Path) -> None:
    report = json.loads(run(*extraction(store, "--json")))
    assert report["result"]["reused"] is True
    assert report["result"]["n"] == 400
    assert "same settings" in RUNNER.invoke(app, extraction(store)).stderr


def test_extract_writes_several_outputs_in_one_pass_and_a_profile(tmp_path: Path) -> None:
    arguments = [
        "extract", "--dataset", "digits", "--limit", "40", "--backbone", "timm:test_vit@random", "--pool", "gap",
        "--pool", "cls", "--batch-size", "auto", "--out", str(tmp_path / "f.h5"), "--profile",
    ]  # fmt: skip
    text = run(*arguments)
    for word in ("Where the time went: 40 rows", "decode", "wait for loader", "network", "the whole run"):
        assert word in text
    stores = [FeatureStore(tmp_path / f"f.{pool}.h5") for pool in ("gap", "cls")]
    assert [store.provenance.pooling for store in stores] == ["gap", "cls"]
    size = stores[0].provenance.options["batch_size"]
    assert int(size) >= 8
    # Again, and the size is that of the stores, whatever would be found now.
    again = json.loads(run(*arguments, "--json"))
    assert [Path(result["path"]).name for result in again["results"]] == ["f.gap.h5", "f.cls.h5"]
    assert all(result["reused"] and f"batch size {size}" in result["notes"] for result in again["results"])
    assert again["result"]["profile"] is None
    fresh = json.loads(run(*arguments, "--json", "--overwrite"))["result"]["profile"]
    assert fresh["rows"] == 40
    assert {stage["stage"] for stage in fresh["stages"]} >= {"decode", "preprocess", "network", "write"}
    assert fresh["advice"]


def test_probe_prints_tables_and_json(store: Path, tmp_path: Path) -> None:
    records = tmp_path / "r.jsonl"
    arguments = ("probe", store, "--balance", "all", "--records", records)
    text = run(*arguments)
    for word in ("WGA", "worst group", "subsetting", "digit >= 5 / orange", "repetition"):
        assert word in text
    report = json.loads(run(*arguments, "--json"))
    assert [r["method"] for r in report["runs"]][::3] == ["none", "subsetting", "upsampling", "upweighting", "mixture"]
    groups = report["runs"][0]["test"]["groups"]
    assert sum(g["n"] for g in groups) == report["runs"][0]["test"]["average"]["n"]
    assert len(read_records(records)) == 30


def test_spectrum_prints_tables_and_json(store: Path, tmp_path: Path) -> None:
    quick = ("--null", "60", "--interval", "40", "--permutations", "20", "--records", tmp_path / "r.jsonl")
    text = run("spectrum", store, *quick)
    for word in ("ρ(y)", "null mean", "digit >= 5 / orange *", "95% interval", "subspace overlap", "effective rank"):
        assert word in text
    assert "imbalanced" not in text
    assert "class digit" not in run("spectrum", store, "--by", "group", "--no-diagnostics", *quick)
    report = json.loads(run("spectrum", store, "--json", "--top", "3", "--figures", tmp_path / "f", *quick))
    assert len(report["groups"]) == 4
    assert len(report["groups"][0]["eigenvalues"]) == 3
    assert report["norm_ratios"][0]["inference"]["null_replicates"] == 60
    assert {Path(f).stem for f in report["figures"]} == {"eigenvalues", "rho", "rho_null"}
    assert "biased upward" in " ".join(report["notes"])
    assert len(read_records(tmp_path / "r.jsonl", command="spectrum")) == 3


def test_spectrum_of_several_stores_and_saved_heads(store: Path, tmp_path: Path) -> None:
    heads = tmp_path / "h.safetensors"
    records = ("--records", tmp_path / "r.jsonl")
    run("probe", store, "--seeds", "1", "--save", heads, *records)
    stores = [tmp_path / f"seed{seed}.h5" for seed in (1, 2)]
    for path in stores:
        shutil.copy(store, path)
    quick = ("--null", "60", "--interval", "0", "--permutations", "0", *records)
    text = run("spectrum", *stores, "--heads", heads, *quick)
    for word in ("margin gap, spread part", "accuracy gap", "ρ(y) over runs"):
        assert word in text
    content = json.loads(run("spectrum", *stores, "--heads", heads, "--no-diagnostics", "--json", *quick))
    assert [row["n"] for row in content["rho"]] == [2, 2]
    assert [r["label"]["seed"] for r in content["reports"]] == [1, 2]
    assert len(content["correspondence"]["pairs"]) == 4


def test_info_and_verify(store: Path) -> None:
    content = json.loads(run("info", store, "--json"))
    assert (content["n"], content["dim"]) == (400, 1280)
    assert content["provenance"]["backbone"] == "packaged:efficientnet_lite0"
    assert "digits:waterbirds:ge5" in run("info", store)
    assert json.loads(run("verify", store, "--json"))["ok"] is True


def test_verify_names_dataset_and_rows_of_a_flipped_byte(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "f.h5"
    content = bytearray(store.read_bytes())
    with h5py.File(store) as file:
        offset = file["features"].id.get_offset()
    content[offset + 1280 * 4 * 123 + 77] ^= 1
    copy.write_bytes(content)
    message = run("verify", copy, code=2)
    assert "'features'" in message
    assert "rows 0 to 399" in message
    assert "damaged" in run("probe", copy, code=2)


def test_changed_settings_are_an_error_with_the_difference(store: Path) -> None:
    message = run(*extraction(store, "--dtype", "float16"), code=2)
    assert "dtype: there float32, asked for float16" in message
    assert FeatureStore(store).dtype == "float32"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["probe", "no.h5"], "does not exist"),
        (["spectrum", "no.h5"], "does not exist"),
        (["info", "no.h5"], "does not exist"),
        (["verify", "no.h5"], "does not exist"),
        (["probe", "."], "not a file"),
        (["probe", "{store}", "--balance", "upsample"], "unknown method 'upsample'"),
        (["probe", "{store}", "--ratio", "0.5", "--balance", "mixture"], "at least 1"),
        (["probe", "{store}", "--seeds", "one"], "expected integers"),
        (["probe", "{store}", "--l2", "1e-3,,1"], "empty value"),
        (["probe", "{store}", "--l2", "-1"], "positive"),
        (["probe", "{store}", "--by", "colour"], "colour"),
        (["probe", "{store}", "--max-iter", "0"], "at least 1"),
        (["probe", "{store}", "--device", "tpu"], "tpu"),
        (["spectrum", "{store}", "--top", "0"], "top must be"),
        (["spectrum", "{store}", "--ddof", "3"], "ddof must be"),
        (["spectrum", "{store}", "--null", "-1"], "null must not be negative"),
        (["spectrum", "{store}", "--heads", "no.safetensors"], "no.safetensors"),
        (["spectrum"], "Missing argument"),
        (["spectrum", "{store}", "--split", "dev"], "train, val or test"),
        (["extract", "--dataset", "digit", "--backbone", "timm:resnet18@random", "--out", "x.h5"], "Did you mean"),
        (["extract", "--dataset", "digits", "--backbone", "resnet18", "--out", "x.h5"], "source:name"),
        (["extract", "--dataset", "digits", "--backbone", "timm:nope@random", "--out", "x.h5"], "Unknown model"),
        (
            ["extract", "--dataset", "tweets", "--backbone", "packaged:efficientnet_lite0", "--out", "x.h5"],
            "takes images",
        ),
        (["extract", "--dataset", "waterbirds", "--backbone", "timm:resnet18@random", "--out", "x.h5"], "--data-dir"),
        (["extract", "--dataset", "digits"], "Missing option"),
        ([*extraction(Path("x.h5")), "--precision", "int8"], "float32, bfloat16, float16"),
        ([*extraction(Path("x.h5")), "--pool", "max"], "model, gap"),
        ([*extraction(Path("x.h5")), "--batch-size", "0"], "at least 1"),
        ([*extraction(Path("x.h5")), "--batch-size", "many"], "a number or `auto`"),
        ([*extraction(Path("x.h5")), "--layer", "block.1"], "no module 'block.1'"),
        ([*extraction(Path("x.h5")), "--pool", "gap", "--pool", "gap"], "asked for twice"),
        ([*extraction(Path("x.h5")), "--view", "nine-crop"], "view must be one of plain, mirror, five-crop, ten-crop"),
        ([*extraction(Path("x.h5")), "--on-error", "ignore"], "stop, skip"),
        ([*extraction(Path("/proc/no/x.h5"))], "Cannot write"),
        (["nonsense"], "nonsense"),
    ],
)
def test_what_is_mistyped_gets_a_message(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    message = run(*[a.replace("{store}", str(store)) for a in arguments], code=2)
    assert text in message
    assert len(message.splitlines()) < 40
    assert not (tmp_path / "x.h5").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    assert f"grobust {command}" in run(command, "--help")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, grobust_cli.main as m\n"
        "try: m.app(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'cupy', 'numpy', 'h5py', 'transformers'} & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "extract" in result.stdout
    assert result.stderr.strip() == "[]"


def test_import_of_the_package_loads_neither_torch_nor_cupy() -> None:
    code = "import sys, grobust; print('torch' in sys.modules or 'cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_version() -> None:
    assert run("--version").startswith("grobust 0.")


def test_demo_makes_everything(tmp_path: Path) -> None:
    """The demo with few tweets: stores, records, figures and tables."""
    out = tmp_path / "demo"
    report = json.loads(run("demo", "--out", out, "--tweets", "300", "--json"))
    for name in ("tweets.h5", "digits.h5"):
        FeatureStore(out / name).verify()
    assert len(read_records(out / "records.jsonl", command="probe")) == 30
    assert {Path(f).name for f in report["figures"]} == {
        f"{stem}.{end}" for stem in ("wga_by_method", "eigenvalues") for end in ("png", "svg", "csv")
    }
    assert all(Path(f).stat().st_size > 500 for f in report["figures"])
    page = Path(report["page"]).read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") > 2
    assert "digits:waterbirds" in page
    for probes in report["probes"]:
        for each in probes["runs"]:
            worst = min(g["value"] for g in each["test"]["groups"] if g["value"] is not None)
            assert each["test"]["wga"]["value"] == worst
