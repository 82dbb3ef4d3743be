"""What ONNX Runtime's profiler writes, read back: every run of a graph and the nodes in it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpp_deploy.errors import ProfileError

_NODE_SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class NodeEvent:
    """One execution of one node, after ONNX Runtime's own fusions.

    Attributes:
        name: of the node; its operator and number where the graph names it not.
        operator: its type.
        start_us: by the clock of the graph's profile.
        duration_us: wall time.
    """

    name: str
    operator: str
    start_us: float
    duration_us: float


@dataclass(frozen=True)
class GraphRun:
    """One run of a graph, by the clock of its profile."""

    start_us: float
    duration_us: float
    nodes: tuple[NodeEvent, ...]


def read_runs(path: Path) -> list[GraphRun]:
    """The runs of one graph in the order they were made.

    Raises:
        ProfileError: the file is not what ONNX Runtime writes.
    """
    try:
        events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        runs = sorted(
            (e["ts"], e["dur"])
            for e in events
            if e.get("cat") == "Session" and e["name"] == "model_run"
        )
        nodes = [
            _node(e) for e in events if e.get("cat") == "Node" and e["name"].endswith(_NODE_SUFFIX)
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProfileError(
            f"ONNX Runtime's profile {path.name} cannot be read ({error!r}); try --no-nodes"
        ) from error
    return [
        GraphRun(
            start,
            duration,
            tuple(n for n in nodes if start <= n.start_us <= start + duration),
        )
        for start, duration in runs
    ]


def _node(event: dict[str, Any]) -> NodeEvent:
    operator = event["args"]["op_name"]
    name = event["name"].removesuffix(_NODE_SUFFIX)
    return NodeEvent(
        name or f"{operator} {event['args']['node_index']}", operator, event["ts"], event["dur"]
    )
