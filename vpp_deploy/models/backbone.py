"""ViT-Adapter with token selection (MODEL.md 2), in the three pieces that deployment cuts it into.

Shapes: B batch, H W padded input, h = H/16, w = W/16, N = h*w tokens, M = 5.25 N pyramid tokens,
K tokens that run, C width.

    image -> stem -> tokens at the entry of block 1, pyramid, map at 1/4
    tokens, memory of the previous frame -> Map-SM -> positions of the K tokens that run
    tokens, pyramid, positions -> trunk -> tokens, pyramid, memory for the next frame
    tokens, pyramid, map at 1/4 -> four feature maps
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpp_deploy.models.adapter import Interaction, pyramid_sizes, split_levels
from vpp_deploy.models.config import ModelConfig
from vpp_deploy.models.deformable import Sampler, sample_grid
from vpp_deploy.models.positions import cell_centres
from vpp_deploy.models.selectors import MapSelector, SelectiveModule, TokenMemory, distance_prior
from vpp_deploy.models.spatial_prior import SpatialPrior
from vpp_deploy.models.tokens import all_positions, best, put, take
from vpp_deploy.models.vit import Block, PatchEmbed, resize_position_embedding

NUM_INTERACTIONS = 4


@dataclass(frozen=True)
class Selection:
    """How many tokens the selective modules at blocks 3, 6 and 9 keep.

    Attributes:
        counts: fixed budgets (deployment), or None for the published threshold rule, whose counts
            vary from stream to stream, so that it takes one stream at a time.
        forced: positions (B, K) that run instead of the modules' own choice, to compare values
            under equal decisions.
        keep_all: the published arithmetic of a frame whose predecessor kept nothing (2.3, 6):
            every token in every block.
    """

    counts: tuple[int, int, int] | None = None
    forced: tuple[Tensor, Tensor, Tensor] | None = None
    keep_all: bool = False


class GridConstants(NamedTuple):
    """What depends on the input size alone: computed once, at export for exported models."""

    position_embedding_1NC: Tensor
    patch_centres_N2: Tensor
    pyramid_centres_M2: Tensor
    distance_prior_NN: Tensor


class StemOutput(NamedTuple):
    """Dense part of a frame: everything through block 0.

    Attributes:
        tokens_BNC: at the entry of block 1.
        pyramid_BMC: tokens of c2, c3, c4.
        stride4_BSHW: the spatial prior's map at 1/4, S its stem's width.
    """

    tokens_BNC: Tensor
    pyramid_BMC: Tensor
    stride4_BSHW: Tensor


class TrunkOutput(NamedTuple):
    """The last tokens, and what the selections left behind.

    Attributes:
        tokens_BNC: after block 11.
        pyramid_BMC: after the last extractor.
        memory: temporal state for the next frame (None: dense model).
        kept: positions that the selective modules chose for blocks 3-5, 6-8 and 9-11, which ran
            unless others were forced (empty: dense model).
    """

    tokens_BNC: Tensor
    pyramid_BMC: Tensor
    memory: TokenMemory | None
    kept: tuple[Tensor, ...]


class VppBackbone(nn.Module):
    """Dense stem, Map-SM, pruned trunk. Holds weights only; the state goes in and out."""

    def __init__(self, config: ModelConfig, sampler: Sampler = sample_grid) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.pos_grid**2, width))
        self.level_embed = nn.Parameter(torch.zeros(3, width))
        self.patch_embed = PatchEmbed(config.patch_size, width)
        self.spm = SpatialPrior(config.stem_width, width)
        eps = 1e-5 if config.pruned else 1e-6
        self.blocks = nn.ModuleList(
            Block(width, config.vit_heads, config.mlp_width, eps) for _ in range(config.num_blocks)
        )
        last = NUM_INTERACTIONS - 1
        map_selector = None
        if config.pruned:
            assert config.selector_width is not None
            assert config.map_selector_width is not None
            map_selector = MapSelector(width, config.map_selector_width)
            self.selective_modules = nn.ModuleList(
                SelectiveModule(width, config.selector_width) for _ in range(last)
            )
        self.interactions = nn.ModuleList(
            [
                Interaction(config, sampler, map_selector=map_selector),
                *(Interaction(config, sampler) for _ in range(last - 1)),
                Interaction(config, sampler, extra_extractors=2),
            ]
        )
        self.up = nn.ConvTranspose2d(width, width, 2, 2)
        self.norm1 = nn.BatchNorm2d(width)
        self.norm2 = nn.BatchNorm2d(width)
        self.norm3 = nn.BatchNorm2d(width)
        self.norm4 = nn.BatchNorm2d(width)

    def grid(self, input_size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the patches of an input of (H, W) pixels."""
        return input_size[0] // self.config.patch_size, input_size[1] // self.config.patch_size

    def constants(self, input_size: tuple[int, int]) -> GridConstants:
        """Constants for inputs of (H, W) pixels, both multiples of 32."""
        grid = self.grid(input_size)
        device = self.pos_embed.device
        return GridConstants(
            resize_position_embedding(self.pos_embed, grid),
            cell_centres((grid,)).to(device),
            cell_centres(pyramid_sizes(grid)).to(device),
            distance_prior(grid).to(device) if self.config.pruned else torch.zeros(0, 0),
        )

    def stem(self, image_B3HW: Tensor, constants: GridConstants) -> StemOutput:
        """Normalised image to the tokens at the entry of block 1 (MODEL.md 2.1)."""
        stride4_BSHW, c_BMC = self.spm(image_B3HW, self.level_embed)
        return StemOutput(self.first_block(image_B3HW, c_BMC, constants), c_BMC, stride4_BSHW)

    def first_block(self, image_B3HW: Tensor, c_BMC: Tensor, constants: GridConstants) -> Tensor:
        """Tokens at the entry of block 1, from the image and the pyramid's tokens."""
        grid = self.grid((image_B3HW.shape[2], image_B3HW.shape[3]))
        x_BNC = self.patch_embed(image_B3HW) + constants.position_embedding_1NC
        x_BNC = self._inject(0, x_BNC, c_BMC, grid, constants)
        tokens_BNC: Tensor = self.blocks[0](x_BNC)
        return tokens_BNC

    def select(
        self,
        x_BNC: Tensor,
        memory: TokenMemory,
        constants: GridConstants,
        grid: tuple[int, int],
        noise_BN: Tensor,
    ) -> Tensor:
        """Map-SM: positions (B, int(N * keep_ratio)) that run in blocks 1 and 2 (MODEL.md 2.3).

        Under the published rule a frame whose predecessor kept nothing (K = 0 in the memory) runs
        every token, in every block: `Selection.keep_all` is for the trunk of that frame.
        """
        if memory.is_empty:
            return all_positions(x_BNC.shape[0], x_BNC.shape[1], x_BNC.device)
        assert self.config.keep_ratio is not None
        count = int(x_BNC.shape[1] * self.config.keep_ratio)
        prior_NN = constants.distance_prior_NN
        kept_BK: Tensor = self._map_selector(x_BNC, memory, prior_NN, grid, count, noise_BN)
        return kept_BK

    def trunk(
        self,
        tokens_BNC: Tensor,
        pyramid_BMC: Tensor,
        keep_BK: Tensor | None,
        selection: Selection,
        constants: GridConstants,
        grid: tuple[int, int],
    ) -> TrunkOutput:
        """Blocks 1 to 11 on the tokens that are kept, adapters on all (MODEL.md 2.1, 2.2).

        Args:
            tokens_BNC: at the entry of block 1.
            pyramid_BMC: from the stem.
            keep_BK: positions that run in blocks 1 and 2, ascending; None for a dense model.
            selection: what the selective modules keep afterwards.
            constants: of this input size.
            grid: (h, w).
        """
        x_BNC = self._run_blocks(0, tokens_BNC, keep_BK)
        after_block_2_BNC = x_BNC
        c_BMC = self._extract(0, pyramid_BMC, x_BNC, grid, constants)
        kept: list[Tensor] = []
        memory: TokenMemory | None = None
        for i in range(1, NUM_INTERACTIONS):
            x_BNC = self._inject(i, x_BNC, c_BMC, grid, constants)
            if keep_BK is not None:
                kept.append(self._choose(i, x_BNC, keep_BK, selection))
                keep_BK = kept[-1] if selection.forced is None else selection.forced[i - 1]
            x_BNC = self._run_blocks(i, x_BNC, keep_BK)
            if i == 1 and keep_BK is not None:
                published = self.config.reference_tokens == "after_block_2"
                reference_BNC = after_block_2_BNC if published else tokens_BNC
                scores_BK = self._map_selector.token_scores(take(x_BNC, keep_BK))
                memory = TokenMemory(take(reference_BNC, keep_BK), scores_BK, keep_BK)
            c_BMC = self._extract(i, c_BMC, x_BNC, grid, constants)
        return TrunkOutput(x_BNC, c_BMC, memory, tuple(kept))

    @property
    def _map_selector(self) -> MapSelector:
        module = self._interaction(0).matching_module
        assert module is not None, "a dense model has no Map-SM"
        return module

    def _interaction(self, i: int) -> Interaction:
        interaction = self.interactions[i]
        assert isinstance(interaction, Interaction)
        return interaction

    def _inject(
        self, i: int, x_BNC: Tensor, c_BMC: Tensor, grid: tuple[int, int], constants: GridConstants
    ) -> Tensor:
        injected_BNC: Tensor = self._interaction(i).injector(
            x_BNC, c_BMC, constants.patch_centres_N2, pyramid_sizes(grid)
        )
        return injected_BNC

    def _extract(
        self, i: int, c_BMC: Tensor, x_BNC: Tensor, grid: tuple[int, int], constants: GridConstants
    ) -> Tensor:
        interaction = self._interaction(i)
        for extractor in (interaction.extractor, *interaction.extra_extractors):
            c_BMC = extractor(c_BMC, x_BNC, constants.pyramid_centres_M2, grid, pyramid_sizes(grid))
        return c_BMC

    def _run_blocks(self, i: int, x_BNC: Tensor, keep_BK: Tensor | None) -> Tensor:
        """Blocks of interaction `i` but block 0, on the kept tokens, written back in place."""
        per = self.config.num_blocks // NUM_INTERACTIONS
        rows_BKC = x_BNC if keep_BK is None else take(x_BNC, keep_BK)
        for block in self.blocks[max(1, i * per) : (i + 1) * per]:
            rows_BKC = block(rows_BKC)
        return rows_BKC if keep_BK is None else put(x_BNC, keep_BK, rows_BKC)

    def _choose(self, i: int, x_BNC: Tensor, keep_BK: Tensor, selection: Selection) -> Tensor:
        """Positions that selective module `i - 1` keeps of those still kept."""
        if selection.keep_all:
            return keep_BK
        scores_BK = self.selective_modules[i - 1](take(x_BNC, keep_BK))
        if selection.counts is not None:
            return keep_BK.gather(1, best(scores_BK, selection.counts[i - 1]))
        assert keep_BK.shape[0] == 1, "the threshold rule takes one stream at a time"
        return keep_BK[:, scores_BK[0] >= 0]

    def features(
        self, x_BNC: Tensor, c_BMC: Tensor, stride4_BSHW: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """f1 to f4, each (B, C, height, width), at strides 4, 8, 16, 32 (MODEL.md 2.1, tail)."""
        c2, c3, c4 = split_levels(c_BMC, pyramid_sizes(grid))
        c1 = self.up(c2) + self.spm.fc1(stride4_BSHW)
        (x,) = split_levels(x_BNC, (grid,))
        sized = [
            level + (x if level.shape[2:] == x.shape[2:] else resize_like(x, level))
            for level in (c1, c2, c3, c4)
        ]
        return (
            self.norm1(sized[0]),
            self.norm2(sized[1]),
            self.norm3(sized[2]),
            self.norm4(sized[3]),
        )


def resize_like(x_BChw: Tensor, like: Tensor) -> Tensor:
    """Bilinear, to the size of another map."""
    size = (like.shape[2], like.shape[3])
    return F.interpolate(x_BChw, size=size, mode="bilinear", align_corners=False)
