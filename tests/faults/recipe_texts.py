"""Recipes as hypothesis writes them: right ones, wrong values, wrong keys, and changed texts."""

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.faults.judging import Case, Make, Sound, Verdict
from tests.faults.processes import Call
from vpp_deploy.engines.recipes import load_engine_recipe
from vpp_deploy.recipe_files import load_recipe

_COUNT = 40

_TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
_WHOLE = st.integers(-5, 600) | st.integers(-(2**70), 2**70)
_NUMBERS = st.floats(0.01, 1) | st.floats() | _WHOLE
_ANYTHING = st.recursive(
    st.booleans() | _NUMBERS | _TEXTS | st.dates() | st.times(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=5,
)


def _one_of(*values: str) -> st.SearchStrategy[str]:
    return st.sampled_from(values)


def _mostly(right: st.SearchStrategy[Any], other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 14).flatmap(lambda chance: right if chance else other)


_SHARES = _mostly(st.sampled_from([0.5, 0.35, 0.2]), st.floats(0.05, 1) | _NUMBERS)
_SIZES = st.lists(_mostly(st.sampled_from([64, 96, 128, 544, 960]), _WHOLE), min_size=2, max_size=2)
_TABLES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "input": {"size": _SIZES, "batch": _mostly(st.integers(1, 4), _WHOLE)},
    "budgets": dict.fromkeys(("blocks_3_5", "blocks_6_8", "blocks_9_11"), _SHARES),
    "tracks": {"slots": _mostly(st.integers(1, 512), _WHOLE)},
    "model": {
        "vit_heads": _mostly(st.integers(1, 12), _WHOLE),
        "decoder_heads": _mostly(st.integers(1, 12), _WHOLE),
        "keep_ratio": _SHARES,
        "reference_tokens": _mostly(_one_of("after_block_2", "entry_of_block_1"), _TEXTS),
        "classes": st.just("youtube-vis-2021") | st.lists(_TEXTS, max_size=5),
        "override_checkpoint": st.booleans(),
    },
    "export": {
        "precision": _mostly(_one_of("fp32", "int8", "fp16", "bf16"), _TEXTS),
        "target": _mostly(_one_of("cpu", "gpu"), _TEXTS),
    },
}
_ENGINE: dict[str, st.SearchStrategy[Any]] = {
    "backend": _mostly(_one_of("tensorrt", "tensorrt-rtx"), _TEXTS),
    "precision": _mostly(_one_of("fp32", "fp16", "bf16"), _TEXTS),
    "architectures": st.lists(_mostly(_one_of("8.6", "8.9", "12.0"), _TEXTS), max_size=2),
    "workspace_mb": _mostly(st.integers(1, 4096), _WHOLE),
    "level": _mostly(st.integers(0, 5), _WHOLE),
    "max_frame_size": _mostly(
        st.lists(st.integers(1, 4000), min_size=2, max_size=2), st.lists(_WHOLE)
    ),
}


