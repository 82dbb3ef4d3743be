"""What a recipe says: what a checkpoint's weights do not, and what to export.

Ranges are checked by the dataclasses themselves, so that a copy made by `dataclasses.replace` is as
sound as one that was loaded. No torch here.
"""

from dataclasses import dataclass, field
from typing import Literal, NoReturn

from vpp_deploy.errors import RecipeError
from vpp_deploy.specs import PRECISIONS, TARGETS

MAX_BUDGET = 3840
"""TensorRT's TopK takes no larger K (NVIDIA/TensorRT#4390)."""

MAX_TOKENS = 8192
"""Map-SM's N x N table of distances takes 268 MB of the selector's graph then."""

_STRIDE = 32
_MIN_SIDE, _MAX_SIDE = 64, 8192


@dataclass(frozen=True)
class ModelSettings:
    """What the weights do not say. None: the recipe leaves it to the checkpoint's config text.

    Attributes:
        vit_heads, adapter_heads, pixel_heads, decoder_heads: attention heads (MODEL.md 2, 3).
        keep_ratio: share of the tokens that Map-SM keeps, in (0, 1].
        reference_tokens: which tokens Map-SM compares with (MODEL.md 2.3).
        classes: class names without background, or the name of a known list.
        override_checkpoint: the recipe wins over the checkpoint's own config and class names.

    Raises:
        RecipeError: a value is out of range.
    """

    vit_heads: int | None = None
    adapter_heads: int | None = None
    pixel_heads: int | None = None
    decoder_heads: int | None = None
    keep_ratio: float | None = None
    reference_tokens: Literal["after_block_2", "entry_of_block_1"] | None = None
    classes: tuple[str, ...] | Literal["youtube-vis-2021"] | None = None
    override_checkpoint: bool = False

    def __post_init__(self) -> None:
        for name in ("vit_heads", "adapter_heads", "pixel_heads", "decoder_heads"):
            heads = getattr(self, name)
            if heads is not None and heads < 1:
                refuse(f"model.{name}", heads, "1 or more heads")
        if self.keep_ratio is not None:
            _check_share("model.keep_ratio", self.keep_ratio)
        if self.reference_tokens not in (None, "after_block_2", "entry_of_block_1"):
            expected = '"after_block_2" or "entry_of_block_1"'
            refuse("model.reference_tokens", self.reference_tokens, expected)
        if isinstance(self.classes, str):
            if self.classes != "youtube-vis-2021":
                expected = '"youtube-vis-2021" or a list of names'
                refuse("model.classes", self.classes, expected)
        elif self.classes is not None and (
            not self.classes or len(set(self.classes)) < len(self.classes)
        ):
            refuse("model.classes", list(self.classes), "one or more names, each once")


@dataclass(frozen=True)
class Budgets:
    """Tokens that run in each group of blocks, K1 >= K3 >= K6 >= K9 >= 1 (MODEL.md 2.4)."""

    blocks_1_2: int
    blocks_3_5: int
    blocks_6_8: int
    blocks_9_11: int


