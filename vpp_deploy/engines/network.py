"""A graph as TensorRT has parsed it: sizes it is to be built for, numbers it computes in."""

from collections import Counter
from pathlib import Path
from typing import Any

from vpp_deploy.errors import EngineError
from vpp_deploy.manifests import Manifest
from vpp_deploy.specs import StageSpec

Sizes = tuple[int, ...]
Profile = dict[str, tuple[Sizes, Sizes, Sizes]]
"""Input to its smallest, usual and largest shape."""

_DTYPES = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}
_PRODUCTS = ("MATRIX_MULTIPLY", "CONVOLUTION", "DECONVOLUTION", "EINSUM", "ATTENTION_INPUT")
_USUAL_FRAME, _SMALLEST_SIDE = (720, 1280), 32


def parse(trt: Any, builder: Any, log: Any, graph: Path) -> tuple[Any, Any]:
    """The network of a graph, and the parser, which must live as long.

    Raises:
        EngineError: TensorRT does not take the graph.
    """
    # Strongly typed is an option in 10.x, and everything there is since 11.
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed if trt.__version__.startswith("10.") else 0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        found = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise EngineError(f"TensorRT cannot read {graph}: {one_line('; '.join(found))}")
    return network, parser


def profiles(
    stage: StageSpec, manifest: Manifest, max_frame_size: tuple[int, int]
) -> list[Profile]:
    """What a stage is to be built for: one profile, or two where a first frame runs every token.

    None where no size varies.
    """
    start = manifest.pipeline.cold_start
    varying = {t.name: t.shape for t in stage.inputs if -1 in t.shape}
    if not varying:
        return []
    if start is not None and start.keep in varying:
        (_, num_kept) = manifest.pipeline.tensor(start.keep).shape
        counts = (num_kept, start.num_tokens)
        return [_fixed(start.keep, varying[start.keep], count) for count in counts]
    sides = {"row_weights": (0, 1), "column_weights": (1, 8)}
    profile: Profile = {}
    for name, shape in varying.items():
        axis, pixels = sides[name]
        largest = max_frame_size[axis]
        usual = min(_USUAL_FRAME[axis], largest)
        low, usual, high = (-(-side // pixels) for side in (_SMALLEST_SIDE, usual, largest))
        profile[name] = (_sized(shape, low), _sized(shape, usual), _sized(shape, high))
    return [profile]


def audit(trt: Any, network: Any, stage: str, manifest: Manifest) -> dict[str, int]:
    """Counts the layers that do the work by the type that they give, and compares with the bundle.

    In a strongly typed network these types are the precision: the builder changes none of them.

    Raises:
        EngineError: a product is in another type than was asked for.
    """
    kinds = {getattr(trt.LayerType, name) for name in _PRODUCTS if hasattr(trt.LayerType, name)}
    counts: Counter[str] = Counter()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type in kinds:
            counts[layer.get_output(0).dtype.name] += 1
    wanted = _DTYPES[manifest.precision]
    expected = manifest.float32_products[stage]
    others = {name: n for name, n in counts.items() if name not in (wanted, "FLOAT")}
    if others or counts["FLOAT"] != expected:
        raise EngineError(
            f"{stage} was to compute in {manifest.precision} with {expected} products in fp32, and "
            f"its network has {dict(counts)}: the graph is not what was exported"
        )
    return dict(counts)


def one_line(text: str) -> str:
    """Without line breaks, and no longer than a terminal takes."""
    line = " ".join(text.split())
    return line if len(line) <= 400 else f"{line[:400]} ..."


def _fixed(name: str, shape: Sizes, size: int) -> Profile:
    return {name: (_sized(shape, size),) * 3}


def _sized(shape: Sizes, size: int) -> Sizes:
    return tuple(size if s == -1 else s for s in shape)