def toml(value: object) -> str:
    """A value as TOML writes it."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return "{" + ", ".join(f"{toml(k)} = {toml(v)}" for k, v in value.items()) + "}"
        case float() | int():
            return repr(value)
    return str(value)


def _lines(values: dict[str, Any]) -> str:
    return "".join(f"{key} = {toml(value)}\n" for key, value in values.items())


@st.composite
def _recipes(draw: st.DrawFn, damaged: bool) -> str:
    tables = {
        name: draw(st.fixed_dictionaries({}, optional=keys) if name != "input" else _input(keys))
        for name, keys in _TABLES.items()
        if name == "input" or draw(st.booleans())
    }
    if damaged:
        table = draw(st.sampled_from(sorted(tables)))
        keys = st.sampled_from(sorted(_TABLES[table])) | _TEXTS.filter(str.isidentifier)
        tables[table][draw(keys)] = draw(_ANYTHING)
    return "".join(f"[{name}]\n{_lines(values)}" for name, values in tables.items())


def _input(keys: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"size": keys["size"]}, optional={"batch": keys["batch"]})


@st.composite
def _engine_recipes(draw: st.DrawFn, damaged: bool) -> str:
    values = draw(st.fixed_dictionaries({}, optional=_ENGINE))
    if damaged:
        keys = st.sampled_from(sorted(_ENGINE)) | _TEXTS.filter(str.isidentifier)
        values[draw(keys)] = draw(_ANYTHING)
    return _lines(values)


@st.composite
def _changed(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> bytes:
    """A text with some bytes replaced, removed or put in."""
    data = bytearray(draw(texts).encode())
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        data[start : start + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


def _examples(texts: st.SearchStrategy[str | bytes], count: int) -> list[bytes]:
    """The same ones every time."""
    found: list[bytes] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(texts)
    def collect(text: str | bytes) -> None:
        found.append(text.encode() if isinstance(text, str) else text)

    collect()
    return found


def read_recipe(path: Path) -> None:
    """Loads a recipe; what it then says must be what the file says."""
    recipe = load_recipe(path)
    said = tomllib.loads(path.read_text())
    assert [recipe.height, recipe.width] == said["input"]["size"]
    assert recipe.height % 32 == recipe.width % 32 == 0 < recipe.num_tokens
    assert recipe.batch == said["input"].get("batch", 1) > 0
    assert recipe.slots == said.get("tracks", {}).get("slots", 32) > 0
    assert recipe.precision == said.get("export", {}).get("precision", "fp32")
    assert (recipe.budgets is not None) == ("budgets" in said)
    for table in ("model", "budgets"):
        for key, value in said.get(table, {}).items():
            got = getattr(getattr(recipe, table), key)
            assert (list(got) if isinstance(got, tuple) else got) == value


def read_engine_recipe(path: Path) -> None:
    """Loads an engine recipe; what it then says must be what the file says."""
    recipe = load_engine_recipe(path)
    for key, value in tomllib.loads(path.read_text()).items():
        got = getattr(recipe, key)
        assert (list(got) if isinstance(got, tuple) else got) == value


_BOMBS = {
    "deep-lists": b"a = " + b"[" * 100_000,
    "deep-tables": b"[" + b"a." * 50_000 + b"a]\n",
    "deep-inline": b"a = " + b"{a=" * 50_000,
    "long-number": b"a = " + b"9" * 100_000,
    "long-string": b'a = "' + b"x" * 10_000_000 + b'"',
    "many-keys": b"".join(b"k%d = 1\n" % i for i in range(100_000)),
    "nul": b"[input]\nsize = [96, 128]\0",
    "no-utf-8": b"# \xff\xfe\n",
    "empty": b"",
}


def cases() -> Iterator[Case]:
    """All of them."""
    for kind, read, sound, damaged in (
        ("recipes", read_recipe, _recipes(False), _recipes(True)),
        ("engine recipes", read_engine_recipe, _engine_recipes(False), _engine_recipes(True)),
    ):
        texts = [*_examples(sound, _COUNT), *_examples(damaged, _COUNT)]
        texts += _examples(_changed(sound), _COUNT // 2)
        for number, text in enumerate(dict.fromkeys(texts)):
            yield Case(kind, str(number), _written(text, read), _well_read)
        for name, text in _BOMBS.items():
            accept = _well_read if (kind, name) == ("engine recipes", "empty") else None
            yield Case(kind, name, _written(text, read), accept)
        yield Case(kind, "device", _device(read))


def _written(text: bytes, read: Callable[[Path], None]) -> Make:
    def make(sound: Sound, folder: Path) -> Call:
        (folder / "recipe.toml").write_bytes(text)
        return Call(("recipe.toml",), read)

    return make


def _device(read: Callable[[Path], None]) -> Make:
    return lambda sound, folder: Call(("/dev/zero",), read)


def _well_read(sound: Sound, folder: Path) -> Verdict:
    return Verdict.HARMLESS
