"""Profiles made by hand, with times that can be checked in one's head."""

import math
from collections.abc import Mapping, Sequence

from vpp_deploy.manifests import StageOperations
from vpp_deploy.profiling.measure import ModelProfile, Timing
from vpp_deploy.profiling.node_events import GraphRun, NodeEvent
from vpp_deploy.profiling.nodes import NodePass
from vpp_deploy.profiling.report import ProfileReport
from vpp_deploy.profiling.samples import Samples
from vpp_deploy.profiling.stepping import Step

STAGES = ("resize", "trunk", "head", "tracking")
NASTY = "<script>alert('x')</script>&\"'"


def samples(
    stage_ms: Mapping[str, Sequence[float]], kept: Mapping[str, Sequence[int]] | None = None
) -> Samples:
    """Frame 0 is a first frame; NaN: the stage did not run. A step takes 1 ms beside its stages."""
    made = Samples(tuple(stage_ms))
    for i in range(len(next(iter(stage_ms.values())))):
        ran = {name: times[i] for name, times in stage_ms.items() if not math.isnan(times[i])}
        counts = {name: values[i] for name, values in (kept or {}).items()}
        made.add(sum(ran.values()) + 1, ran, i == 0, counts)
    return made


def model(
    label: str = "dense",
    trunk_ms: Sequence[float] = (100, 40, 50, 60),
    trunk_macs: int | None = 1_000_000_000,
    batch: int = 1,
    kept: Mapping[str, Sequence[int]] | None = None,
) -> ModelProfile:
    count = len(trunk_ms)
    times = {
        "resize": [1.0] * count,
        "trunk": trunk_ms,
        "head": [100.0] * count,
        "tracking": [2.0] * count,
    }
    operations = None
    if trunk_macs is not None:
        operations = {
            "trunk": StageOperations(trunk_macs, trunk_macs, {"MatMul": trunk_macs}),
            "head": StageOperations(2_000_000_000, 2_000_000_000, {"Conv": 2_000_000_000}),
        }
    return ModelProfile(
        label=label,
        path=f"export/{label}",
        kind="bundle on ONNX Runtime (cpu)",
        sha256="0" * 64,
        batch=batch,
        input_size=(64, 96),
        num_tokens=24,
        graphs=("trunk", "head"),
        budgets=(12, 8, 6, 4),
        load_ms=1000.0,
        load_bytes=100_000_000,
        samples=samples(times, kept),
        operations=operations,
        first_call_ms=300.0,
    )


def timing(*models: ModelProfile, video: str = "street.mp4, 96x64") -> Timing:
    made = Timing(list(models), video, (64, 96), warmup=3, peak_bytes=300_000_000)
    for i in range(len(models[0].samples)):
        made.record(math.nan if i == 0 else 5.0, 200e6)
    return made


def node_pass(label: str = "dense") -> NodePass:
    """Two frames, the first at 0 ms; the graph's own clock is 5 s behind."""
    steps = tuple(
        Step(
            1_000_000_000 + i * 20_000_000,
            12.0,
            (("resize", 1.0), ("trunk", 10.0)),
            i == 0,
            {},
        )
        for i in range(2)
    )
    runs = [
        GraphRun(
            i * 20_000 - 5_000_000 + 1_100,
            9_800.0,
            (
                NodeEvent("conv", "Conv", i * 20_000 - 5_000_000 + 1_200, 6_000.0),
                NodeEvent("add", "Add", i * 20_000 - 5_000_000 + 7_300, 2_000.0 + i * 1_000),
            ),
        )
        for i in range(2)
    ]
    return NodePass(label, steps, {"trunk": runs}, None)


def report(*models: ModelProfile, passes: Sequence[NodePass] = (), **changes: str) -> ProfileReport:
    return ProfileReport(
        timing=timing(*models, video=changes.get("video", "street.mp4, 96x64")),
        passes=passes,
        environment={"CPU": changes.get("cpu", "a CPU"), "cores": "2"},
        command=changes.get("command", "vpp-deploy profile dense"),
        started="2026-01-01T00:00:00+00:00",
        load_before=(0.1, 0.1, 0.1),
        load_after=(1.0, 0.5, 0.1),
    )
