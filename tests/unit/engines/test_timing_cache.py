"""The timing cache's file. That TensorRT takes what is in it can only be seen on a GPU."""

from pathlib import Path

from vpp_deploy.engines.timing_cache import TimingCache, cache_file


class Cache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytearray:
        return bytearray(self.data)


class Config:
    """Takes caches that begin as its library's do, or are empty."""

    def __init__(self) -> None:
        self.cache: Cache | None = None

    def create_timing_cache(self, data: bytes) -> Cache:
        return Cache(data)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        if cache.data and not cache.data.startswith(b"ours"):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Cache | None:
        return self.cache


def build(cache: TimingCache, adds: bytes) -> bytes:
    """What a build finds in the cache; it leaves something there."""
    config = Config()
    cache.attach(config)
    assert config.cache is not None
    found = config.cache.data
    config.cache.data += adds
    cache.take(config)
    return found


def test_a_build_finds_what_earlier_ones_measured(tmp_path: Path) -> None:
    file = cache_file(tmp_path, "11.4.0", "8.6")
    first = TimingCache(file)
    assert build(first, b"ours:stem") == b""
    assert build(first, b",trunk") == b"ours:stem"
    assert not file.exists()
    first.save()
    assert build(TimingCache(file), b"") == b"ours:stem,trunk"
    assert [p.name for p in file.parent.iterdir()] == ["tensorrt-11.4.0-sm86.bin"]


def test_a_damaged_file_is_started_anew(tmp_path: Path) -> None:
    file = cache_file(tmp_path, "11.4.0", "8.6")
    file.parent.mkdir()
    file.write_bytes(b"something else")
    cache = TimingCache(file)
    assert build(cache, b"ours:stem") == b""
    cache.save()
    assert file.read_bytes() == b"ours:stem"


def test_versions_and_gpus_have_their_own(tmp_path: Path) -> None:
    files = {cache_file(tmp_path, v, a) for v in ("10.16", "11.4") for a in ("8.6", "12.0")}
    assert len(files) == 4
    # No glob for engines takes the folder for one.
    assert all(f.parent.parent == tmp_path and f.parent.name.startswith(".") for f in files)
