"""Which tokens run, and what is remembered of them, in the whole model (MODEL.md 2.2 to 2.4)."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.mini import INPUT_SIZE, SHARES, frames, mini_config, mini_tensors
from vpp_deploy.checkpoints.keys import canonical_key, is_unused
from vpp_deploy.models.backbone import GridConstants, Selection, StemOutput
from vpp_deploy.models.config import ModelConfig
from vpp_deploy.models.selectors import MapSelector, TokenMemory
from vpp_deploy.models.tokens import best, take
from vpp_deploy.models.vpp import PUBLISHED, FrameOutput, VppModel
from vpp_deploy.partition.plan import plan_pipeline
from vpp_deploy.recipes import BudgetShares
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.runtime.torch_runner import TorchRunner

GRID = (INPUT_SIZE[0] // 16, INPUT_SIZE[1] // 16)
N = GRID[0] * GRID[1]
COUNTS = tuple(int(N * share) for share in SHARES)
BUDGETS = Selection(counts=(COUNTS[0], COUNTS[1], COUNTS[2]))


def mini_model(config: ModelConfig | None = None) -> VppModel:
    """The mini model with the weights of its checkpoint; a dense one takes the pruned one's."""
    model = VppModel(config or mini_config())
    weights = {
        canonical_key(key): torch.from_numpy(value)
        for key, value in mini_tensors(mini_config()).items()
        if not is_unused(key)
    }
    own = model.state_dict()
    model.load_state_dict(own | {key: weights[key] for key in own if key in weights})
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model() -> VppModel:
    return mini_model()


def zeroed(pattern: str) -> VppModel:
    """A model whose selectors of that name score every token alike."""
    model = mini_model()
    for name, parameter in model.named_parameters():
        if pattern in name and "fc2" in name:
            parameter.zero_()
    return model


def dropping_everything() -> VppModel:
    """A model whose selector at block 3 keeps nothing under the published rule."""
    model = mini_model()
    last: Any = model.backbone.selective_modules[0]
    last.mlp.fc2.bias.copy_(torch.tensor([-1000.0, 1000.0]))
    return model


def images(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.stack([frame.rgb for frame in frames(count, seed)]))


def step(
    model: VppModel,
    frame_HW3: Tensor,
    memory: TokenMemory | None,
    selection: Selection = PUBLISHED,
) -> FrameOutput:
    return step_batch(model, frame_HW3[None], (memory,), selection)


def step_batch(
    model: VppModel,
    frames_BHW3: Tensor,
    memories: Sequence[TokenMemory | None],
    selection: Selection,
) -> FrameOutput:
    batch = len(frames_BHW3)
    tracks = torch.zeros(batch, 0, model.config.head_width)
    sizes = torch.tensor([INPUT_SIZE] * batch)
    valid = torch.zeros(batch, 0, dtype=torch.bool)
    return model(frames_BHW3, sizes, memories, tracks, valid, selection)  # type: ignore[no-any-return]


def counts(out: FrameOutput, stream: int = 0) -> list[int]:
    return [positions.shape[1] for positions in out.kept[stream]]


def positions(out: FrameOutput, stream: int = 0) -> list[list[int]]:
    return [kept[0].tolist() for kept in out.kept[stream]]


class Watched:
    """The tokens that enter a model's blocks, and those that leave block 0 and the extractors."""

    def __init__(self, model: VppModel) -> None:
        self.rows: list[int] = []
        self.after_block_0 = torch.empty(0)
        self.at_extractor_0 = torch.empty(0)
        self.at_extractor_1 = torch.empty(0)
        backbone = model.backbone
        for block in backbone.blocks:
            block.register_forward_pre_hook(lambda m, i: self.rows.append(i[0].shape[1]))
        backbone.blocks[0].register_forward_hook(
            lambda m, i, out: setattr(self, "after_block_0", out)
        )
        for n in (0, 1):
            extractor = backbone.interactions[n].extractor
            assert isinstance(extractor, nn.Module)
            extractor.register_forward_pre_hook(
                lambda m, i, n=n: setattr(self, f"at_extractor_{n}", i[1])
            )


