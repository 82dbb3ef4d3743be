import collections
import hashlib
import io
import json
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vpp_deploy.checkpoints.archives import TorchArchive
from vpp_deploy.checkpoints.reader import Checkpoint, read_checkpoint
from vpp_deploy.errors import CheckpointError
from vpp_deploy.models.config import YOUTUBE_VIS_2021

WEIGHTS = {
    "detector.backbone.up.weight": torch.arange(24.0).reshape(2, 3, 4),
    "detector.backbone.blocks.3.TransformerEncoderLayer.self_attn.in_proj_bias": torch.ones(6),
    "detector.backbone.blocks.11.TransformerEncoderLayer.linear2.weight": torch.zeros(2, 2),
    "detector.backbone.blocks.0.TransformerEncoderLayer.norm1.weight": torch.ones(2),
    "detector.backbone.blocks.1.attn.proj.weight": torch.ones(2, 2),
    "detector.backbone.selective_modules.0.mlp.fc1.weight": torch.ones(3, 2),
    "detector.backbone.norm1.num_batches_tracked": torch.tensor(7),
}
CANONICAL = {
    "backbone.up.weight",
    "backbone.blocks.3.attn.qkv.bias",
    "backbone.blocks.11.mlp.fc2.weight",
    "backbone.blocks.0.norm1.weight",
    "backbone.blocks.1.attn.proj.weight",
    "backbone.selective_modules.0.mlp.fc1.weight",
    "backbone.norm1.num_batches_tracked",
}


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def saved(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


def repacked(source: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """A copy of an archive whose records went through `change`; None leaves one out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = change(info.filename, old.read(info))
            if data is not None:
                new.writestr(info.filename, data)
    return target


def patched(tmp_path: Path, old: bytes, new: bytes) -> Path:
    """A small checkpoint whose pickle has `old` replaced, once."""
    source = saved(tmp_path / "whole.pth", {"w": torch.arange(6.0).reshape(2, 3)})

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("data.pkl"):
            return data
        assert data.count(old) == 1
        return data.replace(old, new)

    return repacked(source, tmp_path / "patched.pth", change)


def test_the_real_training_checkpoint(shared: Path) -> None:
    path = shared / "checkpoints" / "mmengine_training_checkpoint.pth"
    checkpoint = read_checkpoint(path)
    assert checkpoint.classes == YOUTUBE_VIS_2021
    assert checkpoint.config_text is not None
    assert checkpoint.config_text.startswith("model = dict(type='Toy')")
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.tensors["cls.weight"].shape == (41, 4)
    assert int(checkpoint.tensors["backbone.1.num_batches_tracked"]) == 4
    with zipfile.ZipFile(path) as archive:
        raw = archive.read("archive/data/0")
    assert checkpoint.tensors["backbone.0.weight"].numpy().tobytes() == raw


def with_leftovers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What mmengine saves: weights among pickled objects of classes that we do not have."""
    module = types.ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history = np.arange(4.0)
            self._last = np.float64(1.5)
            self._statistics_methods = {"mean": HistoryBuffer.mean}

        def mean(self) -> None: ...

    HistoryBuffer.__module__ = module.__name__
    HistoryBuffer.__qualname__ = "HistoryBuffer"
    HistoryBuffer.mean.__module__ = module.__name__
    HistoryBuffer.mean.__qualname__ = "HistoryBuffer.mean"
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    state = collections.OrderedDict(WEIGHTS)
    state._metadata = collections.OrderedDict(version=1)  # type: ignore[attr-defined]
    return {
        "meta": {"cfg": "model = dict()", "dataset_meta": {"CLASSES": ("a", "b")}, "seed": 1},
        "state_dict": state,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "lr": np.float32(0.1)},
        "message_hub": {"log": HistoryBuffer(), "counts": collections.Counter("aab")},
    }


def test_a_training_checkpoint_with_leftovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "epoch_6.pth", with_leftovers(monkeypatch))
    monkeypatch.undo()
    checkpoint = read_checkpoint(path)
    assert set(checkpoint.tensors) == CANONICAL
    assert checkpoint.classes == ("a", "b")
    assert checkpoint.config_text == "model = dict()"
    assert torch.equal(
        checkpoint.tensors["backbone.up.weight"], WEIGHTS["detector.backbone.up.weight"]
    )
    assert "mmengine" not in sys.modules


