"""Pickles that would run code, make files, or fill the memory: none may do anything of that."""

import pickle
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from tests.faults.checkpoint_damage import pth, read_and_compare, unchanged
from tests.faults.judging import MARKER, Case, Make, Sound
from tests.faults.processes import Call


def call(name: str, *arguments: bytes) -> bytes:
    """Opcodes that call `module:name` with arguments, which are opcodes, too."""
    module, attribute = name.split(":")
    return f"c{module}\n{attribute}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def text(value: str) -> bytes:
    """Opcodes of a string."""
    return f"V{value}\n".encode()


_TOUCH = f"touch {MARKER}"
_PYTHON = f"open('{MARKER}','w').close()"
_IMPORT = "__import__('os').system('" + _TOUCH + "')"
_GETATTR = "builtins:getattr"
_SHELL = b"(lp0\n" + text("touch") + b"a" + text(MARKER) + b"a"

_CALLS: dict[str, bytes] = {
    **{
        f"{module}.{name}": call(f"{module}:{name}", text(_TOUCH))
        for module, name in (
            ("os", "system"),
            ("posix", "system"),
            ("nt", "system"),
            ("os", "popen"),
            ("commands", "getoutput"),
            ("popen2", "popen3"),
            ("subprocess", "getoutput"),
            ("pty", "spawn"),
            ("platform", "popen"),
            ("_osx_support", "_find_build_tool"),
            ("numpy.distutils.exec_command", "exec_command"),
        )
    },
    **{
        f"{module}.{name}": call(f"{module}:{name}", _SHELL)
        for module, name in (
            ("subprocess", "Popen"),
            ("subprocess", "call"),
            ("subprocess", "check_output"),
            ("subprocess", "run"),
            ("distutils.spawn", "spawn"),
            ("asyncio", "create_subprocess_exec"),
            ("test.support.script_helper", "assert_python_ok"),
            ("torch.utils.cpp_extension", "_run_ninja_build"),
        )
    },
    **{
        f"{module}.{name}": call(f"{module}:{name}", text(_PYTHON))
        for module, name in (
            ("builtins", "eval"),
            ("builtins", "exec"),
            ("__builtin__", "eval"),
            ("__builtins__", "exec"),
            ("timeit", "timeit"),
            ("cProfile", "run"),
            ("profile", "run"),
            ("pdb", "run"),
            ("bdb", "Bdb.run"),
            ("trace", "Trace.run"),
            ("doctest", "debug_script"),
            ("torch._dynamo.guards", "eval"),
            ("numpy.testing._private.utils", "runstring"),
            ("numpy.f2py.crackfortran", "myeval"),
            ("torch.fx.graph_module", "_exec_with_source"),
            ("torch._inductor.codecache", "compile_file"),
            ("sympy", "sympify"),
            ("pandas", "eval"),
            ("jax.numpy", "load"),
        )
    },
    **{
        f"{module}.{name}": call(f"{module}:{name}", text(MARKER), text("w"))
        for module, name in (
            ("builtins", "open"),
            ("io", "open"),
            ("_io", "FileIO"),
            ("codecs", "open"),
            ("logging", "FileHandler"),
            ("sqlite3", "connect"),
            ("shelve", "open"),
            ("zipfile", "ZipFile"),
            ("tarfile", "open"),
            ("gzip", "open"),
            ("mailbox", "mbox"),
            ("dbm.dumb", "open"),
            ("pathlib", "Path.write_text"),
            ("os", "mkdir"),
            ("tempfile", "mkdtemp"),
            ("numpy", "memmap"),
            ("numpy", "save"),
            ("torch", "save"),
            ("h5py", "File"),
            ("torch.utils.tensorboard", "SummaryWriter"),
        )
    },
    **{
        f"{module}.{name}": call(f"{module}:{name}", text("marker.npy"))
        for module, name in (
            ("numpy", "load"),
            ("numpy", "fromfile"),
            ("torch", "load"),
            ("torch.serialization", "load"),
            ("torch.jit", "load"),
            ("torch.hub", "load"),
            ("torch.package", "PackageImporter"),
            ("torch.ops", "load_library"),
            ("torch.classes", "load_library"),
            ("torch.storage", "_load_from_bytes"),
            ("joblib", "load"),
            ("ctypes", "CDLL"),
            ("importlib", "import_module"),
            ("runpy", "run_path"),
            ("webbrowser", "open"),
            ("urllib.request", "urlopen"),
            ("socket", "create_connection"),
            ("pip", "main"),
            ("shutil", "rmtree"),
            ("pickle", "loads"),
            ("dill", "loads"),
            ("marshal", "loads"),
            ("numpy.ctypeslib", "load_library"),
        )
    },
    "codecs": call("_codecs:decode", text(_PYTHON), text("rot13")),
    "codecs-lookup": call("codecs:register", b"cposix\nsystem\n"),
    "getattr-of-os": call(_GETATTR, b"cos\nsystem\n", text("__call__")),
    "getattr-chain": call(
        _GETATTR, call(_GETATTR, b"cbuiltins\ngetattr\n", text("__self__")), text("eval")
    )
    + b"("
    + text(_PYTHON)
    + b"tR",
    "subclasses": call(
        _GETATTR, call(_GETATTR, b"cbuiltins\nobject\n", text("__class__")), text("__subclasses__")
    )
    + b")R",
    "dotted-eval": call("builtins:getattr.__self__.eval", text(_PYTHON)),
    "dotted-torch": call("torch:os.system", text(_TOUCH)),
    "dotted-ordered-dict": call("collections:OrderedDict.__init__.__globals__", text("x")),
    "map": call("builtins:map", b"cos\nsystem\n", _SHELL),
    "reduce": call("functools:reduce", b"cos\nsystem\n", _SHELL),
    "partial": call("functools:partial", b"cos\nsystem\n", text(_TOUCH)) + b")R",
    "attrgetter": call("operator:attrgetter", text("system")) + b"(cos\npath\ntR",
    "methodcaller": call("_operator:methodcaller", text("system"), text(_TOUCH)),
    "namedtuple": call("collections:namedtuple", text("A"), text("b")),
    "copyreg": call("copy_reg:_reconstructor", b"cos\n_wrap_close\n", b"cbuiltins\nobject\n", b"N"),
    "code-object": call("types:CodeType", b"K\x00" * 6),
    "function": call("types:FunctionType", b"N", b"}"),
    "setstate": b"ctrap\nThing\n)\x81}"
    + text("__setstate__")
    + b"cos\nsystem\nsb"
    + text(_TOUCH)
    + b"b",
    "build-on-a-class": b"ctorch\nTensor\nN}" + text("__reduce__") + b"cos\nsystem\ns\x86b",
    "build-on-ordered-dict": b"ccollections\nOrderedDict\n)R}" + text("items") + b"cos\nsystem\nsb",
    "rebuild-with-hooks": b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))\x89cos\nsystem\ntR",
    "inst": b"(" + text(_TOUCH) + b"ios\nsystem\n",
    "obj": b"(cos\nsystem\n" + text(_TOUCH) + b"o",
    "newobj": b"cos\nsystem\n(" + text(_TOUCH) + b"t\x81",
    "newobj-ex": b"\x80\x04cos\nsystem\n(" + text(_TOUCH) + b"t}\x92",
    "stack-global": text("os") + text("system") + b"\x93(" + text(_TOUCH) + b"tR",
    "stack-global-of-numbers": b"K\x01K\x02\x93(" + text(_TOUCH) + b"tR",
    "extension": b"\x82\x01",
    "extension-4": b"\x84\xff\xff\xff\x7f",
    "out-of-band": b"\x97",
    "persistent-id": b"Pos.system\n",
    "persistent-call": b"("
    + text("storage")
    + b"cos\nsystem\n"
    + text("0")
    + text("cpu")
    + b"K\x04tQ",
    "persistent-type": b"(" + text("storage") + call("builtins:eval", text(_PYTHON)) + b"tQ",
    "look-alike": call("\u043es:system", text(_TOUCH)),
    "space-before": call(" os:system", text(_TOUCH)),
    "nul-in-name": call("os\0:system", text(_TOUCH)),
    "no-module": call(":eval", text(_PYTHON)),
    "nested-pickle": call("_pickle:loads", b"C\x05" + b"N.N.N"),
    "module-here": call("trap:Trap", text(_TOUCH)),
    "unknown-opcode": b"\xff",
    "stop-twice": b"N.N",
}
"""Each leaves one value, if it is read at all."""

