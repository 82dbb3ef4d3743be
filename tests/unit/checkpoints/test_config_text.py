import sys
from pathlib import Path

import pytest

from vpp_deploy.checkpoints.config_text import UNKNOWN, config_values, find_value

TEXT = """
heads = 3
base = dict(num_heads=heads, width=192 // 4, ratio=-(0.5 + 0.2))
head = {'name': 'x', **base}
model = dict(
    type='ROVIS',
    detector=dict(
        backbone=dict(
            base,
            matching_module=dict(keep_ratio=0.7, in_dim=192 * 2),
            indexes=[[0, 2], (3, 5)],
            extra=dict(**head),
            lr=0.0001 / 4,
        ),
        panoptic_head=None,
    ),
)
"""


def test_values_are_read() -> None:
    values = config_values(TEXT)
    assert find_value(values, "backbone.num_heads") == 3
    assert find_value(values, "backbone.width") == 48
    assert find_value(values, "backbone.ratio") == -0.7
    assert find_value(values, "backbone.matching_module.keep_ratio") == 0.7
    assert find_value(values, "backbone.matching_module.in_dim") == 384
    assert find_value(values, "backbone.indexes") == [[0, 2], [3, 5]]
    assert find_value(values, "backbone.extra.name") == "x"
    assert find_value(values, "backbone.extra.width") == 48
    assert find_value(values, "panoptic_head") is None
    assert find_value(values, "panoptic_head.deeper") is UNKNOWN
    assert find_value(values, "backbone.absent") is UNKNOWN


def test_a_model_without_a_detector_around_it() -> None:
    values = config_values("model = dict(backbone=dict(num_heads=6))")
    assert find_value(values, "backbone.num_heads") == 6


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('touch {proof}')",
        "open('{proof}', 'w')",
        "exec('''open(\"{proof}\", \"w\")''')",
        "(lambda: open('{proof}', 'w'))()",
        "[open('{proof}', 'w') for _ in (1,)]",
        "f\"{{open('{proof}', 'w')}}\"",
        "dict(a=open('{proof}', 'w'))['a']",
        "9 ** 9 ** 9 ** 9",
        "[0] * 10 ** 12",
        "1 << 10 ** 12",
        "1 / 0",
        "1e308 * 10 // 0",
        "'a' * 10",
        "-'a'",
        "True + 1",
        "undefined",
        "dict(1)",
        "dict({{}}, {{}})",
        "dict(**[1])",
        "{{1: 2}}",
        "{{**undefined}}",
        "...[0]",
    ],
)
def test_nothing_is_run(expression: str, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    text = f"model = dict(backbone=dict(before=1, num_heads={expression}, after=2))"
    text = text.format(proof=proof) if "{" in expression else text
    values = config_values(text)
    assert find_value(values, "backbone.num_heads") is UNKNOWN
    assert find_value(values, "backbone.before") == 1
    assert find_value(values, "backbone.after") == 2
    assert not proof.exists()


@pytest.mark.parametrize(
    "statement",
    [
        "import os\nos.system('touch {proof}')",
        "open('{proof}', 'w')",
        "for _ in (1,):\n    open('{proof}', 'w')",
        "class A:\n    x = open('{proof}', 'w')",
        "from trap_config import *",
    ],
)
def test_statements_are_not_run(statement: str, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    values = config_values(f"{statement.format(proof=proof)}\nmodel = dict(backbone=dict(n=1))")
    assert find_value(values, "backbone.n") == 1
    assert not proof.exists()
    assert "trap_config" not in sys.modules


@pytest.mark.parametrize(
    "statement",
    [
        "model['backbone']['n'] = 2",
        "model.backbone.n = 2",
        "model.update(backbone=dict(n=2))",
        "model = model.copy()",
        "for model in others:\n    pass",
        "if x:\n    model = dict(backbone=dict(n=2))",
        "del model",
        "model += 1",
        "a = model = other()",
    ],
)
def test_what_a_statement_may_have_changed_is_unknown(statement: str) -> None:
    values = config_values(f"model = dict(backbone=dict(n=1))\n{statement}\n")
    assert find_value(values, "backbone.n") is UNKNOWN


def test_a_redefined_dict_is_not_trusted() -> None:
    values = config_values("dict = make\nmodel = dict(backbone=dict(n=1))")
    assert find_value(values, "backbone.n") is UNKNOWN
    for statement in ("def dict(**k): pass", "import trap as dict", "class dict: pass"):
        values = config_values(f"{statement}\nmodel = dict(backbone=dict(n=1))")
        assert find_value(values, "backbone.n") is UNKNOWN


def test_numbers_without_bound_are_not_calculated() -> None:
    text = f"a = {'9' * 4000}\n" + "a = a * a\n" * 40 + "model = dict(backbone=dict(n=a))"
    assert find_value(config_values(text), "backbone.n") is UNKNOWN


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "model = dict(",
        "model = \0",
        '{"model": {"backbone": {}}}',
        "model = " + "(" * 5000 + ")" * 5000,
        "model = " + "-" * 100_000 + "1",
        "model = " + "1" + "+1" * 100_000,
        "model = 1  #" + "x" * (1 << 20),
        "model = dict(detector=3, backbone=3)",
    ],
)
def test_texts_that_say_nothing(text: str | None) -> None:
    assert find_value(config_values(text), "backbone.num_heads") is UNKNOWN