@dataclass(frozen=True)
class BudgetShares:
    """Shares of the N tokens that run in blocks 3-5, 6-8 and 9-11, each in (0, 1].

    Raises:
        RecipeError: a share is out of range.
    """

    blocks_3_5: float
    blocks_6_8: float
    blocks_9_11: float

    def __post_init__(self) -> None:
        for name in ("blocks_3_5", "blocks_6_8", "blocks_9_11"):
            _check_share(f"budgets.{name}", getattr(self, name))

    def tokens(self, num_tokens: int, keep_ratio: float) -> Budgets:
        """The budgets for `num_tokens` patch tokens: float products, truncated (MODEL.md 2.3, 2.4).

        Raises:
            RecipeError: there are more than `MAX_TOKENS`, or a budget is 0, exceeds the one before
                it, or exceeds `MAX_BUDGET`.
        """
        if num_tokens > MAX_TOKENS:
            raise RecipeError(
                f"input.size makes {num_tokens} tokens; Map-SM's table of distances grows with "
                f"their square, and {MAX_TOKENS} are the most that it is made for: lower input.size"
            )
        previous_key, previous = "the number of tokens", num_tokens
        counts = []
        for key, share in (
            ("model.keep_ratio", keep_ratio),
            ("budgets.blocks_3_5", self.blocks_3_5),
            ("budgets.blocks_6_8", self.blocks_6_8),
            ("budgets.blocks_9_11", self.blocks_9_11),
        ):
            count = int(num_tokens * share)
            got = f"{key} = {share} of {num_tokens} tokens keeps {count}"
            if count < 1:
                raise RecipeError(f"{got}; expected 1 or more, so raise it")
            if count > previous:
                raise RecipeError(
                    f"{got}, more than the {previous} of {previous_key}; expected budgets that "
                    f"never grow from block to block, so lower {key}"
                )
            if count > MAX_BUDGET:
                raise RecipeError(
                    f"{got}; TensorRT's TopK takes at most {MAX_BUDGET}, so lower {key} or "
                    "input.size"
                )
            counts.append(count)
            previous_key, previous = key, count
        return Budgets(*counts)


@dataclass(frozen=True)
class ExportRecipe:
    """One exported bundle.

    Attributes:
        model: what the weights do not say.
        height, width: input in pixels, multiples of 32.
        batch: videos per call.
        budgets: fixed keep budgets; None for a dense model.
        slots: T, track queries that one call can carry.
        precision: numeric type of weights and activations: "fp32"; "int8" for the linear layers'
            weights and, measured anew in every frame, their inputs (for the CPU); "fp16" or "bf16"
            but for the islands of `models/precision.py` (for GPUs).
        target: "cpu" writes what ONNX Runtime runs fastest there, "gpu" what TensorRT compiles,
            with masks made on the device.

    Raises:
        RecipeError: a value is out of range.
    """

    height: int
    width: int
    model: ModelSettings = field(default_factory=ModelSettings)
    batch: int = 1
    budgets: BudgetShares | None = None
    slots: int = 32
    precision: str = "fp32"
    target: str = "cpu"

    def __post_init__(self) -> None:
        for side in (self.height, self.width):
            if not _MIN_SIDE <= side <= _MAX_SIDE or side % _STRIDE:
                expected = f"multiples of {_STRIDE} from {_MIN_SIDE} to {_MAX_SIDE}"
                refuse("input.size", [self.height, self.width], expected)
        if not 1 <= self.batch <= 64:
            refuse("input.batch", self.batch, "1 to 64")
        if not 1 <= self.slots <= 512:
            refuse("tracks.slots", self.slots, "1 to 512")
        if self.precision not in PRECISIONS:
            refuse("export.precision", self.precision, " or ".join(f'"{p}"' for p in PRECISIONS))
        if self.precision == "int8" and self.batch > 1:
            # One range is measured over the whole input, so streams would change each other.
            refuse("export.precision", "int8", f'"fp32", as input.batch is {self.batch}')
        if self.target not in TARGETS:
            refuse("export.target", self.target, " or ".join(f'"{t}"' for t in TARGETS))
        fitting = self.target if self.precision == "fp32" else target_of(self.precision)
        if self.target != fitting:
            refuse(
                "export.target",
                self.target,
                f'"{fitting}", as export.precision is "{self.precision}"',
            )
        if self.budgets is not None and self.model.keep_ratio is not None:
            self.budgets.tokens(self.num_tokens, self.model.keep_ratio)

    @property
    def num_tokens(self) -> int:
        """N = H/16 * W/16 patch tokens."""
        return (self.height // 16) * (self.width // 16)


def target_of(precision: str) -> str:
    """What graphs of this precision are written for where nothing else is said."""
    return "gpu" if precision in ("fp16", "bf16") else "cpu"


def _check_share(key: str, share: float) -> None:
    if not 0 < share <= 1:
        refuse(key, share, "a number above 0 and at most 1")


def refuse(key: str, got: object, expected: str) -> NoReturn:
    """Raises the RecipeError of a value that is not what was expected."""
    raise RecipeError(f"{key} = {got!r}; expected {expected}")
