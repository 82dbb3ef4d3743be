"""A stage's graph as TensorRT's network: parsed, checked against the manifest, linted."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpp_deploy.engines.numeric_types import type_name
from vpp_deploy.engines.watching import no_collection, reason
from vpp_deploy.errors import EngineError
from vpp_deploy.recipes import MAX_BUDGET
from vpp_deploy.specs import StageSpec, TensorSpec

_REFUSED = {
    "GRID_SAMPLE": "TensorRT 10.13 to 11.1 miscompiles deformable attention made of it",
    "NON_ZERO": "its output's size depends on the data",
    "NMS": "its output's size depends on the data",
    "PLUGIN": "a plugin is not in every TensorRT",
    "PLUGIN_V2": "a plugin is not in every TensorRT",
    "PLUGIN_V3": "a plugin is not in every TensorRT",
}


@dataclass(frozen=True)
class ParsedStage:
    """A network with what must live as long as it does: the parser holds its weights."""

    builder: Any
    network: Any
    parser: Any


def parse_stage(trt: Any, log: Any, graph: Path, stage: StageSpec) -> ParsedStage:
    """Parses a strongly typed graph: the types in it are those that its engine computes in.

    Raises:
        EngineError: the parser refuses the graph, with all that it says; the network's tensors are
            not the stage's; or it has layers that TensorRT refuses later or computes wrongly.
    """
    with no_collection():
        builder = trt.Builder(log)
        network = builder.create_network(_network_flags(trt))
        parser = trt.OnnxParser(network, log)
        is_parsed = parser.parse_from_file(str(graph))
    if not is_parsed:
        problems = [parser.get_error(index) for index in range(parser.num_errors)]
        said = "; ".join(dict.fromkeys(map(_described, problems)))
        raise EngineError(
            f"TensorRT's parser refuses the graph of {stage.name}: {said or reason(log)}"
        )
    findings = [*_interface_findings(network, stage), *_layer_findings(trt, network)]
    if findings:
        raise EngineError(
            f"the graph of {stage.name} is none to build from: "
            + "; ".join(dict.fromkeys(findings))
        )
    return ParsedStage(builder, network, parser)


def _network_flags(trt: Any) -> int:
    """Strong typing must be asked for in TensorRT 10, and is all there is in its successors."""
    if trt.__version__.startswith("10."):
        return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return 0


def _described(problem: Any) -> str:
    where = " ".join(filter(None, (problem.node_operator(), problem.node_name())))
    said = " ".join(problem.desc().split())
    return f"{where}: {said}" if where else said


def _interface_findings(network: Any, stage: StageSpec) -> Iterator[str]:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    for what, tensors, specs in (
        ("inputs", inputs, stage.inputs),
        ("outputs", outputs, stage.outputs),
    ):
        got = {tensor.name: _spec(tensor) for tensor in tensors}
        if got.keys() != {spec.name for spec in specs}:
            yield f"its {what} are {sorted(got)}, the manifest says {[s.name for s in specs]}"
            continue
        for spec in specs:
            if not _fits(got[spec.name], spec):
                found = got[spec.name]
                yield (
                    f"{spec.name} is {found.dtype} {list(found.shape)}, "
                    f"the manifest says {spec.dtype} {list(spec.shape)}"
                )


def _spec(tensor: Any) -> TensorSpec:
    return TensorSpec(tensor.name, type_name(tensor.dtype), tuple(tensor.shape))


def _fits(got: TensorSpec, spec: TensorSpec) -> bool:
    # TensorRT may know less of a size than the exporter did, never something else.
    sizes = zip(got.shape, spec.shape, strict=False)
    return (
        got.dtype == spec.dtype
        and len(got.shape) == len(spec.shape)
        and all(a == b or -1 in (a, b) for a, b in sizes)
    )


def _layer_findings(trt: Any, network: Any) -> Iterator[str]:
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kind = layer.type.name
        if kind in _REFUSED:
            yield f"{kind}: {_REFUSED[kind]}"
        if kind == "TOPK":
            # A layer comes as the base class, and is told what it is.
            layer.__class__ = trt.ITopKLayer
            count = layer.get_output(0).shape[layer.axes.bit_length() - 1]
            if count < 0:
                yield "TopK whose k is no constant: its output's size depends on the data"
            elif count > MAX_BUDGET:
                yield f"TopK of {count}: TensorRT takes at most {MAX_BUDGET}"
