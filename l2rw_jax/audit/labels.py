"""Labels and ids as people write them: stray spaces, accents in two forms, doubtful classes."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

# Spaces, and marks that no one sees: zero-width ones, and that of a file's start.
_BLANK = re.compile(r"\A[\s\u200b\u2060\ufeff]+|[\s\u200b\u2060\ufeff]+\Z")
_QUOTES = "'\"`\u2018\u2019\u201c\u201d"
_LIKE_MISSING = frozenset(["?", "-", "na", "n/a", "<na>", "nan", "nat", "null"])


def clean_labels(labels: np.ndarray) -> np.ndarray:
    r"""Labels [n] without spaces or unseen marks around them, each accent as one letter (NFC).

    >>> clean_labels(np.array(["cat ", "cafe\u0301"])).tolist()
    ['cat', 'café']
    """
    return np.array([_canonical(str(label)) for label in labels])


def doubtful_labels(where: str, given: np.ndarray, cleaned: np.ndarray) -> list[str]:
    """Lines that tell what was changed in labels [n], and which classes look doubtful."""
    changed = np.array([_BLANK.sub("", str(a)) != a for a in given], bool)
    notes = []
    if changed.any():
        notes.append(
            f"{where}: {changed.sum()} of {len(given)} labels had spaces around them, which are "
            f"left out, such as {str(given[np.argmax(changed)])!a}"
        )
    counts = Counter(cleaned.tolist())
    like = defaultdict(list)
    for name in counts:
        like[_folded(name)].append(name)
        if name.casefold() in _LIKE_MISSING:
            notes.append(
                f"warning: {where}: class {name!r} ({counts[name]} rows) reads like a missing "
                f"label; leave its rows out if it is one"
            )
    alike = [" and ".join(map(_shown, names)) for names in like.values() if len(names) > 1]
    if alike:
        more = f" and {len(alike) - 3} more" if len(alike) > 3 else ""
        notes.append(
            f"warning: {where}: classes that read alike are taken as unlike: "
            f"{'; '.join(alike[:3])}{more}"
        )
    return notes


def known_ids(ids: Sequence[str] | np.ndarray, known: Sequence[str] | np.ndarray) -> list[str]:
    r"""Ids of one table as another source writes them; one that is unknown stays as it is.

    Accents are one letter on most systems (NFC), and a letter and a mark in names of files from
    macOS (NFD): the two look alike.

    >>> known_ids(["caf\u00e9.png", "x"], ["cafe\u0301.png"]) == ["cafe\u0301.png", "x"]
    True
    """
    exact = set(known)
    forms: dict[str, list[str]] = defaultdict(list)
    for each in known:
        forms[_canonical(each)].append(str(each))
    return [
        forms[form][0] if each not in exact and len(forms.get(form, ())) == 1 else str(each)
        for each in ids
        for form in [_canonical(each)]
    ]


def _canonical(text: str) -> str:
    return unicodedata.normalize("NFC", _BLANK.sub("", str(text)))


def _folded(name: str) -> str:
    """What is alike of labels that differ in case, spaces, quotes, width or a number's form."""
    seen = "".join(
        c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf"
    )
    text = " ".join(seen.casefold().strip(_QUOTES).split())
    number = re.fullmatch(r"([+-]?)0*(\d+?)(?:\.0*)?", text)
    return f"{number[1].strip('+')}{number[2]}" if number else text


def _shown(name: str) -> str:
    """A label in quotes, with the marks that no one sees spelled out."""
    return ascii(name) if any(unicodedata.category(c) == "Cf" for c in name) else repr(name)
