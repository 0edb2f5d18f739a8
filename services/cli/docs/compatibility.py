"""
What a change of a schema breaks for subscribers, if the event keeps its version. Pure.

A subscriber reads what we send, so both directions matter:

- It was built with the released schema and reads new messages. Its types refuse what was removed, what may be missing
  now, and values that the released schema excludes (a longer enum, a larger limit).
- It is built with the new schema and reads old messages, which the log and queues keep. They lack what is newly
  required, and may exceed what was narrowed.

So under one version only an optional field may be added, and only texts for people may change. Everything else is a new
version of the event, published beside the old one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

Schema = Mapping[str, Any]

_IGNORED: Final = frozenset(
    {"title", "description", "examples", "default", "deprecated", "$comment", "$schema", "$id", "$defs", "$ref"}
)
#: Keywords with sentences of their own.
_TOLD: Final = frozenset({"type", "enum", "const", "properties", "required", "items"})
_LOWER: Final = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"})
_UPPER: Final = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})


def find_breaks(released: Mapping[str, Schema], current: Mapping[str, Schema]) -> list[str]:
    """Return what the *current* schemas break for subscribers of the *released* ones; one sentence each."""
    found: list[str] = []
    for name, schema in released.items():
        if name not in current:
            found.append(f"{name} is no longer there")
        else:
            old, new = _expand(schema, schema), _expand(current[name], current[name])
            found += [f"{name}: {each}" for each in _breaks("", old, new)]
    return found


def remedy(breaks: Sequence[str]) -> str:
    names = dict.fromkeys(each.partition(" ")[0].rstrip(":") for each in breaks)
    return f"{'; '.join(map(_remedy, names))}. A new field must be optional: its default is None"


def _remedy(name: str) -> str:
    base, _, number = name.rpartition(".v")
    kept = f"leave {name} as it was released"
    if not (base and number.isdigit()):
        return f"{kept}: events of all versions have it"
    return f"{kept}, and add the change as {base}.v{int(number) + 1} beside it"


def _breaks(path: str, old: Schema, new: Schema) -> Iterator[str]:
    told = f"`{path}`" if path else "the message"
    if old.get("type") != new.get("type"):
        yield f"{told} is {new.get('type', 'anything')} instead of {old.get('type', 'anything')}"
        return
    yield from _values(told, old, new)
    yield from _keywords(told, old, new)
    yield from _fields(path, old, new)
    if "items" in old and "items" in new:
        yield from _breaks(f"{path}[]", old["items"], new["items"])
    elif "items" in old or "items" in new:
        yield f"the items of {told} are {'no longer' if 'items' in old else 'now'} described"


def _fields(path: str, old: Schema, new: Schema) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    was_required, is_required = old.get("required", ()), new.get("required", ())
    for name in dict.fromkeys([*before, *after]):
        here = f"{path}.{name}" if path else name
        if name not in after:
            yield f"`{here}` is removed"
            continue
        if name in was_required and name not in is_required:
            yield f"`{here}` may be missing now"
        if name in is_required and name not in was_required:
            yield f"`{here}` is required now, and earlier messages may lack it"
        if name in before:
            yield from _breaks(here, before[name], after[name])


def _values(told: str, old: Schema, new: Schema) -> Iterator[str]:
    before, after = _allowed(old), _allowed(new)
    if before == after:
        return
    if before is None or after is None:
        yield f"{told} {'is now' if before is None else 'is no longer'} limited to {_list(before or after or ())}"
        return
    if gone := [each for each in before if each not in after]:
        yield f"{told} no longer allows {_list(gone)}, which earlier messages may have"
    if added := [each for each in after if each not in before]:
        yield f"{told} also allows {_list(added)} now, which subscribers do not know"


def _keywords(told: str, old: Schema, new: Schema) -> Iterator[str]:
    for keyword in sorted((old.keys() | new.keys()) - _TOLD):
        before, after = old.get(keyword), new.get(keyword)
        if before != after:
            what = f"{keyword} of {told} is {json.dumps(after)} instead of {json.dumps(before)}"
            yield what + (_direction(keyword, before, after) if keyword in _LOWER | _UPPER else "")


def _direction(keyword: str, before: float | None, after: float | None) -> str:
    is_narrower = before is None or (after is not None and (after > before) == (keyword in _LOWER))
    return ": earlier messages may exceed it" if is_narrower else ": subscribers may refuse what exceeds the old one"


def _allowed(schema: Schema) -> list[Any] | None:
    values: list[Any] | None = [schema["const"]] if "const" in schema else schema.get("enum")
    return values


def _list(values: Sequence[Any]) -> str:
    return ", ".join(json.dumps(each) for each in values)


def _expand(document: Schema, part: Any) -> Any:
    """Return *part* of *document* with its references resolved, and without texts for people."""
    if isinstance(part, list):
        return [_expand(document, each) for each in part]
    if not isinstance(part, Mapping):
        return part
    found: Any = {}
    if "$ref" in part:
        found = document
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
    keywords = {**found, **part}
    expanded = {name: _expand(document, value) for name, value in keywords.items() if name not in _IGNORED}
    if "properties" in keywords:
        # Names of fields, which may be those of keywords.
        expanded["properties"] = {name: _expand(document, value) for name, value in keywords["properties"].items()}
    return expanded
