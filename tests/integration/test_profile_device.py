"""Profiles of models whose stages are enqueued: the whole from one pass, parts from another."""

from pathlib import Path

import pytest

from tests.host_device import host_runner
from tests.mini import INPUT_SIZE, ExportedMini
from vpp_deploy.profiling.feed import SyntheticFeed
from vpp_deploy.profiling.measure import Candidate
from vpp_deploy.profiling.profiler import profile_models
from vpp_deploy.profiling.ratios import parts_of
from vpp_deploy.runtime.onnx_runner import open_sessions
from vpp_deploy.runtime.opening import OpenedModel


@pytest.mark.parametrize("nodes", [True, False])
def test_parts(mini_dense_bundle: ExportedMini, nodes: bool) -> None:
    manifest = mini_dense_bundle.manifest
    graphs = {stage: mini_dense_bundle.folder / file for stage, file in manifest.files.items()}
    sessions = open_sessions(graphs)

    def opened(folder: Path | None) -> OpenedModel:
        runner, _ = host_runner(manifest, sessions, timed=folder is not None)
        return OpenedModel(
            "dense", "host", runner, manifest.classes, None, "", manifest.operations, None
        )

    report = profile_models(
        [Candidate("dense", "dense", opened)],
        SyntheticFeed(INPUT_SIZE),
        num_frames=6,
        warmup=1,
        nodes=nodes,
    )
    (model,) = report.timing.models
    parts = {part.part: part for part in parts_of(model)}
    assert list(parts) == [
        *("resize", "upload", "device", "read masks", "postprocess", "tracking", "whole frame")
    ]
    macs = sum(counted.macs for counted in manifest.operations.values())
    assert parts["device"].macs == parts["whole frame"].macs == macs
    assert parts["read masks"].macs is None
    assert parts["device"].ms.p50 > parts["upload"].ms.p50
    waited = report.to_json()["models"][0]["stages_waited_for_ms"]
    if not nodes:
        assert waited is None
        return
    assert list(waited) == [
        *("resize", "upload", "stem", "trunk", "head", "masks", "postprocess", "tracking")
    ]
    assert all(milliseconds > 0 for milliseconds in waited.values())