class TestNothingSurvived:
    """Published rule, no token of the previous frame ran in block 5 (2.3, 6)."""

    def test_every_token_runs_in_every_block(self) -> None:
        model = mini_model()
        watched = Watched(model)
        frame = images(1)[0]
        width = model.config.width
        nothing = TokenMemory(
            torch.zeros(1, 0, width), torch.zeros(1, 0), torch.zeros(1, 0, dtype=torch.int64)
        )
        cold = step(model, frame, None)
        assert counts(cold)[0] == N
        assert counts(cold)[1] < N
        watched.rows.clear()
        out = step(model, frame, nothing)
        assert counts(out) == [N] * 4
        assert watched.rows == [N] * 12
        assert out.memories[0] is not None
        assert out.memories[0].positions_BK[0].tolist() == list(range(N))

    def test_frame_after_frame(self) -> None:
        model = dropping_everything()
        k1 = int(N * 0.7)
        memory: TokenMemory | None = None
        seen = []
        for frame in images(4):
            out = step(model, frame, memory)
            assert all(torch.isfinite(level).all() for level in out.features)
            memory = out.memories[0]
            seen.append(counts(out))
        assert seen == [[N, 0, 0, 0], [N] * 4, [k1, 0, 0, 0], [N] * 4]

    def test_a_block_without_tokens_changes_nothing(self) -> None:
        model = dropping_everything()
        watched = Watched(model)
        out = step(model, images(1)[0], None)
        after_block_2 = watched.at_extractor_0
        injected = _injected(model, 1, lambda: step(model, images(1)[0], None))
        torch.testing.assert_close(watched.at_extractor_1, injected, rtol=0, atol=0)
        assert not torch.equal(after_block_2, injected)
        assert counts(out)[1:] == [0, 0, 0]

    def test_in_a_session(self) -> None:
        model = dropping_everything()
        runner = TorchRunner(plan_pipeline(model, INPUT_SIZE, None, None))
        session = VideoSession(runner)
        names = ("kept_1_2", "ref_positions", "kept_6_8", "kept_9_11")
        seen = []
        for t, frame in enumerate(frames(4)):
            session.step(frame)
            seen.append([runner.download(name).shape[1] for name in names[0 if t else 1 :]])
        assert seen == [[0, 0, 0], [N] * 4, [int(N * 0.7), 0, 0, 0], [N] * 4]


def _injected(model: VppModel, interaction: int, run: Any) -> Tensor:
    """What an injector returns during `run`."""
    outputs: list[Tensor] = []
    injector = model.backbone.interactions[interaction].injector
    assert isinstance(injector, nn.Module)
    handle = injector.register_forward_hook(lambda m, i, out: outputs.append(out))
    run()
    handle.remove()
    return outputs[-1]


class TestReferenceTokens:
    """Both behaviours of 2.3: what the next frame's tokens are compared with."""

    @pytest.mark.parametrize("selection", [PUBLISHED, BUDGETS])
    def test_published_evaluation(self, selection: Selection) -> None:
        model = mini_model(replace(mini_config(), reference_tokens="after_block_2"))
        watched = Watched(model)
        memory: TokenMemory | None = None
        for frame in images(3):
            out = step(model, frame, memory, selection)
            memory = out.memories[0]
            assert memory is not None
            torch.testing.assert_close(
                memory.tokens_BKC, take(watched.at_extractor_0, memory.positions_BK), rtol=0, atol=0
            )
            # Tokens that blocks 1 and 2 skipped are among them as they were.
            dropped = np.setdiff1d(np.arange(N), out.kept[0][0][0].numpy())
            torch.testing.assert_close(
                watched.at_extractor_0[:, dropped], watched.after_block_0[:, dropped]
            )

    @pytest.mark.parametrize("selection", [PUBLISHED, BUDGETS])
    def test_training(self, selection: Selection) -> None:
        model = mini_model(replace(mini_config(), reference_tokens="entry_of_block_1"))
        watched = Watched(model)
        memory: TokenMemory | None = None
        for frame in images(3):
            memory = step(model, frame, memory, selection).memories[0]
            assert memory is not None
            torch.testing.assert_close(
                memory.tokens_BKC, take(watched.after_block_0, memory.positions_BK), rtol=0, atol=0
            )

    def test_they_differ_from_the_second_frame_on(self) -> None:
        published = mini_model(replace(mini_config(), reference_tokens="after_block_2"))
        training = mini_model(replace(mini_config(), reference_tokens="entry_of_block_1"))
        memories: list[TokenMemory | None] = [None, None]
        equal = []
        for frame in images(6):
            outs = [step(m, frame, memories[i]) for i, m in enumerate((published, training))]
            memories = [out.memories[0] for out in outs]
            equal.append(positions(outs[0]) == positions(outs[1]))
        assert equal[0]
        assert not all(equal)

    def test_the_default_is_the_published_evaluation(self) -> None:
        assert mini_config().reference_tokens == "after_block_2"

    def test_scores_are_of_the_tokens_after_block_5(self) -> None:
        model = mini_model()
        watched = Watched(model)
        memory = step(model, images(1)[0], None).memories[0]
        assert memory is not None
        selector = map_selector(model)
        every = selector.token_scores(watched.at_extractor_1)
        torch.testing.assert_close(memory.scores_BK, every.gather(1, memory.positions_BK))


