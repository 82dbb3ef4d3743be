"""Correctness first: how far a row's results are from fp32's, and from the CPU's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu_cases import Case
from benchmarks.gpu_contenders import Contender, ModelContender, ReferenceContender
from benchmarks.gpu_reference import DeviceReference, Feed
from benchmarks.gpu_workplace import Workplace
from benchmarks.reference import open_reference
from vpp_deploy.drift import DriftReport, measure_drift
from vpp_deploy.errors import VppDeployError
from vpp_deploy.results import Tracks
from vpp_deploy.runtime.opening import OpenedModel
from vpp_deploy.video.source import Frame

FEW = 3
"""Frames that are compared with a model on the CPU, which takes seconds for one."""


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        against: what with.
        failures: what is outside of the bounds, a clause each.
        not_made: why it could not be made; None: it was.
        figures: what was seen.
    """

    against: str
    failures: list[str] = field(default_factory=list)
    not_made: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)


Compare = Callable[[Workplace, Case, Contender, int], Check]
"""What a method's results are compared with; the last argument is how many frames to step."""


def verdict(checks: Sequence[Check]) -> str:
    """In words: "yes", or "NO", "partly" or "not checked" with the reason after a colon."""
    failures = [f"{check.against}: {clause}" for check in checks for clause in check.failures]
    if failures:
        return f"NO: {'; '.join(failures)}"
    missing = [f"{c.against}: {c.not_made}" for c in checks if c.not_made is not None]
    if not missing and checks:
        return "yes"
    how_far = "partly" if len(missing) < len(checks) else "not checked"
    return f"{how_far}: {'; '.join(missing) or 'nothing to compare with'}"


def against_exact(workplace: Workplace, case: Case, contender: Contender, num_frames: int) -> Check:
    """A pipeline against the same in fp32 on the same device."""
    return _made(
        workplace,
        f"fp32 on {workplace.device}",
        lambda: workplace.exact(case),
        lambda exact: _drift(case, contender, exact, workplace.frames[:num_frames]),
    )


def against_onnxruntime(
    workplace: Workplace, case: Case, contender: Contender, num_frames: int
) -> Check:
    """A pipeline against the graphs in float16 in ONNX Runtime on the CPU."""
    return _made(
        workplace,
        "ONNX Runtime on the CPU",
        lambda: workplace.on_cpu(case),
        lambda other: _drift(case, contender, other, workplace.frames[:FEW]),
    )


def against_reference(
    workplace: Workplace, case: Case, contender: Contender, num_frames: int
) -> Check:
    """The reference in fp32 on the device against the same on the CPU."""
    few = workplace.frames[:FEW]

    def on_cpu() -> list[list[Tracks]]:
        session = open_reference(
            workplace.checkpoint(case), workplace.recipe(case), workplace.input_size
        )
        return [[session.step(frame).tracks] for frame in few]

    return _made(
        workplace,
        "the reference on the CPU",
        on_cpu,
        lambda expected: _compare(contender.tracks(few), expected),
    )


def against_exact_reference(feed: Feed) -> Compare:
    """The reference in fp16 against itself in fp32, eager, on the same device and feed."""

    def check(workplace: Workplace, case: Case, contender: Contender, num_frames: int) -> Check:
        frames: Sequence[Frame] = workplace.frames[:num_frames]

        def exact() -> list[list[Tracks]]:
            model = DeviceReference(
                workplace.checkpoint(case),
                workplace.recipe(case),
                workplace.input_size,
                workplace.device,
                half=False,
                feed=feed,
            )
            return ReferenceContender(model, "").tracks(frames)

        return _made(
            workplace,
            f"the reference in fp32 on {workplace.device}",
            exact,
            lambda expected: _compare(contender.tracks(frames), expected),
        )

    return check


def _drift(
    case: Case, contender: Contender, other: OpenedModel, frames: Sequence[Frame]
) -> DriftReport:
    """Several streams are compared by their tracks alone, each with the other's single stream."""
    assert isinstance(contender, ModelContender)
    if case.batch > 1:
        return _compare(contender.tracks(frames), ModelContender(lambda _: other).tracks(frames))
    report = measure_drift(contender.model, other, frames)
    contender.restart()  # the sessions of that comparison have taken over
    return report


def _made(
    workplace: Workplace,
    against: str,
    expect: Callable[[], Any],
    compare: Callable[[Any], DriftReport],
) -> Check:
    """A check whose other side may not be had, and whose own side may fail."""
    try:
        expected = expect()
    except Exception as error:
        return Check(against, not_made=one_line(error))
    try:
        report = compare(expected)
    except VppDeployError as error:
        return Check(against, failures=[str(error)])
    return Check(against, report.failures(workplace.bounds), figures=_figures(report))


def _compare(got: list[list[Tracks]], expected: list[list[Tracks]]) -> DriftReport:
    """Every stream's tracks with those of the one that was expected."""
    report = DriftReport()
    for streams, (one,) in zip(got, expected, strict=True):
        for tracks in streams:
            report.add_tracks(tracks, one)
        report.frames += 1
    return report


def _figures(report: DriftReport) -> dict[str, Any]:
    return {
        "frames": report.frames,
        "equal tokens": {n: sum(s) / len(s) for n, s in report.token_shares.items()},
        "features": {name: values.rms_ratio for name, values in report.values.items()},
        "instances": report.instances,
        "found by both": report.matched,
        "mean IoU": report.mean_iou if report.ious else None,
        "same identity": report.same_ids if report.ious else None,
    }


def one_line(error: BaseException) -> str:
    """What an error says, with its kind where it is none of ours."""
    said = " ".join(str(error).split())[:500]
    return said if isinstance(error, VppDeployError) else f"{type(error).__name__}: {said}"
