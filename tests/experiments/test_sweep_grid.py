"""Grid files: what they expand to, and what is said of wrong ones."""

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grobust.errors import ConfigError
from grobust.experiments.sweep.grid import grid_names, parse_grid, read_grid
from grobust.experiments.sweep.plan import make_plan
from grobust.settings import BalanceMethod

DIGITS = 'dataset = "digits:celeba"\n'


def test_products_lists_and_conditions() -> None:
    grid = parse_grid(
        """
        [[finetune]]
        name = "nets"
        dataset = "digits"
        seeds = "1..2"
        product.backbone = ["timm:test_resnet@random", "timm:test_vit@random"]
        combine = [
            { balance = ["none", "subsetting"] }, { balance = "mixture", ratio = 2 }, { balance = "mixture", ratio = 4 }
        ]
        skip = [{ backbone = "timm:test_vit@random", method = "mixture" }, { seed = 2, method = "none" }]
        """,
        "g.toml",
    )
    (section,) = grid.sections
    found = [(p.values["backbone"][5:-7], p.method, p.values.get("ratio"), p.seed) for p in section.points]
    resnet = [
        ("test_resnet", "none", None, 1),
        ("test_resnet", "subsetting", None, 1),
        ("test_resnet", "subsetting", None, 2),
    ]
    mixtures = [("test_resnet", "mixture", r, s) for r in (2, 4) for s in (1, 2)]
    vit = [("test_vit", "none", None, 1), ("test_vit", "subsetting", None, 1), ("test_vit", "subsetting", None, 2)]
    assert sorted(map(str, found)) == sorted(map(str, resnet + mixtures + vit))


@given(
    methods=st.lists(st.sampled_from(list(map(str, BalanceMethod))), min_size=1, unique=True),
    seeds=st.lists(st.integers(0, 50), min_size=1, max_size=4, unique=True),
    ratios=st.lists(st.sampled_from([1.0, 1.5, 2.0, 7.0]), min_size=1, unique=True),
    left_out=st.sampled_from(list(map(str, BalanceMethod))),
)
def test_points_are_those_of_a_plain_loop(
    methods: list[str], seeds: list[int], ratios: list[float], left_out: str
) -> None:
    text = f'[[probe]]\nstore = "x.h5"\nbalance = {methods!r}\nseeds = {seeds!r}\nproduct.ratio = {ratios!r}\n'
    text += f'skip = [{{ method = "{left_out}" }}]\n'
    expected = {
        (method, seed, ratio if method == "mixture" else None)
        for ratio, method, seed in product(ratios, methods, seeds)
        if method != left_out
    }
    if not expected:
        with pytest.raises(ConfigError, match="leave none of its"):
            parse_grid(text, "g.toml")
        return
    points = parse_grid(text, "g.toml").sections[0].points
    found = [(p.method, p.seed, p.values.get("ratio")) for p in points]
    assert len(found) == len(set(found))
    assert set(found) == expected


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[[probes]]\n", 1, "'probes' is no part of a grid. Did you mean 'probe'?"),
        ('[[probe]]\nstore = "x"\nbalanec = "all"\n', 3, "unknown key 'balanec'. Did you mean 'balance'?"),
        ('[[probe]]\nstore = "x"\n\n[probe.product]\nratoi = [1.0]\n', 5, "unknown key 'ratoi'. Did you mean 'ratio'?"),
        ('[[probe]]\nstore = "x"\nskip = [{ ratoi = 1 }]\n', 3, "unknown key 'ratoi' in skip. Did you mean 'ratio'?"),
        ('[[probe]]\nstore = "x"\nbalance = "alll"\n', 3, "unknown method 'alll'. Did you mean 'all'?"),
        ('[[probe]]\nstore = "x"\nseeds = [-1]\n', 3, "seeds must be integers, none below 0"),
        ('[[probe]]\nstore = "x"\nproduct.ratio = []\n', 3, "product.ratio must be a list with at least one value"),
        ('[vars]\nrows = 3\n[[probe]]\nstore = "{rosw}"\n', 3, "no variable '{rosw}'. Did you mean 'rows'?"),
        (f"[[extract]]\n{DIGITS}backbone = 'tim:x'\n", 3, "'tim:x' is no backbone. Did you mean 'timm'?"),
        (f"[[extract]]\n{DIGITS}backbone = 'timm:x'\nlimit = 'many'\n", 4, "limit must be an integer"),
        ("[[extract]]\ndataset = 'digist'\nbackbone = 'timm:x'\n", 2, "Did you mean 'digits'?"),
        (f"[[finetune]]\n{DIGITS}backbone = 'timm:x'\nlr = -1.0\n", 4, "lr must be a positive number"),
        (f"[[finetune]]\n{DIGITS}backbone = 'timm:x'\nbalance = 'mixture'\nratio = 0.5\n", 5, "ratio"),
        (f"[[finetune]]\n{DIGITS}backbone = 'bert-base'\n", 3, "takes texts, but digits:celeba holds images"),
        ("[[probe]]\nname = 'p'\nstore = 'feats'\n[[extract]]\nname = 'features'\n" + DIGITS + "backbone = 'timm:x'\n",
         3,
         "is no [[extract]] section and no file. Did you mean 'features'?"),
        (f"[[extract]]\n{DIGITS}backbone = 'finetune:nets'\n", 3, "there is no [[finetune]] section 'nets'"),
        (f"[[extract]]\nname = 'f'\n{DIGITS}backbone = 'timm:x'\n[[probe]]\nstore = 'f'\nl2 = [0.0]\n", 7,
         "l2 strengths"),
        (f"[[extract]]\nname = 'f'\n{DIGITS}backbone = 'timm:x'\n[[spectrum]]\nstore = 'f'\nbalance = 'run'\n", 7,
         "no finetuning run made its features"),
    ],
)  # fmt: skip
def test_mistakes_name_the_line_and_the_nearest_key(text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_plan(parse_grid(text, "g.toml"))
    message = str(error.value)
    assert words in message
    assert f"g.toml, line {line}" in message or f"at line {line}" in message


def test_no_toml_names_the_line_and_a_wrong_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at line 2"):
        parse_grid("[[probe]]\nstore = \n", "g.toml")
    with pytest.raises(ConfigError, match="Did you mean 'quick'"):
        read_grid("quik")
    with pytest.raises(ConfigError, match=r"no variable 'seed'\. Did you mean 'seeds'"):
        read_grid("quick", {"seed": 1})


def test_variables_keep_their_type_and_empty_ones_leave_their_setting_out() -> None:
    text = "[vars]\nn = 5\nd = 'x'\n[[extract]]\ndataset = 'digits'\nbackbone = 'timm:{d}'\nlimit = '{n}'\n"
    assert parse_grid(text, "g").sections[0].points[0].values == {
        "dataset": "digits", "backbone": "timm:x", "limit": 5
    }  # fmt: skip
    assert "limit" not in parse_grid(text, "g", {"n": ""}).sections[0].points[0].values


def test_packaged_grids_are_read_by_name_and_by_path() -> None:
    assert {"quick", "scaling", "paper-waterbirds", "paper-celeba", "paper-civilcomments", "paper-multinli"} <= set(
        grid_names()
    )
    assert read_grid("quick").name == read_grid("grids/quick.toml").name == "quick"
