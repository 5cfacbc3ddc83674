"""The JSON Schema of the sections, for editors; `serve` never imports it."""

import ast
import inspect
import json
from itertools import pairwise
from typing import Any, get_args, get_origin

import msgspec
from msgspec import NODEFAULT
from msgspec.structs import FieldInfo, fields

from proxy.settings.section import Section, default_of, is_section, leaf_of, plain

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def describe(root: type[Section], *, title: str) -> str:
    """Return the schema (2020-12) as indented JSON, the same text each time."""
    definitions: dict[str, Any] = {}
    section = _section(root, definitions)
    head = {"$schema": _DIALECT, "title": title, "$defs": dict(sorted(definitions.items()))}
    return json.dumps(head | section | head, indent=2) + "\n"


def _section(kind: type[Section], definitions: dict[str, Any]) -> dict[str, Any]:
    texts = _docstrings(kind)
    required = [each.name for each in fields(kind) if each.required]
    return {
        "title": kind.__name__,
        "description": inspect.getdoc(kind),
        "type": "object",
        "properties": {
            each.name: _field(each, texts.get(each.name), definitions) for each in fields(kind)
        },
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _docstrings(kind: type[Section]) -> dict[str, str]:
    """Return the text below each field; only the source has it."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    texts = {}
    for pair in pairwise(ast.iter_child_nodes(definition)):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                texts[name] = str(text)
    return texts


def _field(field: FieldInfo, text: str | None, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = _any(field.type, definitions)
    if default_of(field) == {}:
        del schema["minProperties"]
    if text is None:  # a section describes itself, and its fields have their own defaults
        return schema
    described = {"description": text, **schema}
    default = default_of(field)
    written = None if default is NODEFAULT else plain(field.type, default, sparse=True)
    if default is not NODEFAULT and written != "":
        described["default"] = written
    return described


def _any(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if get_origin(kind) is dict:
        name, item = get_args(kind)
        named = {_any(name, definitions)["pattern"]: _any(item, definitions)}
        return {
            "type": "object",
            "minProperties": 1,
            "patternProperties": named,
            "additionalProperties": False,
        }
    if get_origin(kind) is tuple:
        items = _any(get_args(kind)[0], definitions)
        return {"type": "array", "minItems": 1, "items": items}
    if is_section(kind):
        definitions[kind.__name__] = _section(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    leaf = leaf_of(kind)
    return dict(leaf.schema) if leaf else msgspec.json.schema(kind)