def map_selector(model: VppModel) -> MapSelector:
    selector = model.backbone.interactions[0].matching_module
    assert isinstance(selector, MapSelector)
    return selector


class TestCompactMemory:
    """Carrying the rows that ran gives what whole maps would give (2.3)."""

    @pytest.mark.parametrize("seed", range(4))
    def test_against_whole_maps(self, model: VppModel, seed: int) -> None:
        selector = map_selector(model)
        rng = np.random.default_rng(seed)
        width, ratio = model.config.width, 0.7
        q, k, v = (rng.normal(0, 2, (N, width)).astype(np.float32) for _ in range(3))
        ran = np.sort(rng.choice(N, 7 + 8 * seed, replace=False))
        at = torch.from_numpy(ran)[None]
        memory = TokenMemory(
            torch.from_numpy(k[ran])[None],
            selector.token_scores(torch.from_numpy(v[ran])[None]),
            at,
        )
        constants = model.backbone.constants(INPUT_SIZE)
        kept = model.backbone.select(
            torch.from_numpy(q)[None], memory, constants, GRID, torch.zeros(1, N)
        )
        expected = _map_sm_of_the_paper(selector, q, k, v, np.isin(np.arange(N), ran), ratio)
        assert kept[0].tolist() == sorted(expected)

    def test_streams_do_not_mix(self, model: VppModel) -> None:
        constants = model.backbone.constants(INPUT_SIZE)
        generator = torch.Generator().manual_seed(0)
        q = torch.randn(3, N, model.config.width, generator=generator) * 2
        memory = TokenMemory(
            torch.randn(3, 9, model.config.width, generator=generator),
            torch.randn(3, 9, generator=generator),
            torch.stack([torch.arange(9) * s for s in (1, 3, 5)]),
        )
        noise = torch.zeros(3, N)
        together = model.backbone.select(q, memory, constants, GRID, noise)
        for s in range(3):
            alone = TokenMemory(*(tensor[s : s + 1] for tensor in memory))
            kept = model.backbone.select(q[s : s + 1], alone, constants, GRID, noise[:1])
            assert torch.equal(kept[0], together[s])


