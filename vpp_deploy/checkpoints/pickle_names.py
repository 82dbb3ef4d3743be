"""Which names in a pickle are refused, and which four are rebuilt (MODEL.md 6).

Nothing named by a pickle is ever imported or called, so the refusals are not what keeps us safe:
they tell the user that a file was made to attack its reader.
"""

from dataclasses import dataclass

from vpp_deploy.errors import CheckpointError

# Top-level modules that a pickle of weights has no business with.
_MODULE_WORDS = (
    "os posix nt posixpath ntpath sys subprocess _posixsubprocess commands popen2 pty shutil "
    "socket _socket ssl ctypes _ctypes cffi importlib _frozen_importlib imp runpy pkgutil "
    "zipimport _frozen_importlib_external code codeop pdb bdb webbrowser antigravity operator "
    "_operator marshal pickle _pickle cPickle dill cloudpickle joblib shelve multiprocessing "
    "asyncio concurrent threading _thread signal tempfile fileinput http urllib urllib2 requests "
    "httpx ftplib smtplib telnetlib xmlrpc pip setuptools distutils ensurepip venv site timeit "
    "trace cProfile profile doctest inspect gc io _io fcntl mmap platform pydoc idlelib tkinter "
    "cgitb sysconfig linecache atexit"
)
_DANGEROUS_MODULES = frozenset(_MODULE_WORDS.split())

_BUILTIN_WORDS = (
    "eval exec execfile compile open file __import__ input raw_input breakpoint globals locals "
    "vars setattr delattr apply reload exit quit help"
)
_DANGEROUS_BUILTINS = frozenset(_BUILTIN_WORDS.split())

# Harmless packages with entry points that read files or run code.
_DANGEROUS_NAMES = (
    "torch.load",
    "torch.hub",
    "torch.jit",
    "torch.ops",
    "torch.classes",
    "torch.package",
    "torch.serialization",
    "torch.storage._load_from_bytes",
    "torch.utils.cpp_extension",
    "torch._dynamo",
    "torch._inductor",
    "numpy.load",
    "numpy.loads",
    "numpy.fromfile",
    "numpy.memmap",
    "numpy.f2py",
    "numpy.distutils",
    "numpy.testing",
    "numpy.ctypeslib",
    "codecs.open",
    "types.CodeType",
    "types.FunctionType",
    "types.LambdaType",
    "types.MethodType",
)

_BUILTINS = ("builtins", "__builtin__", "__builtins__")

STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
"""Storage classes of the module `torch`, and the name of their dtype."""

_REBUILT = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    *(("torch", storage) for storage in STORAGE_DTYPES),
}


@dataclass(frozen=True)
class Known:
    """A name that the unpickler rebuilds itself: a token, not the thing that it names."""

    module: str
    name: str


class Inert:
    """Stands for everything else that a pickle names, makes or calls; it holds and does nothing."""

    __slots__ = ()


INERT = Inert()


def resolve(module: str, name: str) -> Known | Inert:
    """What a pickle gets for `module.name`: a token, or the inert placeholder.

    Raises:
        CheckpointError: the name is one that runs code or reaches outside.
    """
    if (module, name) in _REBUILT:
        return Known(module, name)
    full = f"{module}.{name}"
    parts = name.split(".")
    if (
        module.split(".")[0] in _DANGEROUS_MODULES
        or any(part in _DANGEROUS_MODULES for part in parts[:-1])
        or (module in _BUILTINS and not _DANGEROUS_BUILTINS.isdisjoint(parts))
        or any(full == entry or full.startswith(f"{entry}.") for entry in _DANGEROUS_NAMES)
    ):
        # `os` is an alias: pickles written on Linux say posix, on Windows nt.
        alias = f" (os.{name})" if module in ("posix", "nt") else ""
        raise CheckpointError(
            f"its pickle names {full[:200]!r}{alias}, which could run code; nothing was run; "
            "expected tensors and plain containers, so do not trust this file"
        )
    return INERT