_BOMBS: dict[str, bytes] = {
    "billion-lists": b"]q\x00"
    + b"".join(
        b"](" + b"h" + bytes([n]) + b"h" + bytes([n]) + b"eq" + bytes([n + 1]) for n in range(60)
    ),
    "billion-tuples": b")q\x00"
    + b"".join(
        b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(60)
    ),
    "deep-tuples": b")" + b"\x85" * 300_000,
    "deep-lists": b"]" * 300_000 + b"a" * 299_999,
    "deep-marks": b"(" * 300_000,
    "deep-key": b"}" + b")" + b"\x85" * 300_000 + b"K\x01s",
    "many-values": b"N" * 3_000_000,
    "huge-number": b"\x8b\xff\xff\xff\x7f" + b"\xff" * 100,
    "long-number": b"I" + b"9" * 100_000 + b"\n",
    "huge-memo": b"Nr\xff\xff\xff\xff",
    "huge-frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN",
    "huge-string": b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc",
    "huge-bytes": b"B\xff\xff\xff\x7fabc",
    "huge-bytearray": b"\x96\xff\xff\xff\xff\xff\xff\xff\x7fabc",
    "string-of-8-megabytes": b"X" + (1 << 23).to_bytes(4, "little") + bytes(1 << 23),
    "underflow": b"0000",
    "underflow-build": b"b",
    "no-mark": b"t",
    "pop-mark": b"1",
    "memo-missing": b"h\xff",
    "dict-odd": b"(K\x01K\x02K\x03d",
    "append-to-a-number": b"K\x01K\x02a",
    "itself-in-itself": b"]q\x00h\x00a",
    "key-itself": b"}q\x00h\x00K\x01s",
    "protocol-255": b"\x80\xff",
}


