"""``grobust info`` and ``grobust verify``."""

import json as json_module

from grobust_cli._options import Json, Store
from grobust_cli._output import note, progress_bar, show_json, show_table

__all__ = ["info", "verify"]


def info(store: Store, json: Json = False) -> None:
    """What a feature store holds and what made it.

    Example: `grobust info f.h5 --json`
    """
    from grobust.features.store import FeatureStore

    with FeatureStore(store) as opened:
        content = opened.info()
    if json:
        show_json(content)
        return
    facts = [(k, v) for k, v in content.items() if not isinstance(v, dict | list)]
    show_table(str(store), ["what", "value"], [[k, str(v)] for k, v in facts], text_columns=2)
    made = content["provenance"]
    rows = [[k, v if isinstance(v, str) else json_module.dumps(v)] for k, v in made.items()]
    show_table("made by", ["setting", "value"], rows, text_columns=2)
    splits = content["groups"]
    columns = ["group", *splits]
    names = list(next(iter(splits.values())))
    show_table("rows per group", columns, [[n, *(str(splits[s][n]) for s in splits)] for n in names])
    if content["skipped"]:
        note(f"{len(content['skipped'])} input(s) were skipped; --json lists them")


def verify(store: Store, json: Json = False) -> None:
    """Read every byte of a feature store and check it against the stored digests.

    Exit code 0 if all is well; 2 with the dataset and rows where the first damage is.

    Example: `grobust verify f.h5`
    """
    from grobust.features.store import FeatureStore

    with FeatureStore(store) as opened, progress_bar("verify") as advance:
        opened.verify(lambda done, total: advance(done, total, ""))
        content = {"path": str(store), "ok": True, "n": opened.n, "dim": opened.dim}
    if json:
        show_json(content)
    else:
        note(f"{store}: all {content['n']} × {content['dim']} features and their metadata are as written")
