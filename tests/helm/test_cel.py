"""That expressions are compiled and patches applied as API servers do it."""

import pytest
from cel_expr_python.cel import Type

from helm.admission import patched
from helm.cel import DYN, PATCHES, CelError, Expression, operations


def evaluated(text: str, thing: object = None) -> object:
    return Expression(text, {"object": DYN}).value({"object": thing})


@pytest.mark.parametrize(
    "text",
    [
        '[1, "text"]',
        '[dyn(1), "text"]',
        '{"a": 1, "b": "text"}',
        '{"a": 1, 2: 3}',
        '[{"a": "text"}, {"a": dyn(1)}]',
        '[1].map(n, {"a": n, "b": "text"})',
        '[JSONPatch{op: "add", value: [1, "text"]}]',
    ],
)
def test_values_of_several_types_in_one_list_or_map_are_refused(text: str) -> None:
    with pytest.raises(CelError, match="of several types"):
        Expression(text, {})


@pytest.mark.parametrize(
    "text",
    [
        '[dyn(1), dyn("text")]',
        '{"a": ["x"], "b": ["y", "z"]}',
        '[{"a": dyn(1)}, {"b": dyn("text")}]',
    ],
)
def test_values_of_one_type_are_taken(text: str) -> None:
    Expression(text, {})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('"text" + 1', "no matching overload"),
        ("unknown", "undeclared reference"),
        ("object.spec.", "Syntax error"),
        ('JSONPatch{oops: "add"}', "undefined field"),
        ('["a"].map(i, i + 1)', "no matching overload"),
    ],
)
def test_what_does_not_compile_is_refused(text: str, why: str) -> None:
    with pytest.raises(CelError, match=why):
        Expression(text, {"object": DYN})


def test_what_fails_is_no_value() -> None:
    with pytest.raises(CelError, match="not found"):
        evaluated("object.spec.missing", {"spec": {}})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('["a", "b"].indexOf("b")', 1),
        ('" a , b ".split(",").map(each, each.trim())', ["a", "b"]),
        ('["a", "b"].join("-")', "a-b"),
        ('"no_proxy".upperAscii()', "NO_PROXY"),
        ("object.containers.map(each, each.name).indexOf('b')", 1),
    ],
)
def test_the_functions_of_kubernetes_are_there(text: str, value: object) -> None:
    assert evaluated(text, {"containers": [{"name": "a"}, {"name": "b"}]}) == value


def test_a_patch_is_a_type_of_its_own() -> None:
    text = '[JSONPatch{op: "add", path: "/a", value: {"n": dyn(1), "t": dyn(["x"])}}]'
    expression = Expression(text, {})
    assert str(expression.type) == PATCHES
    patch = operations(expression.value({}))
    assert patch == [{"op": "add", "path": "/a", "value": {"n": 1, "t": ["x"]}}]


def test_the_type_of_a_variable_is_known() -> None:
    with pytest.raises(CelError, match="no matching overload"):
        Expression("variables.image + 1", {"variables.image": Type.STRING})


@pytest.mark.parametrize(
    ("path", "value", "result"),
    [
        ("/b", 2, {"a": [1, 2]} | {"b": 2}),
        ("/a", [], {"a": []}),
        ("/a/-", 3, {"a": [1, 2, 3]}),
        ("/a/0", 0, {"a": [0, 1, 2]}),
        ("/x~1y~0z", 1, {"a": [1, 2], "x/y~z": 1}),
    ],
)
def test_a_patch_adds_as_rfc_6902_has_it(path: str, value: object, result: object) -> None:
    before = {"a": [1, 2]}
    assert patched(before, [{"op": "add", "path": path, "value": value}]) == result
    assert before == {"a": [1, 2]}


@pytest.mark.parametrize("path", ["/missing/b", "/a/7/b", "/a/3"])
def test_a_patch_needs_the_place_to_be_there(path: str) -> None:
    with pytest.raises((AssertionError, LookupError)):
        patched({"a": [1, 2]}, [{"op": "add", "path": path, "value": 1}])
