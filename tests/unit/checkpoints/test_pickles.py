"""Attacks on the pickle machine: whatever a pickle says, nothing is imported, called or filled."""

import collections
import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_deploy.checkpoints.pickle_names import INERT
from vpp_deploy.checkpoints.pickles import LazyTensor, Storage, unpickle
from vpp_deploy.errors import CheckpointError

PROTOCOLS = range(6)
STORAGE = (
    b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
)


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_containers_come_back_as_they_were(protocol: int) -> None:
    value = {
        "list": [1, -(2**70), 1.5, True, False, None, "a\u00e9\n", b"\x00\xff"],
        "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "dict": {"a": {"b": []}},
    }
    got = unpickle(pickle.dumps(value, protocol))
    if protocol < 3:
        # Old protocols write bytes as a call of _codecs.encode, which stays a placeholder.
        assert isinstance(got, dict)
        assert got["list"][-1] in (INERT, b"\x00\xff")
        got["list"][-1] = b"\x00\xff"
    assert got == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_containers_that_hold_themselves(protocol: int) -> None:
    value: dict[str, Any] = {"list": []}
    value["self"] = value
    value["list"].append(value["list"])
    got = unpickle(pickle.dumps(value, protocol))
    assert isinstance(got, dict)
    assert got["self"] is got
    assert got["list"][0] is got["list"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_leftovers_become_inert(protocol: int) -> None:
    value = {
        "counter": collections.Counter("aab"),
        "path": Path("work_dirs"),
        "set": {1, 2},
        "frozen": frozenset({1}),
        "range": range(3),
        "kept": 7,
    }
    got = unpickle(pickle.dumps(value, protocol))
    assert isinstance(got, dict)
    assert got.pop("kept") == 7
    assert set(got.values()) == {INERT}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_ordered_dict_is_a_dict_without_attributes(protocol: int) -> None:
    value = collections.OrderedDict(a=1)
    value._metadata = {"version": 2}  # type: ignore[attr-defined]
    got = unpickle(pickle.dumps(value, protocol))
    assert type(got) is dict
    assert got == {"a": 1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_call_of_os_system_is_refused_by_name_and_never_made(
    protocol: int, tmp_path: Path
) -> None:
    proof = tmp_path / "proof"
    data = pickle.dumps({"state_dict": Calls(os.system, f"touch {proof}")}, protocol)
    with pytest.raises(CheckpointError, match=r"posix\.system.*\(os\.system\).*nothing was run"):
        unpickle(data)
    assert not proof.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("os", "path.join"),
        ("posix", "system"),
        ("nt", "system"),
        ("subprocess", "Popen"),
        ("sys", "modules"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "open"),
        ("builtins", "compile"),
        ("builtins", "__import__"),
        ("__builtin__", "eval"),
        ("__builtin__", "execfile"),
        ("builtins", "getattr.__self__.eval"),
        ("shutil", "rmtree"),
        ("socket", "socket"),
        ("importlib", "import_module"),
        ("importlib._bootstrap", "_load"),
        ("runpy", "run_path"),
        ("ctypes", "CDLL"),
        ("pty", "spawn"),
        ("code", "interact"),
        ("pdb", "run"),
        ("webbrowser", "open"),
        ("operator", "attrgetter"),
        ("_operator", "methodcaller"),
        ("types", "CodeType"),
        ("torch", "load"),
        ("torch", "hub.load"),
        ("torch.hub", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch", "os.system"),
        ("numpy", "load"),
        ("pickle", "loads"),
        ("multiprocessing.util", "spawnv_passfds"),
    ],
)
@pytest.mark.parametrize("form", ["GLOBAL", "STACK_GLOBAL", "INST"])
def test_dangerous_names_are_refused_by_name(module: str, name: str, form: str) -> None:
    raw_module, raw_name = module.encode(), name.encode()
    data = {
        "GLOBAL": b"c" + raw_module + b"\n" + raw_name + b"\n.",
        "STACK_GLOBAL": pickle.dumps(module, 0)[:-1] + pickle.dumps(name, 0)[:-1] + b"\x93.",
        "INST": b"(i" + raw_module + b"\n" + raw_name + b"\n.",
    }[form]
    with pytest.raises(CheckpointError) as caught:
        unpickle(data)
    assert f"{module}.{name}" in str(caught.value)


@pytest.mark.parametrize("module", [b"builtins", b"__builtin__"])
def test_getattr_gadgets_are_inert(module: bytes) -> None:
    getattr_ = b"c" + module + b"\ngetattr\n"
    # getattr(HistoryBuffer, 'mean') is what honest files hold; then call the result, twice over.
    honest = getattr_ + b"(cmmengine.logging.history_buffer\nHistoryBuffer\nS'mean'\ntR"
    assert unpickle(honest + b".") is INERT
    assert unpickle(honest + b"(S'touch /tmp/x'\ntR(S'again'\ntR.") is INERT
    # getattr(getattr, '__self__') would be the module of builtins, and so the way to eval.
    chain = getattr_ + b"(" + getattr_ + b"S'__self__'\ntR"
    assert unpickle(getattr_ + b"(" + chain + b"S'eval'\ntR(S'1/0'\ntR.") is INERT


def test_getattr_of_os_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"os\.system"):
        unpickle(b"cbuiltins\ngetattr\n(cos\nsystem\nS'__call__'\ntR.")


def test_unknown_modules_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proof = tmp_path / "proof"
    (tmp_path / "trap_module.py").write_text(f"open({str(proof)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert unpickle(b"ctrap_module\nTrap\n)\x81}S'a'\nK\x01sb.") is INERT
    assert not proof.exists()
    assert "trap_module" not in sys.modules


