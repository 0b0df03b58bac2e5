"""Okapi BM25 over words, the usual yardstick of search without a model."""

import math
import re
from collections import Counter

import numpy as np
from numpy.typing import NDArray

SATURATION, LENGTH_SHARE = 1.2, 0.75


def terms(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def scores(queries: list[str], documents: list[str]) -> NDArray[np.float64]:
    """[queries, documents]"""
    counts = [Counter(terms(text)) for text in documents]
    lengths = np.array([sum(count.values()) for count in counts])
    damping = SATURATION * (1 - LENGTH_SHARE + LENGTH_SHARE * lengths / lengths.mean())
    holders: dict[str, list[int]] = {}
    for number, count in enumerate(counts):
        for term in count:
            holders.setdefault(term, []).append(number)
    found = np.zeros((len(queries), len(documents)))
    for row, query in enumerate(queries):
        for term in set(terms(query)):
            have = holders.get(term, [])
            weight = math.log(1 + (len(documents) - len(have) + 0.5) / (len(have) + 0.5))
            for number in have:
                times = counts[number][term]
                found[row, number] += weight * times * (SATURATION + 1) / (times + damping[number])
    return found
