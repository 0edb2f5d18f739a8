"""Words and units that name other work than training. Pure."""

from __future__ import annotations

import re
from typing import Final

_VERB_STEMS: Final = (
    "cach load download upload fetch extract unpack unzipp sav sampl generat evaluat validat test mapp filter tokeniz "
    "caption encod decod embedd process prepar comput upscal resiz cropp mask segment detect "
    "quantiz convert merg fus import infer denois render resolv creat read writ copy push pull compress scann check "
    "verify build install collect index pack skipp warm calculat delet attach group enumerat plott predict scor"
)
_VERBS: Final = [before + stem for before in ("", "pre") for stem in _VERB_STEMS.split()]
_STAGES: Final = frozenset(("eval", "evaluation", "val", "valid", "validation", "inference", "sanity"))
_THINGS: Final = (
    "map filter samples caption captions prompt prompts images image files shards examples dataset tokenizer latents "
    "oom gpus"
)
_BEGINNING: Final = frozenset(verb + "ing" for verb in _VERBS) | _STAGES
_IMPERATIVE: Final = frozenset(verb + end for verb in _VERBS for end in ("e", ""))
_OTHER: Final = _BEGINNING | _IMPERATIVE | {verb + "ed" for verb in _VERBS} | set(_THINGS.split())
_OVER: Final = frozenset(("done", "finished", "complete", "completed"))

# A job's name may hold any word; its parts are joined by hyphens and underscores. But `validation_step` is a count.
_WORD: Final = re.compile(r"(?<![\w-])[a-z]+(?![\w-])")
_OF_COUNT: Final = re.compile(r"[_/](?=(?:step|iter|epoch|batch|loop))")
_FILE: Final = re.compile(
    r"\.(?:safetensors|bin|pt|pth|ckpt|tar|gz|zip|json|jpe?g|png|webp|model|gguf|parquet|txt)\b", re.IGNORECASE
)
_TITLE: Final = re.compile(r"[^\w\s(,;|]?\s{0,3}[^\w\s(,;|]?\s{0,3}([a-z]+)\b(?!\s?[=:])")
_CLAUSE_END: Final = re.compile(r"[,;|(\[]")
_RATE_UNIT: Final = re.compile(r"[\d?]\s?(?:([a-zA-Z]+)/s(?:ec)?\b|m?s/([a-zA-Z]+))")
_STEP_UNITS: Final = frozenset(("it", "iter", "step", "batch", "batche", "ba", "epoch", "update", "sample", ""))
#: Faster than any training: a thousand steps per second.
_FAST: Final = re.compile(r"(?:[0-9]{4,9}(?:\.[0-9]{1,6})?|[0-9][kMG])it/s")
#: A logger's prefix.
PREFIX: Final = re.compile(r"\[[^\[\]]{0,60}\]|\b(?:INFO|WARNING|stderr|stdout|rank ?[0-9]+)\b")


def names_other_work(text: str) -> bool:
    return not _OTHER.isdisjoint(_words(text)) or _FILE.search(text) is not None


def announces_other_work(line: str) -> bool:
    """Return whether other work begins here, as in ``INFO loading image sizes.``; the past tense does not count."""
    words = _words(PREFIX.sub("", line))
    if not _OVER.isdisjoint(words):
        return False
    return not _BEGINNING.isdisjoint(words) or not _IMPERATIVE.isdisjoint(words[:1])


def is_title(after: str) -> bool:
    """Return whether the text after a number makes it a title, as in ``Step 2/4: Training``; a measure does not."""
    return _TITLE.match(after.lower()) is not None


def is_title_of_other_work(after: str) -> bool:
    """``Step 2: downloading weights``"""
    title = _TITLE.match(after.lower())
    return title is not None and title[1].endswith("ing") and title[1] in _OTHER


def has_other_unit(after: str) -> bool:
    """``] 12.3 task/s``, `` images processed``"""
    return _has_other_rate(after) or names_other_work(_CLAUSE_END.split(after, maxsplit=1)[0])


def has_rate_of_other_work(after: str) -> bool:
    """``5.5MB/s``, ``3615779.31it/s``"""
    return _has_other_rate(after) or _FAST.search(after) is not None


def _has_other_rate(after: str) -> bool:
    unit = _RATE_UNIT.search(after)
    return unit is not None and (unit[1] or unit[2]).lower().removesuffix("s") not in _STEP_UNITS


def _words(text: str) -> list[str]:
    return _WORD.findall(_OF_COUNT.sub(" ", text.lower()))
