"""Invocations in processes of their own: a crash or a hang is one case's, and is seen as that.

Every call is a fork of a server that has imported everything once, so it starts in milliseconds.
"""

import multiprocessing
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

HANG_S = 60.0
"""Only to detect hangs: no call takes a tenth of it."""

MEMORY_BYTES = 8 << 30
"""Of address space, of which the libraries alone take 2 GiB."""

_PRELOADED = (
    "onnxruntime",
    "pycocotools.mask",
    "pytest",  # some of multiprocessing's children import their parent's main module
    "rich.progress_bar",
    "rich.status",
    "safetensors.torch",
    "torch._dynamo",  # the first module without memory, as models are made here, imports these
    "torch._refs",
    "vpp_deploy.cli.main",
    "vpp_deploy.export.bundle",
    "vpp_deploy.parity",
    "tests.faults.suite",
)

Reader = Callable[..., object]
"""A function that reads a file or a folder; what else it takes are paths, too."""


@dataclass(frozen=True)
class Call:
    """An invocation.

    Attributes:
        arguments: of the command line; of a reader, what it reads.
        reader: None: it is the command line that is called.
        file_bytes: the largest file that can be written, as if the disk were full; None: any.
    """

    arguments: tuple[str, ...]
    reader: Reader | None = None
    file_bytes: int | None = None


@dataclass(frozen=True)
class Ended:
    """How a call ended.

    Attributes:
        code: exit code; negative: of the signal that ended it; None: it hung, and was killed.
        stdout, stderr: what it said.
        peak_mb: its largest resident memory, the libraries' included; 0 where it was killed.
    """

    code: int | None
    stdout: str
    stderr: str
    peak_mb: float


def start_server() -> None:
    """Starts the server, which takes seconds to import everything."""
    root = Path(__file__).parents[2]
    # A thread of OpenMP for each core would spin beside those of other cases.
    wanted = {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": str(root)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        multiprocessing.set_forkserver_preload(list(_PRELOADED))
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def invoke(call: Call, folder: Path, hang_s: float = HANG_S) -> Ended:
    """Makes a call with `folder` as its current folder, and waits for its end."""
    return Running(call, folder).wait(hang_s)


class Running:
    """A call that is under way."""

    def __init__(self, call: Call, folder: Path) -> None:
        number = sum(1 for _ in folder.parent.glob(f"{folder.name}.said*"))
        self._said = folder.with_name(f"{folder.name}.said{number}")
        self._said.mkdir()
        context = multiprocessing.get_context("forkserver")
        self._process = context.Process(target=_child, args=(call, folder, self._said))
        self._process.start()

    def kill(self) -> None:
        """SIGKILL: nothing that it holds is put in order."""
        self._process.kill()

    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.exitcode is not None

    def wait(self, hang_s: float = HANG_S) -> Ended:
        """Its end; it is killed if that does not come."""
        self._process.join(hang_s)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            self._process.join()
        self._process.close()
        own, peak, out, err = (
            path.read_text(errors="replace") if path.exists() else ""
            for path in (self._said / name for name in ("code", "peak_mb", "stdout", "stderr"))
        )
        # Python 3.11: the server loses a code now and then, and says 255.
        return Ended(int(own) if own else code, out, err, float(peak or 0))


def _child(call: Call, folder: Path, said: Path) -> None:
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(said / name, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if call.file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (call.file_bytes, resource.RLIM_INFINITY))
    code = _exit_code(call)
    sys.stdout.flush()
    sys.stderr.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    (said / "peak_mb").write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
    (said / "code").write_text(str(code))
    os._exit(code)


def _exit_code(call: Call) -> int:
    from vpp_deploy.cli.main import main
    from vpp_deploy.errors import VppDeployError

    try:
        if call.reader is None:
            sys.argv = ["vpp-deploy", *call.arguments]
            main()
        else:
            call.reader(*map(Path, call.arguments))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except VppDeployError as error:  # of a reader: as the command line says it
        print(f"error: {error}", file=sys.stderr)
        return 1
    except AssertionError as wrong:  # of a case's own reader
        print(f"wrong: {wrong}", file=sys.stderr)
        return 98
    except BaseException:
        traceback.print_exc()
        return 99
    return 0