def cases() -> Iterator[Case]:
    """All of them."""
    for name, gadget in (_CALLS | _BOMBS).items():
        kind = "pickle calls" if name in _CALLS else "pickle bombs"
        yield Case(kind, f"{name}-before", _read(gadget), unchanged)
        if "." not in name:
            yield Case(kind, f"{name}-alone", _export(gadget))


def _read(gadget: bytes) -> Make:
    """A sound checkpoint, whose pickle begins with a gadget and drops what it gives."""

    def make(sound: Sound, folder: Path) -> Call:
        (folder / "bad.pth").write_bytes(_archive(sound, gadget + b"0", keep=True))
        _trap(folder)
        arguments = ("bad.pth", str(sound.recipe), str(sound.checkpoint))
        return Call(arguments, read_and_compare)

    return make


def _export(gadget: bytes) -> Make:
    """Nothing but the gadget, as weights."""

    def make(sound: Sound, folder: Path) -> Call:
        as_weights = b"}" + pickle.dumps("state_dict", 2)[2:-1] + gadget + b"s."
        (folder / "bad.pth").write_bytes(_archive(sound, as_weights, keep=False))
        _trap(folder)
        return Call(("export", "bad.pth", "--recipe", str(sound.recipe), "--out", "out"))

    return make


def _trap(folder: Path) -> None:
    """What an import or a load would find in the current folder."""
    for name in ("trap.py", "marker.npy"):
        (folder / name).write_text(f"{_IMPORT}\n")


def _archive(sound: Sound, pickled: bytes, keep: bool) -> bytes:
    target = BytesIO()
    with zipfile.ZipFile(BytesIO(pth(sound))) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("/data.pkl"):
                data = b"\x80\x02" + pickled + (data[2:] if keep else b"")
            new.writestr(info.filename, data)
    return target.getvalue()
