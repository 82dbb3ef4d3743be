"""One stage to one ONNX graph: exported, folded, annotated afresh, checked."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from onnxscript.optimizer import fold_constants_ir
from torch import nn

from vpp_deploy.errors import ExportError
from vpp_deploy.specs import StageSpec, TensorSpec

OPSET = 20
"""The first with Gelu, the last before Attention, which TensorRT-RTX refuses in fp32."""

_FOLD_LIMIT_BYTES = 1 << 28


def export_graph(module: nn.Module, stage: StageSpec, num_tokens: int) -> onnx.ModelProto:
    """Exports `module` with the names and sizes of `stage`.

    Args:
        module: its forward takes and returns tensors in the order of `stage`.
        stage: a size of -1 becomes a symbolic axis.
        num_tokens: N, the upper bound of that axis.

    Raises:
        ExportError: the exporter or the ONNX checker refuses.
    """
    lower = {t.name: t.shape[1] for t in stage.outputs}.get("next_ref_positions", 1)
    axis = torch.export.Dim("num_kept", min=max(lower, 2), max=num_tokens)
    example = tuple(_example(spec, num_tokens) for spec in stage.inputs)
    dynamic = tuple({1: axis} if -1 in spec.shape else None for spec in stage.inputs)
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=[t.name for t in stage.inputs],
                output_names=[t.name for t in stage.outputs],
                dynamic_shapes=dynamic if any(dynamic) else None,
                optimize=False,
            )
        except Exception as error:  # the exporter raises anything, from any layer below it
            raise ExportError(f"the stage {stage.name} cannot be exported: {error}") from error
        assert program is not None
        _fold(program.model)
        model = program.model_proto
    return _annotated(model, stage)


def without_outputs(model: onnx.ModelProto, count: int) -> onnx.ModelProto:
    """A copy of `model` that keeps only the first `count` outputs and the nodes they need."""
    trimmed = onnx.ModelProto()
    trimmed.CopyFrom(model)
    dropped = {output.name for output in trimmed.graph.output[count:]}
    del trimmed.graph.output[count:]
    used = {name for node in trimmed.graph.node for name in node.input}
    for node in reversed(list(trimmed.graph.node)):
        if set(node.output) <= dropped and not used & set(node.output):
            trimmed.graph.node.remove(node)
    return trimmed


def _example(spec: TensorSpec, num_tokens: int) -> torch.Tensor:
    shape = tuple(num_tokens - 1 if size == -1 else size for size in spec.shape)
    dtype = getattr(torch, spec.dtype)
    if spec.dtype == "int64" and len(shape) == 2:
        return torch.arange(shape[1]).repeat(shape[0], 1)
    return torch.zeros(shape, dtype=dtype)


def _fold(model: ir.Model) -> None:
    """Computes what does not depend on the inputs.

    The exporter's own `optimize` also tries rewrite rules, for as long as the whole export takes;
    ONNX Runtime and TensorRT make the same rewrites when they load a graph.
    """
    passes.InlinePass()(model)
    fold_constants_ir(
        model, input_size_limit=_FOLD_LIMIT_BYTES, output_size_limit=_FOLD_LIMIT_BYTES
    )
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.DeduplicateInitializersPass(size_limit=_FOLD_LIMIT_BYTES)(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.IdentityEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)


def _annotated(model: onnx.ModelProto, stage: StageSpec) -> onnx.ModelProto:
    # torch 2.13's exporter leaves annotations of intermediate shapes that its own optimiser made
    # wrong; consumers that trust them fail. Strip, infer, check.
    del model.graph.value_info[:]
    try:
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the graph of {stage.name} is not valid ONNX: {error}") from error
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints progress and warns of its own internals: not for our users."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
