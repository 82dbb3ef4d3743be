"""What each float32 island of a half precision model is worth, by taking it away.

    python -m benchmarks.islands [--size 544x960] [--frames N] [--precision fp16]

PyTorch in half precision against PyTorch in fp32, values under equal tokens and attention masks,
over a synthetic scene: with every island, without each, without any; VPP Tiny, weights by formula.
Differences are root mean squares, as shares of the output's spread.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.environment import describe
from vpp_deploy.checkpoints.formula import write_formula_checkpoint
from vpp_deploy.checkpoints.load import build_model
from vpp_deploy.checkpoints.reader import Checkpoint, read_checkpoint
from vpp_deploy.cli.arguments import parse_size
from vpp_deploy.models.deformable import sample_gather
from vpp_deploy.models.precision import ISLANDS, Island
from vpp_deploy.parity import compare
from vpp_deploy.parity_report import ParityReport
from vpp_deploy.partition.plan import inspected_plan, plan_pipeline
from vpp_deploy.recipe_files import load_recipe
from vpp_deploy.recipes import ExportRecipe
from vpp_deploy.runtime.torch_runner import TorchRunner
from vpp_deploy.video.synthetic import moving_scene

RECIPE = Path(__file__).parents[1] / "export" / "tiny-40.toml"
VALUES = ("tokens", "projected4", "projected32", "ref_scores", "class_logits", "mask_logits")


def main(
    size: Annotated[str, typer.Option(help="Input, HxW.")] = "544x960",
    frames: Annotated[int, typer.Option(min=2)] = 4,
    precision: Annotated[str, typer.Option(help="fp16 or bf16.")] = "fp16",
) -> None:
    """Prints one row for each set of islands."""
    height, width = parse_size(size)
    recipe = dataclasses.replace(load_recipe(RECIPE), height=height, width=width)
    print(*(f"{key}: {value}" for key, value in describe().items()), sep="\n")
    print(f"\nVPP Tiny, formula weights, {size}, {frames} frames, {precision}\n")
    print(f"| islands | {' | '.join(VALUES)} | equal tokens, worst frame |")
    print("|---|" + "---:|" * (len(VALUES) + 1))
    rows: list[tuple[str, tuple[Island, ...]]] = [("all", ISLANDS)]
    rows += [(f"without {i.name}", tuple(o for o in ISLANDS if o is not i)) for i in ISLANDS]
    rows += [("none", ())]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.safetensors"
        write_formula_checkpoint(path, "tiny")
        checkpoint = read_checkpoint(path)
        for name, islands in rows:
            report = _compared(checkpoint, recipe, precision, islands, frames)
            values = [f"{report.outputs[value].rms_ratio:.1e}" for value in VALUES]
            tokens = ", ".join(f"{share:.1%}" for share in report.equal_tokens.values())
            print(f"| {name} | {' | '.join(values)} | {tokens} |", flush=True)


def _compared(
    checkpoint: Checkpoint,
    recipe: ExportRecipe,
    precision: str,
    islands: tuple[Island, ...],
    frames: int,
) -> ParityReport:
    lowered = build_model(checkpoint, recipe.model, sample_gather)
    assert recipe.budgets is not None
    assert lowered.config.keep_ratio is not None
    budgets = recipe.budgets.tokens(recipe.num_tokens, lowered.config.keep_ratio)
    size = (recipe.height, recipe.width)
    plan = plan_pipeline(lowered, size, budgets, recipe.slots, precision=precision, islands=islands)
    reference = build_model(checkpoint, recipe.model)
    scene = ([frame] for frame in moving_scene(size, frames))
    counts = dataclasses.astuple(budgets)[1:]
    return compare(reference, counts, TorchRunner(inspected_plan(plan)), scene)


if __name__ == "__main__":
    typer.run(main)