@pytest.mark.parametrize(
    "data",
    [
        b"cx\nY\n)R(K\x01K\x02e.",  # APPENDS
        b"cx\nY\n)RK\x01a.",  # APPEND
        b"cx\nY\n)RS'k'\nK\x01s.",  # SETITEM
        b"cx\nY\n)R(S'k'\nK\x01u.",  # SETITEMS
        b"cx\nY\n)R(K\x01\x90.",  # ADDITEMS
        b"cx\nY\n)R}S'__class__'\ncx\nZ\nsb.",  # BUILD
        b"cx\nY\nN}S'__setstate__'\nK\x01s\x86b.",  # BUILD with slots, on the class
        b"(cx\nY\nK\x01o.",  # OBJ
        b"(K\x01ix\nY\n.",  # INST
        b"\x80\x04cx\nY\n)}\x92.",  # NEWOBJ_EX
    ],
)
def test_placeholders_hold_nothing(data: bytes) -> None:
    assert unpickle(data) is INERT
    assert not hasattr(INERT, "__dict__")


def test_a_dicts_attributes_cannot_be_set() -> None:
    got = unpickle(b"ccollections\nOrderedDict\n)R}S'items'\nK\x01sb.")
    assert type(got) is dict
    assert list(got.items()) == []


def test_the_rebuilders_take_no_attributes() -> None:
    state = b"N}S'__defaults__'\nK\x01s\x86b0"
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    got = unpickle(rebuild + state + rebuild + STORAGE + b"K\x00K\x04\x85K\x01\x85\x89NtR.")
    assert got == LazyTensor(Storage("float32", "0", 4), 0, (4,), (1,))


@pytest.mark.parametrize(
    "tail",
    [
        b"K\x00K\x04\x85K\x01\x85\x89NtR.",
        b"K\x00K\x04\x85K\x01\x85\x89NN}tR.",
    ],
)
def test_a_parameter_is_its_tensor(tail: bytes) -> None:
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n" + STORAGE + tail[:-1]
    got = unpickle(b"ctorch._utils\n_rebuild_parameter\n(" + tensor + b"\x88NtR.")
    assert isinstance(got, LazyTensor)
    assert got.shape == (4,)


@pytest.mark.parametrize(
    "arguments",
    [
        b"J\xff\xff\xff\xffK\x04\x85K\x01\x85\x89NtR.",  # negative offset
        b"K\x00J\xff\xff\xff\xff\x85K\x01\x85\x89NtR.",  # negative size
        b"K\x00K\x04\x85J\xff\xff\xff\xff\x85\x89NtR.",  # negative stride
        b"K\x00K\x04K\x01\x89NtR.",  # sizes that are no tuple
        b"K\x00S'4'\n\x85K\x01\x85\x89NtR.",  # a size that is no number
        b"K\x00(" + b"K\x01" * 9 + b"t(" + b"K\x01" * 9 + b"t\x89NtR.",  # nine axes
        b"tR.",  # too few arguments
    ],
)
def test_malformed_tensors_are_refused(arguments: bytes) -> None:
    with pytest.raises(CheckpointError, match="damaged"):
        unpickle(b"ctorch._utils\n_rebuild_tensor_v2\n" + STORAGE + arguments)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"K\x01",  # no STOP
        b"\x80\x02}q",  # cut short
        b"h\x07.",  # unknown memo entry
        b"t.",  # no mark
        b"R.",
        b"K\x01K\x02a.",  # append to a number
        b"(K\x01d.",  # odd dict
        b"\x82\x01.",  # extension registry
        b"\x97.",  # out-of-band buffer
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",  # bytes of 2**63
        b"\xff.",
        b"L" + b"9" * 10000 + b"L\n.",  # a number too long for Python
        b"Pstorage\n.",
        b"(S'storage'\ncx\nY\nS'0'\nS'cpu'\nK\x04tQ.",  # unknown storage type
    ],
)
def test_damaged_pickles_are_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError, match="damaged"):
        unpickle(data)


def test_deep_nesting_does_not_overflow() -> None:
    depth = 200_000
    deep = b")" + b"\x85" * depth
    assert isinstance(unpickle(deep + b"."), tuple)
    # A deep tuple as a key: its hash would overflow the C stack.
    assert unpickle(b"}" + deep + b"K\x01s.") == {}
    assert isinstance(unpickle(b"]" * depth + b"a" * (depth - 1) + b"."), list)


def test_a_huge_memo_index_costs_nothing() -> None:
    assert unpickle(b"K\x01r\xff\xff\xff\xffj\xff\xff\xff\xff.") == 1


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(CheckpointError):
        unpickle(data)


def test_an_attack_in_a_fresh_process_leaves_no_trace(tmp_path: Path) -> None:
    """End to end, with audit hooks: no import and no process on the pickle's behalf."""
    script = tmp_path / "attack.py"
    script.write_text(
        "import sys\n"
        "from vpp_deploy.checkpoints.pickles import unpickle\n"
        "seen = []\n"
        "sys.addaudithook(lambda event, args: seen.append(event))\n"
        "unpickle(b'cantigravity_like\\nX\\n(S\"a\"\\ntRcbuiltins\\ngetattr\\n(NNtR0.')\n"
        "bad = [e for e in seen if e.startswith(('import', 'os.', 'subprocess', 'exec', 'open',\n"
        "                                        'compile', 'pickle'))]\n"
        "assert not bad, bad\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
