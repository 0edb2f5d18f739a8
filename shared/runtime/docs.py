"""
Documentation page: renders an API's description as one HTML page. Pure.

The page is rendered on the server: it loads no resources, works without JavaScript, and its Content-Security-Policy
allows only its own style.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from shared.runtime.description import operations

Document = Mapping[str, Any]

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
body { color: #1b1f24; background: #fff }
h2 { margin-top: 3rem; border-bottom: 1px solid #d0d7de } h3 { margin-top: 2.5rem } h4 { margin-bottom: .3rem }
code, pre { font: 14px/1.45 ui-monospace, monospace; background: #f3f5f7; border-radius: 4px; padding: .1em .3em }
pre { padding: .7rem; overflow-x: auto } h3 code { font-size: 16px; background: none; padding: 0 }
table { border-collapse: collapse; width: 100% } td:first-child { white-space: nowrap } td p, td ul { margin: 0 }
td { vertical-align: top; padding: .3rem .6rem .3rem 0; border-top: 1px solid #d0d7de }
.method { display: inline-block; min-width: 4.2rem; font-weight: 700 } .note { color: #57606a } a { color: #0a58ca }
@media (prefers-color-scheme: dark) { body { color: #e6e9ec; background: #14171a } code, pre { background: #22272c }
h3 code { background: none } h2, td { border-color: #343b42 } a { color: #7db4ff } .note { color: #9aa4ae } }
"""
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_SCHEMAS: Final = "#/components/schemas/"
_PARAGRAPHS: Final = re.compile(r"\n\s*\n")
_CODE: Final = re.compile(r"(`+)(.+?)\1", re.DOTALL)


def page(document: Document) -> str:
    """Render the page of *document*."""
    info, schemas = document["info"], document["components"]["schemas"]
    tags: Sequence[Document] = document.get("tags", ())
    parts = [
        f"<h1>{escape(info['title'])}</h1>",
        _text(info.get("summary", "")),
        _text(info.get("description", "")),
        '<p>For programs: <a href="openapi.json">openapi.json</a>.</p>',
        *_contents(document, tags),
    ]
    for tag in tags:
        parts += [f"<h2>{escape(tag['name'])}</h2>", _text(tag.get("description", ""))]
        for path, method, operation in _operations(document, tag["name"]):
            parts += _operation(path, method, operation, document)
    parts.append("<h2>Schemas</h2>")
    for name, schema in schemas.items():
        parts += [f'<h3 id="{escape(name)}">{escape(name)}</h3>', *_schema(schema)]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>"
    )


def _contents(document: Document, tags: Sequence[Document]) -> Iterator[str]:
    for tag in tags:
        yield f"<p><strong>{escape(tag['name'])}</strong></p><ul>"
        for path, method, operation in _operations(document, tag["name"]):
            name = escape(operation["operationId"])
            yield f'<li><a href="#{name}"><code>{method.upper()} {escape(path)}</code></a></li>'
        yield "</ul>"


def _operations(document: Document, tag: str) -> Iterator[tuple[str, str, Document]]:
    return (each for each in operations(document) if tag in each[2].get("tags", ()))


def _operation(path: str, method: str, operation: Document, document: Document) -> Iterator[str]:
    yield f'<h3 id="{escape(operation["operationId"])}"><span class="method">{method.upper()}</span> '
    yield f"<code>{escape(path)}</code></h3>{_text(operation.get('description', ''))}"
    if parameters := operation.get("parameters"):
        yield "<h4>Parameters</h4>" + _table(
            (each["name"], f"{each['in']}{', required' if each.get('required') else ''}", each) for each in parameters
        )
    for content in operation.get("requestBody", {}).get("content", {}).values():
        yield f"<h4>Body: {_type(content['schema'])}</h4>"
        reference = content["schema"].get("$ref", "").removeprefix(_SCHEMAS)
        for example in document["components"]["schemas"].get(reference, {}).get("examples", ()):
            yield f"<pre>{escape(json.dumps(example, indent=2))}</pre>"
    yield "<h4>Answers</h4><table>"
    for status, answer in operation["responses"].items():
        types = [
            f"<code>{escape(media)}</code> {_type(each['schema'])}" for media, each in answer.get("content", {}).items()
        ]
        yield f"<tr><td>{escape(status)}</td><td>{_text(answer['description'])}{', '.join(types)}</td></tr>"
    yield "</table>"


def _schema(schema: Document) -> Iterator[str]:
    yield _text(schema.get("description", ""))
    if "properties" not in schema:
        yield f"<p>{_type(schema)}</p>"
        return
    required = schema.get("required", ())
    yield _table((name, "" if name in required else "optional", part) for name, part in schema["properties"].items())


def _table(rows: Iterator[tuple[str, str, Document]]) -> str:
    cells = (
        f"<tr><td><code>{escape(name)}</code></td><td>{_type(part.get('schema', part))}"
        f'<div class="note">{escape(note)}</div></td><td>{_text(part.get("description", ""))}</td></tr>'
        for name, note, part in rows
    )
    return f"<table>{''.join(cells)}</table>"


def _type(schema: Document) -> str:
    """Describe a schema's type in a few words, with a link to a named schema."""
    match schema:
        case {"$ref": str(reference)}:
            name = escape(reference.removeprefix(_SCHEMAS))
            return f'<a href="#{name}">{name}</a>'
        case {"anyOf": options}:
            return " or ".join(map(_type, options))
        case {"enum": values} | {"const": str() | int() as values}:
            options = values if isinstance(values, list) else [values]
            return ", ".join(f"<code>{escape(str(value))}</code>" for value in options)
        case {"type": "array", "items": items}:
            return f"list of {_type(items)}"
        case {"type": name}:
            return escape(f"{name} ({schema['format']})" if "format" in schema else name)
    return "any JSON"


def _text(text: str) -> str:
    """Render the Markdown that our descriptions use: paragraphs, lists and code."""
    return "".join(
        f"<ul>{''.join(f'<li>{_inline(item)}</li>' for item in re.split(r'^- ', block, flags=re.MULTILINE)[1:])}</ul>"
        if block.startswith("- ")
        else f"<p>{_inline(block)}</p>"
        for block in _PARAGRAPHS.split(text.strip())
        if block
    )


def _inline(text: str) -> str:
    return _CODE.sub(lambda match: f"<code>{match[2]}</code>", escape(text.strip()))
