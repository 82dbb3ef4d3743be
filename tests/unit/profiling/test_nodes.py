"""ONNX Runtime's profile read back, the slowest nodes, and the trace."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.profiling.made import node_pass
from vpp_deploy.errors import ProfileError
from vpp_deploy.profiling.node_events import read_runs
from vpp_deploy.profiling.nodes import NodePass
from vpp_deploy.profiling.trace import trace_document


def event(cat: str, name: str, ts: int, dur: int, **args: str) -> dict[str, Any]:
    return {"cat": cat, "name": name, "ts": ts, "dur": dur, "ph": "X", "args": args}


def test_nodes_belong_to_their_run(tmp_path: Path) -> None:
    events = [
        event("Session", "session_initialization", 0, 50),
        event("Session", "model_run", 200, 40),
        event("Session", "model_run", 100, 30),
        event("Node", "conv_kernel_time", 105, 10, op_name="Conv", node_index="1"),
        event("Node", "conv_kernel_time", 205, 12, op_name="Conv", node_index="1"),
        event("Node", "_kernel_time", 220, 3, op_name="Add", node_index="7"),
    ]
    (tmp_path / "profile.json").write_text(json.dumps(events))
    first, second = read_runs(tmp_path / "profile.json")
    assert (first.start_us, first.duration_us) == (100, 30)
    assert [node.name for node in first.nodes] == ["conv"]
    assert [(node.name, node.duration_us) for node in second.nodes] == [("conv", 12), ("Add 7", 3)]


@pytest.mark.parametrize("text", ["", "{", "5", "[5]", '[{"cat": "Node"}]', None])
def test_what_is_no_profile(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "profile.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ProfileError, match="--no-nodes"):
        read_runs(path)


def test_the_slowest_without_the_first_frame() -> None:
    conv, add = node_pass().nodes()
    assert (conv.stage, conv.name, conv.operator, conv.ms) == ("trunk", "conv", "Conv", 6.0)
    assert (add.name, add.ms) == ("add", 3.0)
    assert conv.share + add.share == pytest.approx(1)
    assert [(o.operator, o.name) for o in node_pass().operators()] == [
        ("Conv", "1 node"),
        ("Add", "1 node"),
    ]


def test_a_pass_of_one_frame_has_no_figures() -> None:
    whole = node_pass()
    one = NodePass("one", whole.steps[:1], {"trunk": whole.runs["trunk"][:1]}, None)
    assert one.nodes() == []


class TestTrace:
    def test_it_is_in_the_trace_event_format(self) -> None:
        document = json.loads(json.dumps(trace_document([node_pass("a"), node_pass("b")])))
        events = document["traceEvents"]
        assert {e["ph"] for e in events} == {"M", "X"}
        for e in events:
            assert isinstance(e["pid"], int)
            assert isinstance(e["tid"], int)
            if e["ph"] == "X":
                assert e["ts"] >= 0
                assert e["dur"] >= 0
        names = {e["args"]["name"] for e in events if e["name"] == "process_name"}
        assert names == {"a", "b"}
        rows = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
        assert rows == {"stages", "nodes"}

    def test_nodes_lie_in_their_stage(self) -> None:
        """The graph's clock began at another time than ours."""
        events = trace_document([node_pass()])["traceEvents"]
        complete = [e for e in events if e["ph"] == "X"]
        stages = [e for e in complete if e["name"] == "trunk"]
        nodes = [e for e in complete if e["cat"] == "node"]
        assert [e["ts"] for e in stages] == [1_000, 21_000]
        assert len(nodes) == 4
        for i, node in enumerate(nodes):
            stage = stages[i // 2]
            assert stage["ts"] <= node["ts"]
            assert node["ts"] + node["dur"] <= stage["ts"] + stage["dur"]
        frames = [e for e in complete if e["cat"] == "frame"]
        assert [e["name"] for e in frames] == ["first frame", "frame 1"]
        assert all(e["dur"] == 12_000 for e in frames)
