"""Lists what TensorRT's published Python bindings name, without TensorRT's libraries.

The libraries cannot be had everywhere; the bindings are a small wheel on the public index, and need
of the libraries only a few symbols to be imported. Those come from a stub that is compiled here.

    pip download --no-deps tensorrt-cu13-bindings==11.4.0.106 --dest wheels
    python -m zipfile -e wheels/*.whl unpacked
    python tests/data/list_tensorrt_names.py unpacked tests/data/tensorrt_names-11.4.json
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MODULE = "tensorrt_bindings"
SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
CLASSES = (
    "Builder",
    "BuilderFlag",
    "DataType",
    "EngineInspector",
    "ExecutionContextAllocationStrategy",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILayer",
    "ILogger",
    "ILogger.Severity",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "IRuntimeConfig",
    "ITensor",
    "ITimingCache",
    "ITopKLayer",
    "LayerInformationFormat",
    "LayerType",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "ProfilingVerbosity",
    "Runtime",
)


def main() -> None:
    """Starts itself again where the stubs are found: the loader reads its path only once."""
    if len(sys.argv) == 2:
        print(json.dumps(names()))
        return
    unpacked, out = map(Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        compile_stubs(unpacked, Path(folder))
        result = subprocess.run(
            [sys.executable, __file__, "here"],
            env={**os.environ, "LD_LIBRARY_PATH": folder, "PYTHONPATH": str(unpacked)},
            capture_output=True,
            text=True,
            check=True,
        )
    out.write_text(json.dumps(json.loads(result.stdout), indent=1) + "\n")


def names() -> dict[str, object]:
    """The version, the module's names, and each class's."""
    module = importlib.import_module(MODULE)
    classes = {}
    for path in CLASSES:
        found: object = module
        for part in path.split("."):
            found = getattr(found, part, None)
        if found is not None:
            classes[path] = public(found)
    return {"version": module.__version__, "module": public(module), "classes": classes}


def public(found: object) -> list[str]:
    """Names without an underscore in front."""
    return sorted(name for name in dir(found) if not name.startswith("_"))


def compile_stubs(unpacked: Path, folder: Path) -> None:
    """Libraries that hold the symbols, and do nothing."""
    source = folder / "stub.c"
    source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS))
    (binary,) = (unpacked / MODULE).glob("tensorrt*.so")
    needed = binary.read_bytes()
    for library in LIBRARIES:
        for major in (10, 11):
            name = f"lib{library}.so.{major}"
            if name.encode() in needed:
                command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o"]
                subprocess.run([*command, str(folder / name), str(source)], check=True)


if __name__ == "__main__":
    main()
