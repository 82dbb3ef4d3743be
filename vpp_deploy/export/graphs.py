"""One stage to one ONNX graph: exported, folded, annotated afresh, checked."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

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

OPSET_BF16 = 22
"""The first whose convolutions take bfloat16; nothing else of it is needed."""

_FOLD_LIMIT_BYTES = 1 << 28
_FIXED: Mapping[str, tuple[int, int]] = {}


def export_graph(
    module: nn.Module, stage: StageSpec, bounds: Mapping[str, tuple[int, int]] = _FIXED
) -> onnx.ModelProto:
    """Exports `module` with the names and sizes of `stage`.

    Args:
        module: its forward takes and returns tensors in the order of `stage`.
        stage: a size of -1 becomes a symbolic axis.
        bounds: the smallest and the largest size of that axis, by the input's name.

    Raises:
        ExportError: the exporter or the ONNX checker refuses.
    """
    example = tuple(_example(spec, bounds.get(spec.name, (0, 0))[1] - 1) for spec in stage.inputs)
    dynamic = tuple(_varying(spec, bounds) for spec in stage.inputs)
    with quiet():
        try:
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                opset_version=OPSET_BF16 if _has_bf16(stage) else OPSET,
                input_names=[t.name for t in stage.inputs],
                output_names=[t.name for t in stage.outputs],
                dynamic_shapes=dynamic if any(dynamic) else None,
                optimize=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error).strip().split("\n")[0]
            raise ExportError(f"the stage {stage.name} cannot be exported: {reason}") from error
        assert program is not None
        _fold(program.model)
        model = program.model_proto
    return _annotated(model, stage)


def without_last_outputs(model: onnx.ModelProto, stage: StageSpec) -> onnx.ModelProto:
    """A copy of `model` with the outputs of `stage` alone, and the nodes that they need."""
    copy = ir.from_proto(model)
    del copy.graph.outputs[len(stage.outputs) :]
    passes.RemoveUnusedNodesPass()(copy)
    return _annotated(ir.to_proto(copy), stage)


def _has_bf16(stage: StageSpec) -> bool:
    return any(spec.dtype == "bfloat16" for spec in (*stage.inputs, *stage.outputs))


def _varying(spec: TensorSpec, bounds: Mapping[str, tuple[int, int]]) -> dict[int, Any] | None:
    """The axis whose size varies, as the exporter takes it."""
    if -1 not in spec.shape:
        return None
    low, high = bounds[spec.name]
    return {
        spec.shape.index(-1): torch.export.Dim(f"num_{spec.name}", min=low, max=max(high, low + 1))
    }


def _example(spec: TensorSpec, varying: int) -> torch.Tensor:
    shape = tuple(varying if size == -1 else size for size in spec.shape)
    return torch.zeros(shape, dtype=getattr(torch, spec.dtype))


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
        reason = str(error).strip().split("\n")[0]
        raise ExportError(f"the graph of {stage.name} is not valid ONNX: {reason}") from error
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The tools print progress and warn of their own internals: not for our users."""
    names = ("torch.onnx", "onnxscript", "onnx_ir", None)
    loggers = [logging.getLogger(name) for name in names]
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
