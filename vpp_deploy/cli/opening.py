"""Opening what a command is given as a model, bundle, engine or checkpoint, and their options."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import typer

from vpp_deploy.cli.arguments import check_size, choice, parse_size
from vpp_deploy.cli.console import detail
from vpp_deploy.recipe_files import load_recipe
from vpp_deploy.runtime.exploration import FORMS, NONE, RankNoise, parse_exploration
from vpp_deploy.runtime.opening import (
    CHECKPOINT_SUFFIXES,
    OpenedModel,
    Rule,
    open_bundle,
    open_checkpoint,
)
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.specs import BACKENDS
from vpp_deploy.video.resize import plan_published

BackendOption = Annotated[
    str | None,
    choice(
        BACKENDS, "Who computes the stages; default: an engine's own, and onnxruntime for a bundle."
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, max=256, help="CPU threads; default: one per core.")
]
RuleOption = Annotated[
    Rule | None, typer.Option(help="Selection rule of checkpoints; default: published.")
]
RecipeOption = Annotated[
    Path | None, typer.Option(help="Recipe of checkpoints, where they need one.")
]
SizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="HxW",
        callback=check_size,
        help="Input size of checkpoints; default: the recipe's, else for the first video.",
    ),
]


def _check_exploration(text: str | None) -> str | None:
    try:
        parse_exploration(NONE if text is None else text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return text


ExplorationOption = Annotated[
    str | None,
    typer.Option(
        metavar="POLICY",
        callback=_check_exploration,
        help=f"How background patches are let in, to see what enters late: {FORMS}; "
        f"default: {RankNoise()} where budgets are fixed.",
    ),
]


@dataclass(frozen=True)
class ModelOptions:
    """What the command line says about models; None where it says nothing."""

    backend: str | None
    threads: int | None
    rule: Rule | None
    recipe: Path | None
    size: str | None

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(H, W) of a checkpoint's input that `size` says, else `recipe`; None: neither is given.

        Raises:
            typer.BadParameter: `size` is none.
            RecipeError: the recipe cannot be read.
        """
        if self.size is not None:
            return parse_size(self.size)
        if self.recipe is not None:
            recipe = load_recipe(self.recipe)
            return recipe.height, recipe.width
        return None

    def check(self, paths: Sequence[Path]) -> None:
        """Refuses an option that is for none of these models.

        Raises:
            typer.BadParameter: naming the option.
        """
        checkpoints = [is_checkpoint(path) for path in paths]
        misplaced: dict[str, object] = {}
        if all(checkpoints):
            misplaced = {"--backend": self.backend}
        elif not any(checkpoints):
            misplaced = {"--rule": self.rule, "--recipe": self.recipe, "--size": self.size}
        kind = "bundle or an engine" if all(checkpoints) else "checkpoint"
        named = ", ".join(map(str, paths))
        for option, value in misplaced.items():
            if value is not None:
                raise typer.BadParameter(f"{option} is for a {kind}, and {named} is none")


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is to be opened as a checkpoint; as a bundle or an engine otherwise."""
    return path.suffix in CHECKPOINT_SUFFIXES and not path.is_dir()


def open_model(
    path: Path,
    options: ModelOptions,
    frame_size: tuple[int, int],
    profile_folder: Path | None = None,
    *,
    timed: bool = False,
) -> OpenedModel:
    """Opens a bundle, an engine or a checkpoint.

    Args:
        path: of the model.
        options: those of the model's kind are used; OpenCV takes as many threads as the model.
        frame_size: (Ho, Wo) of the frames; a checkpoint's input size fits them where the options
            set none.
        profile_folder: of a bundle, as `OnnxRunner` takes it.
        timed: of a GPU's runner, as `DeviceRunner` takes it.

    Raises:
        VppDeployError: as `open_bundle` and `open_checkpoint`.
    """
    if options.threads is not None:
        cv2.setNumThreads(options.threads)
    start = time.perf_counter()
    if is_checkpoint(path):
        size = options.input_size or plan_published(*frame_size).padded
        rule = options.rule or "published"
        opened = open_checkpoint(path, size, rule, options.recipe, options.threads)
    else:
        threads, backend = options.threads, options.backend
        opened = open_bundle(path, backend, threads, profile_folder, timed=timed)
    detail(f"{path}: opened in {time.perf_counter() - start:.2f} s, SHA-256 {opened.sha256}")
    return opened


def describe(path: Path, model: OpenedModel, session: VideoSession | None = None) -> str:
    """One line: where the model is from, what computes it, how many tokens it keeps, and how."""
    parts = [f"{path}: {model.kind}"]
    if model.budgets is not None:
        parts.append(f"tokens {'/'.join(map(str, model.budgets))}")
    if session is not None and model.runner.spec.cold_start is not None:
        parts.append(f"exploration {session.choices['exploration']}")
    return ", ".join(parts)
