"""torch's zip files: the pickle inside, and tensors as checked views of its records.

A record is read when a tensor of it is asked for, so an optimizer's state costs nothing.
"""

import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from vpp_deploy.checkpoints.pickles import LazyTensor, Storage, Value, unpickle
from vpp_deploy.errors import CheckpointError

_PICKLE = "data.pkl"
_MAX_PICKLE_BYTES = 1 << 29

# What zipfile raises for one damaged archive or another.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    IndexError,
)


class TorchArchive:
    """An open .pth file, a context manager.

    Raises:
        CheckpointError: the file cannot be opened, or is no zip file of torch.save.
    """

    def __init__(self, path: Path) -> None:
        self._storages: dict[Storage, torch.Tensor] = {}
        try:
            if not zipfile.is_zipfile(path):
                raise CheckpointError(_not_a_zip(path))
            self._zip = zipfile.ZipFile(path)
        except _ZIP_ERRORS as error:
            raise CheckpointError(f"cannot open it ({error}); expected a .pth file") from error
        self._records = {info.filename: info for info in self._zip.infolist()}
        pickles = [name for name in self._records if name.split("/")[1:] == [_PICKLE]]
        if len(pickles) != 1:
            self._zip.close()
            raise CheckpointError(
                f"it is a zip file with {len(pickles)} pickles; expected one {_PICKLE}, as "
                "torch.save writes it"
            )
        # Records that overlap would let a small file fill any memory.
        if sum(info.compress_size for info in self._records.values()) > path.stat().st_size:
            self._zip.close()
            raise CheckpointError("its records overlap; expected a file written by torch.save")
        self._folder = pickles[0].removesuffix(_PICKLE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._zip.close()

    def load(self) -> Value:
        """The saved object, tensors as `LazyTensor`.

        Raises:
            CheckpointError: the pickle is damaged, too large, or names something dangerous.
        """
        order = f"{self._folder}byteorder"
        if order in self._records and self._read(order).strip() != b"little":
            raise CheckpointError("its bytes are big-endian; save it on a little-endian machine")
        size = self._records[f"{self._folder}{_PICKLE}"].file_size
        if size > _MAX_PICKLE_BYTES:
            raise CheckpointError(
                f"its pickle has {size} bytes; expected {_MAX_PICKLE_BYTES} at most"
            )
        return unpickle(self._read(f"{self._folder}{_PICKLE}"))

    def tensor(self, lazy: LazyTensor) -> torch.Tensor:
        """Read a tensor: a view of its storage, which tensors that share it share.

        Raises:
            CheckpointError: the record is missing, damaged or too small, or the view leaves it.
        """
        flat = self._storages.get(lazy.storage)
        if flat is None:
            flat = self._storage(lazy.storage)
            self._storages[lazy.storage] = flat
        _check_view(lazy)
        try:
            return flat.as_strided(lazy.shape, lazy.stride, lazy.offset)
        except (RuntimeError, OverflowError, TypeError, ValueError) as error:
            raise CheckpointError(f"a tensor of shape {lazy.shape} cannot be made") from error

    def _storage(self, storage: Storage) -> torch.Tensor:
        name = f"{self._folder}data/{storage.record}"
        if name not in self._records:
            raise CheckpointError(f"its record {name} is missing; download the file again")
        dtype: torch.dtype = getattr(torch, storage.dtype)
        expected = storage.numel * dtype.itemsize
        size = self._records[name].file_size
        if size != expected:
            raise CheckpointError(
                f"its record {name} has {size} bytes; expected {expected}; download the file again"
            )
        if size == 0:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(bytearray(self._read(name)), dtype=dtype)

    def _read(self, name: str) -> bytes:
        """A record's bytes; its checksum is checked by zipfile."""
        info = self._records[name]
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise CheckpointError(
                f"its record {name} is compressed; torch.save stores records as they are, so this "
                "file was repacked; expected the original"
            )
        try:
            return self._zip.read(info)
        except _ZIP_ERRORS as error:
            raise CheckpointError(
                f"its record {name} is damaged ({error}); download the file again"
            ) from error


def _check_view(lazy: LazyTensor) -> None:
    """Every element inside the storage, and no more elements than it has.

    The second rule keeps a stride of 0 from turning four bytes into terabytes.
    """
    if len(lazy.shape) != len(lazy.stride):
        raise CheckpointError(f"a tensor has shape {lazy.shape} and strides {lazy.stride}")
    count = 1
    for size in lazy.shape:
        count *= size
    last = lazy.offset + sum((n - 1) * s for n, s in zip(lazy.shape, lazy.stride, strict=True))
    room = lazy.storage.numel
    if count and (last >= room or count > room):
        raise CheckpointError(
            f"a tensor of shape {lazy.shape}, strides {lazy.stride} and offset {lazy.offset} "
            f"leaves its storage of {room} elements; download the file again"
        )


def _not_a_zip(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(2)
    if start[:1] == b"\x80":
        return (
            "it is in torch's format from before 1.6, a bare pickle, which is not read; save it "
            "again with a newer torch"
        )
    return "it is no zip file (cut short, or no checkpoint); expected a .pth written by torch.save"
