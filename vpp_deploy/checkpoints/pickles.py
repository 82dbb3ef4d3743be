"""Reads a pickle without running anything: a small stack machine that cannot call or import.

Python's own unpickler calls what a pickle names. This one knows the opcodes (from `pickletools`,
which only disassembles) and rebuilds tensors and plain containers; every other name, call or
object becomes one inert placeholder. A machine of our own also has no C recursion to overflow and
no memo to blow up.
"""

import pickletools
from dataclasses import dataclass
from typing import TypeAlias

from vpp_deploy.checkpoints.pickle_names import INERT, STORAGE_DTYPES, Inert, Known, resolve
from vpp_deploy.errors import CheckpointError


@dataclass(frozen=True)
class Storage:
    """A record of the archive: `numel` elements of `dtype`, not read yet."""

    dtype: str
    record: str
    numel: int


@dataclass(frozen=True)
class LazyTensor:
    """A view of a storage; offset and stride count elements. Checked when it is read."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


Value: TypeAlias = object
"""str, bytes, int, float, bool, None, list, tuple, dict, LazyTensor, Storage, Known or Inert."""

_LITERAL_WORDS = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE "
    "BINUNICODE8"
)
_LITERALS = frozenset(_LITERAL_WORDS.split())
_MAX_AXES = 8
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


def unpickle(data: bytes) -> Value:
    """The object that a torch pickle describes, with tensors as references to storages.

    Raises:
        CheckpointError: the pickle is damaged, or it names something that could run code.
    """
    try:
        return _Machine().run(data)
    except CheckpointError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise CheckpointError(
            f"its pickle is damaged ({type(error).__name__}: {error}); download the file again"
        ) from error


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Value] = []
        self.marked: list[list[Value]] = []
        self.memo: dict[int, Value] = {}

    def run(self, data: bytes) -> Value:
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _LITERALS:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif not (self._memory(name, argument) or self._container(name)):
                self._object(name, argument)
        raise ValueError("no STOP opcode")

    def _memory(self, name: str, argument: object) -> bool:
        """Opcodes that move values about."""
        match name:
            case "PROTO" | "FRAME":
                pass
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                assert isinstance(argument, int)
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                assert isinstance(argument, int)
                self.stack.append(self.memo[argument])
            case "MARK":
                self.marked.append(self.stack)
                self.stack = []
            case "POP_MARK":
                self._since_mark()
            case "POP":
                if self.stack:
                    self.stack.pop()
                else:
                    self._since_mark()
            case "DUP":
                self.stack.append(self.stack[-1])
            case _:
                return False
        return True

    def _container(self, name: str) -> bool:
        """Opcodes that make and fill lists, tuples and dicts."""
        match name:
            case "EMPTY_LIST":
                self.stack.append([])
            case "EMPTY_TUPLE":
                self.stack.append(())
            case "EMPTY_DICT":
                self.stack.append({})
            case "EMPTY_SET":
                # Nothing that is read later is a set.
                self.stack.append(INERT)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self._pop(int(name[-1]))))
            case "TUPLE":
                items = self._since_mark()
                self.stack.append(tuple(items))
            case "LIST":
                items = self._since_mark()
                self.stack.append(items)
            case "DICT":
                items = self._since_mark()
                self.stack.append({})
                self._set_items(items)
            case "FROZENSET":
                self._since_mark()
                self.stack.append(INERT)
            case "APPEND":
                self._append(self._pop(1))
            case "APPENDS" | "ADDITEMS":
                self._append(self._since_mark())
            case "SETITEM":
                self._set_items(self._pop(2))
            case "SETITEMS":
                self._set_items(self._since_mark())
            case _:
                return False
        return True

    def _object(self, name: str, argument: object) -> None:
        """Opcodes that would import, make or call something."""
        match name:
            case "GLOBAL":
                self.stack.append(_named(argument))
            case "STACK_GLOBAL":
                module, attribute = self._pop(2)
                if not isinstance(module, str) or not isinstance(attribute, str):
                    raise TypeError("a global's name is not a string")
                self.stack.append(resolve(module, attribute))
            case "INST":
                _named(argument)
                self._since_mark()
                self.stack.append(INERT)
            case "OBJ":
                self._since_mark()
                self.stack.append(INERT)
            case "REDUCE" | "NEWOBJ":
                function, arguments = self._pop(2)
                self.stack.append(_rebuild(function, arguments))
            case "NEWOBJ_EX":
                self._pop(3)
                self.stack.append(INERT)
            case "BUILD":
                # A state would go into the object below. Ours have none: not even an OrderedDict's
                # attributes (torch puts `_metadata` there) are of use.
                self._pop(1)
            case "PERSID" | "BINPERSID":
                identity = self._pop(1)[0] if name == "BINPERSID" else argument
                self.stack.append(_storage(identity))
            case _:
                raise ValueError(f"opcode {name} has no place in a checkpoint")

    def _pop(self, count: int) -> list[Value]:
        if len(self.stack) < count:
            raise IndexError("stack underflow")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def _since_mark(self) -> list[Value]:
        items = self.stack
        self.stack = self.marked.pop()
        return items

    def _append(self, items: list[Value]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Inert):
            raise TypeError(f"items for a {type(target).__name__}")

    def _set_items(self, items: list[Value]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            # No key that is read later is anything but a string. Hashing what a pickle nests could
            # overflow the C stack, so other keys are left out.
            pairs = zip(items[::2], items[1::2], strict=True)
            target.update((key, value) for key, value in pairs if isinstance(key, str))
        elif not isinstance(target, Inert):
            raise TypeError(f"keys for a {type(target).__name__}")


def _named(argument: object) -> Known | Inert:
    """The global of an opcode that carries its name, which `genops` gives as "module name"."""
    assert isinstance(argument, str)
    module, _, attribute = argument.partition(" ")
    return resolve(module, attribute)


def _rebuild(function: Value, arguments: Value) -> Value:
    """What a call stands for: a dict, a tensor, or the placeholder. Calls nothing."""
    if not isinstance(function, Known):
        return INERT
    match function.name, arguments:
        case "OrderedDict", ():
            return {}
        case "_rebuild_tensor_v2", (Storage() as storage, offset, shape, stride, *_):
            return LazyTensor(storage, _int(offset), _ints(shape), _ints(stride))
        case "_rebuild_parameter", (LazyTensor() as tensor, *_):
            return tensor
    raise TypeError(f"{function.module}.{function.name} with unusual arguments")


def _storage(identity: Value) -> Storage:
    match identity:
        case ("storage", Known(module="torch", name=name), str(record), str(), numel):
            return Storage(STORAGE_DTYPES[name], record, _int(numel))
    raise TypeError("a reference to a storage of an unknown kind")


def _int(value: Value) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("a size, offset or stride is not a whole number >= 0")
    return value


def _ints(values: Value) -> tuple[int, ...]:
    if not isinstance(values, tuple) or len(values) > _MAX_AXES:
        raise TypeError(f"a shape or stride is no tuple of at most {_MAX_AXES} numbers")
    return tuple(_int(value) for value in values)
