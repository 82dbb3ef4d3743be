"""Reads mmengine config text as data: parsed, never run.

The text that a checkpoint carries is Python, `model = dict(...)` with the base files merged in.
Only literals, dicts, lists, arithmetic on numbers and names bound to such values are understood;
all else counts as unknown.
"""

import ast
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import TypeGuard

_MAX_CHARACTERS = 1 << 20

_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


class _Unknown:
    """A value that only running the text would tell."""


UNKNOWN = _Unknown()

_MAX_NUMBER = 2**63


def config_values(text: str | None) -> dict[str, object]:
    """The values of the names that a config text binds at top level.

    Dicts have string keys, tuples come as lists, and what is not understood is `UNKNOWN`. A text
    that is no Python, or that is nested too deeply, says nothing.
    """
    if text is None or len(text) > _MAX_CHARACTERS:
        return {}
    names: dict[str, object] = {}
    try:
        for statement in ast.parse(text).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    names[name] = _value(value, names)
                case ast.Expr(value=ast.Constant()):
                    pass
                case _:
                    # It may change any name that it mentions, imports or defines.
                    for node in ast.walk(statement):
                        for field in ("id", "name", "asname"):
                            mentioned = getattr(node, field, None)
                            if isinstance(mentioned, str):
                                names[mentioned] = UNKNOWN
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return names


def find_value(values: Mapping[str, object], dotted: str) -> object:
    """The value at a path of the model, with or without `detector` around it; else `UNKNOWN`."""
    for path in (f"model.detector.{dotted}", f"model.{dotted}"):
        value: object = values
        for key in path.split("."):
            value = value.get(key, UNKNOWN) if isinstance(value, dict) else UNKNOWN
        if value is not UNKNOWN:
            return value
    return UNKNOWN


def _value(node: ast.expr, names: Mapping[str, object]) -> object:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return names.get(name, UNKNOWN)
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item, names) for item in items]
        case ast.Dict(keys=keys, values=values):
            pairs = [(None if key is None else _value(key, names)) for key in keys]
            return _merged({}, zip(pairs, (_value(value, names) for value in values), strict=True))
        case ast.Call(func=ast.Name(id="dict"), args=arguments, keywords=keywords) if (
            "dict" not in names and len(arguments) <= 1
        ):
            base = _value(arguments[0], names) if arguments else {}
            if not isinstance(base, dict):
                return UNKNOWN
            return _merged(base, ((word.arg, _value(word.value, names)) for word in keywords))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            number = _value(operand, names)
            return -number if _is_number(number) else UNKNOWN
        case ast.BinOp(left=left, op=symbol, right=right) if type(symbol) in _ARITHMETIC:
            return _calculate(type(symbol), _value(left, names), _value(right, names))
    return UNKNOWN


def _merged(base: dict[str, object], pairs: Iterable[tuple[object, object]]) -> object:
    """`base` with the pairs on top; a key of None is a `**`."""
    result = dict(base)
    for key, value in pairs:
        if isinstance(key, str):
            result[key] = value
        elif key is None and isinstance(value, dict):
            result |= value
        else:
            return UNKNOWN
    return result


def _calculate(symbol: type[ast.operator], left: object, right: object) -> object:
    if not (_is_number(left) and _is_number(right)):
        return UNKNOWN
    try:
        result = _ARITHMETIC[symbol](left, right)
    except ArithmeticError:
        return UNKNOWN
    # A few lines of `a = a * a` would otherwise make numbers that no memory holds.
    return result if abs(result) < _MAX_NUMBER else UNKNOWN


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