def _map_sm_of_the_paper(
    selector: MapSelector,
    q_NC: NDArray[np.float32],
    k_NC: NDArray[np.float32],
    v_NC: NDArray[np.float32],
    m_N: NDArray[np.bool_],
    keep_ratio: float,
) -> list[int]:
    """MODEL.md 2.3 word by word, over all N tokens, in double precision."""
    h, w = GRID
    y = np.linspace(0, 1, h).repeat(w)
    x = np.tile(np.linspace(0, 1, w), h)
    d = np.abs(y[:, None] - y) + np.abs(x[:, None] - x)
    phi = q_NC.astype(np.float64) @ k_NC.T.astype(np.float64) + np.log10(10 * (2 - d) / 2 + 1e-6)
    phi[:, ~m_N] = -np.inf
    looked_up = torch.from_numpy(v_NC[phi.argmax(1)])
    logits = selector.selector(selector.norm_selector(looked_up)).double()
    log_probabilities = logits.log_softmax(1).numpy().reshape(h, w, 2)
    padded = np.pad(log_probabilities, ((4, 4), (4, 4), (0, 0)), mode="edge")
    pooled = np.empty((h, w, 2))
    for i in range(h):
        for j in range(w):
            pooled[i, j] = padded[i : i + 9, j : j + 9].mean((0, 1))
    difference = (pooled[..., 0] - pooled[..., 1]).ravel()
    order = np.argsort(-difference, kind="stable")
    chosen: list[int] = order[: int(N * keep_ratio)].tolist()
    return chosen


class TestBudgets:
    """Fixed keep budgets (2.4)."""

    def test_counts_and_nesting(self, model: VppModel) -> None:
        memory: TokenMemory | None = None
        for t, frame in enumerate(images(3)):
            out = step(model, frame, memory, BUDGETS)
            memory = out.memories[0]
            assert counts(out) == [int(N * 0.7) if t else N, *COUNTS]
            groups = [set(group) for group in positions(out)]
            for before, after in itertools.pairwise(groups):
                assert after < before
            for group in positions(out):
                assert group == sorted(group)

    def test_budgets_of_a_recipe_are_these(self) -> None:
        budgets = BudgetShares(*SHARES).tokens(N, 0.7)
        got = (budgets.blocks_1_2, budgets.blocks_3_5, budgets.blocks_6_8, budgets.blocks_9_11)
        assert got == (int(N * 0.7), *COUNTS)

    def test_blocks_see_the_kept_tokens_alone(self) -> None:
        model = mini_model()
        watched = Watched(model)
        first, second = images(2)
        out = step(model, first, None, BUDGETS)
        k3, k6, k9 = COUNTS
        assert watched.rows == [N] * 3 + [k3] * 3 + [k6] * 3 + [k9] * 3
        watched.rows.clear()
        step(model, second, out.memories[0], BUDGETS)
        assert watched.rows == [N] + [int(N * 0.7)] * 2 + [k3] * 3 + [k6] * 3 + [k9] * 3

    def test_the_best_are_kept(self, model: VppModel) -> None:
        """Whatever ran in block 3 scores at least as well there as what was dropped."""
        frame = images(1)[0]
        entry = _injected(model, 1, lambda: step(model, frame, None, BUDGETS))
        out = step(model, frame, None, BUDGETS)
        scores = model.backbone.selective_modules[0](entry)[0]
        kept = torch.isin(torch.arange(N), out.kept[0][1][0])
        assert scores[kept].min() >= scores[~kept].max()

    def test_ties_go_to_the_lowest_position_in_the_selective_modules(self) -> None:
        out = step(zeroed("selective_modules"), images(1)[0], None, BUDGETS)
        assert positions(out)[1:] == [list(range(count)) for count in COUNTS]

    def test_ties_go_to_the_lowest_position_in_map_sm(self) -> None:
        model = zeroed("matching_module")
        first, second = images(2)
        out = step(model, first, None, BUDGETS)
        out = step(model, second, out.memories[0], BUDGETS)
        assert positions(out)[0] == list(range(int(N * 0.7)))

    def test_best_breaks_ties_within_and_across_values(self) -> None:
        scores = torch.tensor([[1.0, 2.0, 2.0, 0.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 5.0]])
        assert best(scores, 2).tolist() == [[1, 2], [0, 5]]
        assert best(scores, 4).tolist() == [[0, 1, 2, 4], [0, 1, 2, 5]]

    def test_streams_step_together_as_alone(self, model: VppModel) -> None:
        """One stream is at its first frame while the other is not."""
        warm = step(model, images(1)[0], None, BUDGETS).memories[0]
        frames_2 = torch.stack([images(2)[1], images(1, seed=5)[0]])
        together = step_batch(model, frames_2, (warm, None), BUDGETS)
        for s, memory in enumerate((warm, None)):
            alone = step(model, frames_2[s], memory, BUDGETS)
            assert positions(together, s) == positions(alone)
            for a, b in zip(together.features, alone.features, strict=True):
                torch.testing.assert_close(a[s], b[0], rtol=0, atol=1e-4)

    def test_dropped_tokens_are_seen_by_the_adapters(self, model: VppModel) -> None:
        """A token that no later block runs still comes out of the injectors and in the features."""
        frame = images(1)[0]
        out = step(model, frame, None, BUDGETS)
        entry, last = (
            _injected(model, i, lambda: step(model, frame, None, BUDGETS)) for i in (1, 3)
        )
        dropped = np.setdiff1d(np.arange(N), out.kept[0][1][0].numpy())
        assert (entry[:, dropped] != last[:, dropped]).any(-1).all()


