"""The second pass: the slowest operations, and operations counted by PyTorch.

It runs after the timed pass and on models opened anew, because looking at every node slows each
of them down: what a node takes is to be compared with other nodes, not with the timed pass.
"""

import contextlib
import itertools
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vpp_deploy.manifests import StageOperations
from vpp_deploy.profiling.feed import FrameFeed
from vpp_deploy.profiling.measure import Candidate, Progress
from vpp_deploy.profiling.node_events import GraphRun, read_runs
from vpp_deploy.profiling.stepping import Step, timed_step
from vpp_deploy.profiling.torch_operations import count_in_torch
from vpp_deploy.runtime.onnx_runner import OnnxRunner
from vpp_deploy.runtime.runner import PipelineRunner
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.runtime.torch_runner import TorchRunner

NODE_FRAMES = 5
"""Frames after the first one: their mean is what the tables show."""


@dataclass(frozen=True)
class NodeTime:
    """A node, or all nodes of an operator, in one graph.

    Attributes:
        stage: whose graph it is in.
        name: of the node; how many nodes, where it stands for all of an operator.
        operator: type.
        ms: a step of all streams, the mean over the pass.
        share: of the time of all nodes of all graphs.
    """

    stage: str
    name: str
    operator: str
    ms: float
    share: float


@dataclass(frozen=True)
class NodePass:
    """The second pass over one model.

    Attributes:
        label: of the model.
        steps: every frame of the pass, the first one included.
        runs: stage to its runs, one for each step that has the stage; empty in PyTorch.
        operations: stage to what PyTorch counted; None for a bundle, whose manifest says it.
    """

    label: str
    steps: tuple[Step, ...]
    runs: dict[str, list[GraphRun]]
    operations: dict[str, StageOperations] | None

    def stages(self) -> dict[str, float]:
        """Stage to milliseconds, each waited for; the mean over the frames after the first."""
        later = [step.stage_ms() for step in self.steps[1:]]
        names = dict.fromkeys(name for stages in later for name in stages)
        return {name: sum(stages.get(name, 0.0) for stages in later) / len(later) for name in names}

    def nodes(self) -> list[NodeTime]:
        """Every node, the slowest first."""
        return self._slowest(by_operator=False)

    def operators(self) -> list[NodeTime]:
        """Every operator of every stage, the slowest first."""
        return self._slowest(by_operator=True)

    def _slowest(self, by_operator: bool) -> list[NodeTime]:
        total_us: dict[tuple[str, str, str], float] = defaultdict(float)
        members: dict[tuple[str, str, str], set[str]] = defaultdict(set)
        for stage, runs in self.runs.items():
            # A first frame runs other sizes: its run comes first, where the stage has one.
            for run in runs[int(self.steps[0].has(stage)) :]:
                for node in run.nodes:
                    key = (stage, "" if by_operator else node.name, node.operator)
                    total_us[key] += node.duration_us
                    members[key].add(node.name)
        everything = sum(total_us.values()) or 1.0
        frames = max(len(self.steps) - 1, 1)
        found = [
            NodeTime(
                stage,
                _counted(len(members[stage, name, operator])) if by_operator else name,
                operator,
                us / 1e3 / frames,
                us / everything,
            )
            for (stage, name, operator), us in total_us.items()
        ]
        return sorted(found, key=lambda node: -node.ms)


def _counted(nodes: int) -> str:
    return "1 node" if nodes == 1 else f"{nodes} nodes"


def inspect_models(
    candidates: Sequence[Candidate], feed: FrameFeed, progress: Progress = lambda _: None
) -> list[NodePass]:
    """Opens one model after the other with ONNX Runtime's profiler on; counts in PyTorch.

    Raises:
        VppDeployError: a model cannot be opened or fails, or a profile cannot be read.
    """
    return [_inspect(candidate, feed, progress) for candidate in candidates]


def _inspect(candidate: Candidate, feed: FrameFeed, progress: Progress) -> NodePass:
    progress(f"looking into {candidate.path}")
    with tempfile.TemporaryDirectory(prefix="vpp-deploy-") as folder:
        model = candidate.open(Path(folder))
        session = model.session(model.explored_by(None))
        warmup = _steps(session, model.runner, feed, 2)
        session.reset()
        steps = _steps(session, model.runner, feed, 1 + NODE_FRAMES)
        runs: dict[str, list[GraphRun]] = {}
        if isinstance(model.runner, OnnxRunner):
            for stage, path in model.runner.end_profiling().items():
                runs[stage] = read_runs(path)[sum(step.has(stage) for step in warmup) :]
        operations = None
        if isinstance(model.runner, TorchRunner):
            operations = count_in_torch(model.runner, feed, NODE_FRAMES)
    return NodePass(candidate.label, tuple(steps), runs, operations)


def _steps(
    session: VideoSession, runner: PipelineRunner, feed: FrameFeed, count: int
) -> list[Step]:
    steps: list[Step] = []
    with contextlib.closing(feed.frames()) as frames:
        for fed in itertools.islice(frames, count):
            if fed.first and steps:
                break  # where a short video starts again, a first frame would be among the others
            steps.append(timed_step(session, runner, fed.frame))
    return steps
