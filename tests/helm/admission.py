"""What a cluster makes of objects as they are created: its admission policies, of both kinds.

As in https://kubernetes.io/docs/reference/access-authn-authz/mutating-admission-policy/: what
mutates comes first, then what validates. Both fail closed here, so an expression that fails fails
the test.
"""

import copy
import json
from collections.abc import Iterable, Mapping
from typing import Any

from cel_expr_python.cel import Type

from helm.cel import DYN, PATCHES, Expression, operations
from helm.engine import Object

PLURALS = {
    "Pod": "pods",
    "Deployment": "deployments",
    "StatefulSet": "statefulsets",
    "DaemonSet": "daemonsets",
    "Job": "jobs",
    "CronJob": "cronjobs",
}


class DeniedError(Exception):
    """An object is not admitted; the text is what its author reads."""


class Cluster:
    """A cluster that has these objects, of which its policies and their bindings count."""

    def __init__(self, objects: Iterable[Object]) -> None:
        things = list(objects)
        self._mutating = _bound(things, "MutatingAdmissionPolicy")
        self._validating = _bound(things, "ValidatingAdmissionPolicy")

    def admit(self, thing: Object, *, operation: str = "CREATE", namespace: str = "shop") -> Object:
        """Return what is stored. Raises DeniedError."""
        stored = self.mutate(thing, operation=operation, namespace=namespace)
        found = self.complaints(stored, operation=operation, namespace=namespace)
        if found:
            raise DeniedError("\n".join(found))
        return stored

    def mutate(
        self, thing: Object, *, operation: str = "CREATE", namespace: str = "shop"
    ) -> Object:
        """Return what the policies make of an object, which stays as it is."""
        for policy in self._mutating:
            if policy.concerns(thing, operation, namespace):
                thing = policy.mutated(thing)
        return thing

    def complaints(
        self, thing: Object, *, operation: str = "CREATE", namespace: str = "shop"
    ) -> list[str]:
        """Return why the object as it is would be denied."""
        return [
            text
            for policy in self._validating
            if policy.concerns(thing, operation, namespace)
            for text in policy.complaints(thing)
        ]


class Policy:
    """A policy and where it is bound; all that it says must compile."""

    def __init__(self, policy: Object, binding: Object) -> None:
        spec = policy["spec"]
        self._rules = spec["matchConstraints"]["resourceRules"]
        self._namespaces = binding["spec"]["matchResources"]["namespaceSelector"]
        self._conditions = [
            _compiled(each["expression"], {}, "BOOL") for each in spec.get("matchConditions", ())
        ]
        self._variables: dict[str, Expression] = {}
        types: dict[str, Type] = {}
        for each in spec.get("variables", ()):
            # Without JSONPatch: API servers know that in mutations only.
            name = f"variables.{each['name']}"
            self._variables[name] = Expression(each["expression"], {"object": DYN, **types})
            types[name] = self._variables[name].type
        assert {each["patchType"] for each in spec.get("mutations", ())} <= {"JSONPatch"}
        self._mutations = [
            _compiled(each["jsonPatch"]["expression"], types, PATCHES)
            for each in spec.get("mutations", ())
        ]
        self._validations = [
            (_compiled(each["expression"], types, "BOOL"), _message(each, types))
            for each in spec.get("validations", ())
        ]

    def concerns(self, thing: Object, operation: str, namespace: str) -> bool:
        return (
            any(_names(rule, thing, operation) for rule in self._rules)
            and _selects(self._namespaces, {"kubernetes.io/metadata.name": namespace})
            and all(condition.value({"object": thing}) for condition in self._conditions)
        )

    def mutated(self, thing: Object) -> Object:
        for mutation in self._mutations:
            thing = patched(thing, operations(mutation.value(self._data(thing))))
        return thing

    def complaints(self, thing: Object) -> list[str]:
        data = self._data(thing)
        return [message.value(data) for rule, message in self._validations if not rule.value(data)]

    def _data(self, thing: Object) -> dict[str, Any]:
        data = {"object": thing}
        for name, variable in self._variables.items():
            data[name] = variable.value(data)
        return data


def _compiled(text: str, variables: Mapping[str, Type], kind: str) -> Expression:
    expression = Expression(text, {"object": DYN, **variables})
    assert str(expression.type) == kind, f"{expression.type}: {text}"
    return expression


def _message(rule: Mapping[str, str], variables: Mapping[str, Type]) -> Expression:
    text = rule.get("messageExpression") or json.dumps(rule["message"])
    return _compiled(text, variables, "STRING")


def patched(document: Object, patch: Iterable[Mapping[str, Any]]) -> Object:
    """Apply a JSON patch (RFC 6902), whose operations are all `add`."""
    document = copy.deepcopy(document)
    for operation in patch:
        assert operation["op"] == "add"
        *parents, last = [_unescaped(part) for part in operation["path"].split("/")[1:]]
        place: Any = document
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        value = _whole_numbers(operation["value"])
        if isinstance(place, list):
            index = len(place) if last == "-" else int(last)
            assert index <= len(place)
            place.insert(index, value)
        else:
            place[last] = value
    return document


def _unescaped(part: str) -> str:
    return part.replace("~1", "/").replace("~0", "~")


def _whole_numbers(value: Any) -> Any:
    """JSON does not tell 1 from 1.0, and a pod has whole numbers only."""
    match value:
        case dict():
            return {name: _whole_numbers(each) for name, each in value.items()}
        case list():
            return [_whole_numbers(each) for each in value]
        case float():
            return int(value)
    return value


def _bound(things: Iterable[Object], kind: str) -> list[Policy]:
    policies = {each["metadata"]["name"]: each for each in things if each["kind"] == kind}
    bindings = [each for each in things if each["kind"] == f"{kind}Binding"]
    return [Policy(policies[each["spec"]["policyName"]], each) for each in bindings]


def _names(rule: Mapping[str, Any], thing: Object, operation: str) -> bool:
    group, _, version = thing["apiVersion"].rpartition("/")
    return (
        group in rule["apiGroups"]
        and version in rule["apiVersions"]
        and PLURALS.get(thing["kind"]) in rule["resources"]
        and operation in rule["operations"]
    )


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    for each in selector.get("matchExpressions", ()):
        among = labels.get(each["key"]) in each["values"]
        assert each["operator"] in ("In", "NotIn")
        wanted = wanted and among == (each["operator"] == "In")
    return bool(wanted)