class TestEverythingKept:
    """Budgets of N tokens are no pruning at all."""

    ALL = Selection(counts=(N, N, N))

    def test_equal_to_the_dense_model(self, model: VppModel) -> None:
        dense = mini_model(replace(mini_config(pruned=False)))
        for block in dense.backbone.blocks:
            for norm in (m for m in block.modules() if isinstance(m, nn.LayerNorm)):
                assert norm.eps == 1e-6
                norm.eps = 1e-5  # the only other difference between the two (2.1)
        frame = images(1)[0]
        pruned, expected = step(model, frame, None, self.ALL), step(dense, frame, None)
        for ours, theirs in zip(pruned.features, expected.features, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
        torch.testing.assert_close(
            pruned.head.class_logits_BQK, expected.head.class_logits_BQK, rtol=0, atol=2e-3
        )
        assert expected.memories == (None,)
        assert expected.kept == ((),)

    def test_equal_to_selectors_that_are_overruled(self, model: VppModel) -> None:
        constants = model.backbone.constants(INPUT_SIZE)
        stem = _stem(model, constants)
        every = torch.arange(N)[None]
        tokens = []
        for selection in (self.ALL, Selection(keep_all=True)):
            out = model.backbone.trunk(
                stem.tokens_BNC, stem.pyramid_BMC, every, selection, constants, GRID
            )
            tokens.append(torch.cat((out.tokens_BNC, out.pyramid_BMC), dim=1))
        torch.testing.assert_close(tokens[0], tokens[1], rtol=0, atol=1e-5)


def _stem(model: VppModel, constants: GridConstants) -> StemOutput:
    image = images(1).permute(0, 3, 1, 2).float() / 64 - 2
    return model.backbone.stem(image, constants)


class TestNoise:
    """The ranking noise of the published code, as an input."""

    def _kept(self, model: VppModel, noise_BN: Tensor) -> list[int]:
        constants = model.backbone.constants(INPUT_SIZE)
        first, second = images(2)
        memory = step(model, first, None, BUDGETS).memories[0]
        assert memory is not None
        image = second[None].permute(0, 3, 1, 2).float() / 64 - 2
        tokens = model.backbone.stem(image, constants).tokens_BNC
        kept: list[int] = model.backbone.select(tokens, memory, constants, GRID, noise_BN)[
            0
        ].tolist()
        return kept

    def test_zeros_change_nothing(self, model: VppModel) -> None:
        zeros = torch.zeros(1, N)
        assert self._kept(model, zeros) == self._kept(model, zeros + 1)  # a shift, no ranking

    def test_noise_changes_the_choice(self, model: VppModel) -> None:
        noise = torch.randn(1, N, generator=torch.Generator().manual_seed(0)) * 10
        plain, noisy = self._kept(model, torch.zeros(1, N)), self._kept(model, noise)
        assert len(noisy) == len(plain)
        assert noisy != plain

    def test_noise_can_let_any_token_in(self, model: VppModel) -> None:
        plain = self._kept(model, torch.zeros(1, N))
        dropped = sorted(set(range(N)) - set(plain))[0]
        noise = torch.zeros(1, N)
        noise[0, dropped] = 1e3
        assert dropped in self._kept(model, noise)
