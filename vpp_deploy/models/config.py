"""The sizes of a VPP model (MODEL.md, sections 2, 3 and 6)."""

from dataclasses import dataclass
from typing import Literal

YOUTUBE_VIS_2021 = tuple(
    "airplane bear bird boat car cat cow deer dog duck earless_seal elephant fish flying_disc fox "
    "frog giant_panda giraffe horse leopard lizard monkey motorbike mouse parrot person rabbit "
    "shark skateboard snake snowboard squirrel surfboard tennis_racket tiger train truck turtle "
    "whale zebra".split()
)

ReferenceTokens = Literal["after_block_2", "entry_of_block_1"]
"""Which tokens Map-SM compares with: the published evaluation's, or the training's (2.3)."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that shapes the network. `pruned` is False for the dense baseline.

    Attributes:
        width: C, embedding width of the ViT.
        num_blocks: depth of the ViT; a multiple of four, one interaction for each quarter.
        patch_size: side of a patch in pixels.
        mlp_width: hidden width of a block's MLP.
        vit_heads: attention heads of a block.
        pos_grid: side of the grid that the position embedding is stored for.
        stem_width: width of the spatial prior module's first convolutions.
        adapter_heads, adapter_points: deformable attention of injectors and extractors.
        adapter_ffn_width: hidden width of an extractor's FFN.
        selector_width: hidden width of a selective module (None: dense).
        map_selector_width: hidden width of Map-SM's MLP (None: dense).
        keep_ratio: share of the tokens that Map-SM keeps (None: dense).
        reference_tokens: which tokens Map-SM compares with.
        head_width: width of pixel decoder and transformer decoder.
        pixel_layers, pixel_heads, pixel_points, pixel_ffn_width: pixel decoder.
        decoder_layers, decoder_heads, decoder_ffn_width: transformer decoder.
        num_queries: static queries.
        classes: names, without the background class.
    """

    width: int
    vit_heads: int
    mlp_width: int
    adapter_ffn_width: int
    classes: tuple[str, ...] = YOUTUBE_VIS_2021
    pruned: bool = True
    keep_ratio: float | None = None
    reference_tokens: ReferenceTokens = "after_block_2"
    selector_width: int | None = None
    map_selector_width: int | None = None
    num_blocks: int = 12
    patch_size: int = 16
    pos_grid: int = 14
    stem_width: int = 64
    adapter_heads: int = 6
    adapter_points: int = 4
    head_width: int = 256
    pixel_layers: int = 6
    pixel_heads: int = 8
    pixel_points: int = 4
    pixel_ffn_width: int = 1024
    decoder_layers: int = 9
    decoder_heads: int = 8
    decoder_ffn_width: int = 2048
    num_queries: int = 100

    def __post_init__(self) -> None:
        for width, heads in (
            (self.width, self.vit_heads),
            (self.width, self.adapter_heads),
            (self.head_width, self.pixel_heads),
            (self.head_width, self.decoder_heads),
        ):
            assert width % heads == 0, f"{heads} heads do not divide a width of {width}"
        selects = (self.keep_ratio, self.selector_width, self.map_selector_width)
        assert all((value is not None) == self.pruned for value in selects), selects