def test_the_optimizers_records_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved(
        tmp_path / "a.pth", {"state_dict": {"w": torch.ones(2)}, "optimizer": torch.ones(5)}
    )

    def without_second(name: str, data: bytes) -> bytes | None:
        return None if name.endswith("data/1") else data

    path = repacked(source, tmp_path / "b.pth", without_second)
    assert set(read_checkpoint(path).tensors) == {"w"}


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_a_bare_state_dict(tmp_path: Path, suffix: str) -> None:
    checkpoint = read_checkpoint(saved(tmp_path / f"bare{suffix}", WEIGHTS))
    assert set(checkpoint.tensors) == CANONICAL
    assert checkpoint.config_text is None
    assert checkpoint.classes is None


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    ],
)
def test_every_storage_type(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = torch.tensor([0.0, 1.0, 3.0]).to(dtype)
    got = read_checkpoint(saved(tmp_path / "a.pth", {"w": weights})).tensors["w"]
    assert got.dtype == dtype
    assert torch.equal(got, weights)


def test_views_parameters_and_empty_tensors(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    state = {
        "whole": whole,
        "transposed": whole.t(),
        "part": whole[1:, 2:],
        "parameter": torch.nn.Parameter(whole[0]),
        "empty": torch.empty(0, 5),
        "scalar": torch.tensor(2.5),
    }
    got = read_checkpoint(saved(tmp_path / "a.pth", state)).tensors
    for key, value in state.items():
        assert torch.equal(got[key], value.detach()), key
    assert got["whole"].data_ptr() == got["transposed"].data_ptr()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"K\x00K\x02K\x03\x86", b"K\x01K\x02K\x03\x86"),  # offset
        (b"K\x02K\x03\x86", b"K\x07K\x03\x86"),  # more rows
        (b"K\x03K\x01\x86", b"K\x04K\x01\x86"),  # longer stride
        (b"K\x02K\x03\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"),
        (b"K\x03K\x01\x86", b"K\x00K\x00\x86"),  # harmless: stays inside
    ],
)
def test_views_never_leave_their_storage(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = patched(tmp_path, old, new)
    if new == b"K\x00K\x00\x86":
        assert read_checkpoint(path).tensors["w"].shape == (2, 3)
    else:
        assert "leaves its storage of 6 elements" in refused(path)


def test_strides_of_zero_make_no_terabytes(tmp_path: Path) -> None:
    old = b"K\x02K\x03\x86q\x08K\x03K\x01\x86"
    path = patched(tmp_path, old, b"J\0\0\0\x7fK\x03\x86q\x08K\0K\0\x86")
    assert "leaves its storage" in refused(path)


def test_a_storage_larger_than_its_record(tmp_path: Path) -> None:
    path = patched(tmp_path, b"K\x06t", b"K\x60t")
    message = refused(path)
    assert "data/0 has 24 bytes; expected 384" in message


def test_a_call_of_os_system_inside_a_checkpoint(tmp_path: Path) -> None:
    proof = tmp_path / "proof"

    class Attack:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            import os

            return os.system, (f"touch {proof}",)

    value = {"state_dict": {"w": torch.ones(2)}, "message_hub": Attack()}
    message = refused(saved(tmp_path / "evil.pth", value))
    assert "os.system" in message
    assert not proof.exists()


def test_a_file_cut_short_anywhere(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.pth", WEIGHTS).read_bytes()
    path = tmp_path / "cut.pth"
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refused(path)


def test_a_flipped_byte_anywhere(tmp_path: Path) -> None:
    """Every flip is refused, or it lies where nothing that we read depends on it."""
    reference = saved(tmp_path / "whole.pth", WEIGHTS)
    whole = reference.read_bytes()
    expected = read_checkpoint(reference).tensors
    path = tmp_path / "flipped.pth"
    num_refused = 0
    for position in range(0, len(whole), 61):
        flipped = bytearray(whole)
        flipped[position] ^= 0x41
        path.write_bytes(flipped)
        try:
            got = read_checkpoint(path).tensors
        except CheckpointError:
            num_refused += 1
        else:
            assert got.keys() == expected.keys()
            assert all(torch.equal(got[key], expected[key]) for key in got)
    assert num_refused > 10


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    assert path.stat().st_size < 20_000
    assert "data.pkl is compressed" in refused(path)


def test_overlapping_records_are_refused(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.pth", {"w": torch.ones(1000), "v": torch.zeros(1000)})
    with zipfile.ZipFile(source) as archive:
        first, second = (archive.getinfo(f"a/data/{n}") for n in (0, 1))
    data = bytearray(source.read_bytes())
    start = data.index(b"PK\x01\x02")
    entry = data.index(b"a/data/1", start) - 46
    data[entry + 42 : entry + 46] = first.header_offset.to_bytes(4, "little")
    assert second.header_offset != first.header_offset
    source.write_bytes(data)
    refused(source)


def test_more_records_than_bytes_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"w": torch.ones(10)})
    data = bytearray(path.read_bytes())
    entry = data.index(b"a/data/0", data.index(b"PK\x01\x02")) - 46
    for field in (20, 24):
        data[entry + field : entry + field + 4] = (1 << 30).to_bytes(4, "little")
    path.write_bytes(data)
    assert "overlap" in refused(path)


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    assert "no such file" in refused(path)
    path.write_bytes(b"hello")
    assert "no zip file" in refused(path)
    torch.save({"w": torch.ones(1)}, path, _use_new_zipfile_serialization=False)
    assert "before 1.6" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "0 pickles" in refused(path)
    assert "it is no file" in refused(tmp_path)


def test_what_could_be_read_for_ever_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.symlink_to("/dev/zero")
    assert "it is no file" in refused(path)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([torch.ones(1)], "no dict"),
        ({"epoch": 3, "meta": {}}, "no state_dict of tensors (found: 'epoch, meta')"),
        ({"state_dict": {}}, "no state_dict"),
        ({"state_dict": {"w": torch.ones(1), "extra": 3}}, "'extra' is no tensor"),
        ({"detector.w": torch.ones(1), "w": torch.ones(1)}, "holds w twice"),
    ],
)
def test_checkpoints_without_usable_weights(tmp_path: Path, value: object, words: str) -> None:
    assert words in refused(saved(tmp_path / "a.pth", value))


