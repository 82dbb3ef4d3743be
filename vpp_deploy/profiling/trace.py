"""A trace for chrome://tracing and Perfetto: each model a process, its stages above its nodes.

Stages are timed by this process's clock, nodes by the clock of each graph's profile. A run of a
graph lies within its stage, which bounds the difference of the two clocks to a few microseconds.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from vpp_deploy.profiling.node_events import GraphRun
from vpp_deploy.profiling.nodes import NodePass

_STAGES, _NODES = 1, 2

Event = dict[str, Any]
_Span = tuple[float, float]


def trace_document(passes: Sequence[NodePass]) -> dict[str, Any]:
    """The JSON object format of the Trace Event Format; times are microseconds from the start."""
    origin_ns = min(step.start_ns for one in passes for step in one.steps)
    events: list[Event] = []
    for process, one in enumerate(passes, start=1):
        events += _names(process, one)
        stages = list(_stages(process, one, origin_ns))
        events += stages
        for stage, runs in one.runs.items():
            spans = [
                (e["ts"], e["dur"]) for e in stages if e["cat"] == "stage" and e["name"] == stage
            ]
            events += _nodes(process, stage, runs, spans)
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _names(process: int, one: NodePass) -> Iterator[Event]:
    for name, value, thread in (
        ("process_name", one.label, 0),
        ("thread_name", "stages", _STAGES),
        ("thread_name", "nodes", _NODES),
    ):
        yield {"name": name, "ph": "M", "pid": process, "tid": thread, "args": {"name": value}}
    for thread in (_STAGES, _NODES):
        order = {"sort_index": thread}
        yield {
            "name": "thread_sort_index",
            "ph": "M",
            "pid": process,
            "tid": thread,
            "args": order,
        }


def _stages(process: int, one: NodePass, origin_ns: int) -> Iterator[Event]:
    for number, step in enumerate(one.steps):
        start = (step.start_ns - origin_ns) / 1e3
        laps_us = sum(milliseconds for _, milliseconds in step.laps) * 1e3
        name = "first frame" if step.first else f"frame {number}"
        yield _complete(
            process, _STAGES, "frame", name, start, max(step.step_ms * 1e3, laps_us), {}
        )
        for stage, milliseconds in step.laps:
            yield _complete(process, _STAGES, "stage", stage, start, milliseconds * 1e3, {})
            start += milliseconds * 1e3


def _nodes(
    process: int, stage: str, runs: Sequence[GraphRun], spans: Sequence[_Span]
) -> Iterator[Event]:
    offset = _clock_offset(runs, spans)
    for run in runs:
        for node in run.nodes:
            yield _complete(
                process,
                _NODES,
                "node",
                node.name,
                node.start_us + offset,
                node.duration_us,
                {"operator": node.operator, "stage": stage},
            )


def _clock_offset(runs: Sequence[GraphRun], spans: Sequence[_Span]) -> float:
    """What to add to a graph's clock so that every run lies within its span: the middle of it."""
    pairs = list(zip(runs, spans, strict=True))
    if not pairs:
        return 0.0
    least = max(start - run.start_us for run, (start, _) in pairs)
    most = min(start + us - run.start_us - run.duration_us for run, (start, us) in pairs)
    return (least + most) / 2


def _complete(
    process: int, thread: int, kind: str, name: str, start: float, us: float, args: Event
) -> Event:
    return {
        "name": name,
        "cat": kind,
        "ph": "X",
        "ts": round(start, 3),
        "dur": round(us, 3),
        "pid": process,
        "tid": thread,
        "args": args,
    }
