"""Tweets: documented shares, negation by words, near-duplicates never straddle splits."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grobust.data.tweets import has_negation, load_tweets, normalize_tweet, split_of


def test_counts_and_shares() -> None:
    data = load_tweets()
    assert data.groups.class_counts.tolist() == [16186, 15018, 6954]
    share = data.groups.counts[1::2] / data.groups.class_counts
    np.testing.assert_allclose(share, [0.33, 0.13, 0.16], atol=0.006)
    assert len(set(data.sample_ids)) == len(data) == 38158


def test_no_content_straddles_splits() -> None:
    data = load_tweets()
    split_by_words: dict[str, int] = {}
    repeated = 0
    for text, split in zip(data.texts, data.split.tolist(), strict=True):
        without = re.sub(r"https?://\S+|www\.\S+|@\w+|\b(rt|mt|via)\b", " ", text, flags=re.IGNORECASE)
        words = " ".join("".join(c if c.isalnum() else " " for c in without.casefold()).split())
        repeated += words in split_by_words
        assert split_by_words.setdefault(words, split) == split
    assert repeated > 100
    np.testing.assert_allclose(np.bincount(data.split) / len(data), [0.7, 0.1, 0.2], atol=0.01)


@given(st.text(max_size=60), st.sampled_from(["@someone", "https://t.co/x1", "RT", "   "]), st.booleans())
def test_case_spaces_users_urls_and_retweets_do_not_matter(text: str, extra: str, front: bool) -> None:
    plain = normalize_tweet(text)
    changed = f"{extra} {plain}" if front else f"{plain} {extra}"
    assert normalize_tweet(changed.upper() if plain.isascii() else changed) == normalize_tweet(plain)
    assert split_of(changed) == split_of(plain)


@pytest.mark.parametrize("text", ["I do not know", "NO!", "can't", "don’t", "there is nothing", "cannot", "nobody's"])
def test_negation(text: str) -> None:
    assert has_negation(text)


@pytest.mark.parametrize("text", ["I know", "a notable knot", "nonetheless", "another", "cant", "nothings"])
def test_no_negation(text: str) -> None:
    assert not has_negation(text)