def test_a_big_endian_file_is_refused(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.pth", {"w": torch.ones(1)})
    path = repacked(
        source,
        tmp_path / "b.pth",
        lambda name, data: b"big" if name.endswith("byteorder") else data,
    )
    assert "big-endian" in refused(path)


@pytest.mark.parametrize("key", ["CLASSES", "classes"])
@pytest.mark.parametrize("nested", [True, False])
def test_class_names_in_every_place_that_mmengine_used(
    tmp_path: Path, key: str, nested: bool
) -> None:
    names = {key: ["ant", "bee"]}
    value = {
        "state_dict": {"w": torch.ones(1)},
        "meta": {"dataset_meta": names} if nested else names,
    }
    assert read_checkpoint(saved(tmp_path / "a.pth", value)).classes == ("ant", "bee")


def safe(path: Path, metadata: dict[str, str] | None = None) -> Path:
    save_file(WEIGHTS, path, metadata=metadata)
    return path


def test_safetensors(tmp_path: Path) -> None:
    metadata = {"config": "model = dict()", "classes": json.dumps(["a", "b"])}
    checkpoint = read_checkpoint(safe(tmp_path / "a.safetensors", metadata))
    assert isinstance(checkpoint, Checkpoint)
    assert set(checkpoint.tensors) == CANONICAL
    assert checkpoint.config_text == "model = dict()"
    assert checkpoint.classes == ("a", "b")


def test_safetensors_without_metadata(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(safe(tmp_path / "a.safetensors"))
    assert checkpoint.config_text is None
    assert checkpoint.classes is None


@pytest.mark.parametrize("classes", ["", "3", "[1]", '"a"', "[" * 100_000])
def test_safetensors_with_bad_class_names(tmp_path: Path, classes: str) -> None:
    assert "classes" in refused(safe(tmp_path / "a.safetensors", {"classes": classes}))


def test_damaged_safetensors(tmp_path: Path) -> None:
    path = safe(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:-5])
    assert "not a valid safetensors file" in refused(path)
    path.write_bytes(b"")
    assert "not a valid safetensors file" in refused(path)


def test_an_archive_closes_its_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"w": torch.ones(1)})
    with TorchArchive(path) as archive:
        root = archive.load()
    assert isinstance(root, dict)
    with io.BytesIO(path.read_bytes()) as copy:
        assert zipfile.is_zipfile(copy)
    path.unlink()
