"""Expressions of the Common Expression Language, as an API server compiles and evaluates them.

`cel-expr-python` is Google's own implementation in C++, which checks types before it evaluates, as
the one in Go does that API servers have. What they add to it is here: the type JSONPatch, functions
for strings and lists, and that the values of a list or a map must be of one type
(https://kubernetes.io/docs/reference/using-api/cel/#cel-options-language-features-and-libraries).
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cel_expr_python import cel
from cel_expr_python.cel import Type
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf import struct_pb2 as struct
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message

DYN = Type.DYN
PATCHES = "LIST<JSONPatch>"

_FIELD = descriptor_pb2.FieldDescriptorProto
_KINDS = {"int64": _FIELD.TYPE_INT64, "string": _FIELD.TYPE_STRING, "bytes": _FIELD.TYPE_BYTES}
_MESSAGES = {
    "JSONPatch": {
        "op": (1, "string"),
        "path": (2, "string"),
        "from": (3, "string"),
        "value": (4, ".google.protobuf.Value"),
    },
    # As much of cel.expr.CheckedExpr as is needed to find lists and maps, and the types in them.
    "Checked": {"types": (3, "*Typed"), "expr": (4, "Expr")},
    "Typed": {"id": (1, "int64"), "type": (2, "bytes")},
    "Expr": {
        "id": (2, "int64"),
        "select": (5, "Select"),
        "call": (6, "Call"),
        "list": (7, "List"),
        "struct": (8, "Struct"),
        "comprehension": (9, "Comprehension"),
    },
    "Select": {"operand": (1, "Expr")},
    "Call": {"target": (1, "Expr"), "args": (3, "*Expr")},
    "List": {"elements": (1, "*Expr")},
    "Struct": {"name": (1, "string"), "entries": (2, "*Entry")},
    "Entry": {"key": (3, "Expr"), "value": (4, "Expr")},
    "Comprehension": {
        "range": (2, "Expr"),
        "start": (4, "Expr"),
        "condition": (5, "Expr"),
        "step": (6, "Expr"),
        "result": (7, "Expr"),
    },
}


class CelError(Exception):
    """An API server would not compile an expression, or it failed."""


class Expression:
    """One expression; `variables` are the types of the names that it may use."""

    def __init__(self, text: str, variables: Mapping[str, Type]) -> None:
        self._text = text
        try:
            names = cel.NewEnv(_pool(), variables=variables, functions=_functions())
            self._compiled = names.compile(text)
        except RuntimeError as error:
            raise CelError(f"{error}\n{text}") from error
        _refuse_mixed(self._compiled, text)

    @property
    def type(self) -> Type:
        """What it is of, if it does not fail."""
        kind: Type = self._compiled.return_type()
        return kind

    def value(self, data: Mapping[str, Any]) -> Any:
        """Evaluate it: what JSON has, or messages for JSONPatch. Raises CelError."""
        value = self._compiled.eval(data=dict(data))
        if value.type() == Type.ERROR:
            raise CelError(f"{value.value()}\n{self._text}")
        return value.plain_value()


def operations(patches: Sequence[Message]) -> list[dict[str, Any]]:
    """Return values of the type JSONPatch as JSON has them."""
    return [json_format.MessageToDict(patch) for patch in patches]


def _functions() -> list[cel.FunctionDecl]:
    """Those of Kubernetes that the policies use.

    The extension for strings that comes with the library cannot stand beside an `indexOf` of lists.
    """
    text, texts = Type.STRING, Type.List(Type.STRING)
    return [
        _function("indexOf", Type.INT, [Type.List(DYN), text], lambda all_, one: all_.index(one)),
        _function("join", text, [texts, text], lambda parts, between: between.join(parts)),
        _function("split", texts, [text, text], str.split),
        _function("trim", text, [text], str.strip),
        _function("upperAscii", text, [text], str.upper),
    ]


def _function(
    name: str, returns: Type, takes: Sequence[Type], body: Callable[..., Any]
) -> cel.FunctionDecl:
    overload = cel.Overload(f"kubernetes_{name}", returns, takes, is_member=True, impl=body)
    return cel.FunctionDecl(name, [overload])


@functools.cache
def _pool() -> descriptor_pool.DescriptorPool:
    """Where the messages are known."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(struct.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name="kubernetes.proto", syntax="proto3", dependency=["google/protobuf/struct.proto"]
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            of, many = kind.lstrip("*"), kind.startswith("*")
            message.field.add(
                name=field,
                number=number,
                label=_FIELD.LABEL_REPEATED if many else _FIELD.LABEL_OPTIONAL,
                type=_KINDS.get(of, _FIELD.TYPE_MESSAGE),
                type_name=None if of in _KINDS else f".{of.lstrip('.')}",
            )
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def _refuse_mixed(compiled: cel.Expression, text: str) -> None:
    """Refuse a list or a map whose values are of several types, as API servers do.

    They have the option HomogeneousAggregateLiterals of cel-go.
    """
    packed = Packed.FromString(compiled.serialize())
    known = _pool().FindMessageTypeByName("Checked")
    checked: Any = message_factory.GetMessageClass(known).FromString(packed.value)
    types = {each.id: each.type for each in checked.types}
    for values in _aggregates(checked.expr):
        if len({types.get(each.id) for each in values}) > 1:
            raise CelError(f"a list or a map has values of several types\n{text}")


def _aggregates(expr: Any) -> Iterator[Sequence[Any]]:
    """Find the values of each list, and the keys and the values of each map."""
    if expr.HasField("list"):
        yield expr.list.elements
    if expr.HasField("struct") and not expr.struct.name:
        yield [each.key for each in expr.struct.entries]
        yield [each.value for each in expr.struct.entries]
    for part in _parts(expr):
        yield from _aggregates(part)


def _parts(message: Any) -> Iterator[Any]:
    """Return the expressions that stand directly within a message."""
    for field, value in message.ListFields():
        if field.type == _FIELD.TYPE_MESSAGE:
            for each in value if field.is_repeated else [value]:
                yield from [each] if field.message_type.name == "Expr" else _parts(each)
