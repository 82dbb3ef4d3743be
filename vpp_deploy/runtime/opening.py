"""From a path to a pipeline that is ready to run: a bundle, an engine, or a checkpoint."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vpp_deploy.errors import BackendError, BundleError
from vpp_deploy.manifests import MANIFEST_NAME, StageOperations, hash_file, read_manifest
from vpp_deploy.runtime.backends import choose_backend, open_runner
from vpp_deploy.runtime.exploration import (
    Exploration,
    parse_exploration,
    suited_exploration,
)
from vpp_deploy.runtime.postprocess import PostprocessSettings
from vpp_deploy.runtime.runner import PipelineRunner
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.runtime.stream import ResetPolicy
from vpp_deploy.runtime.torch_runner import TorchRunner

Rule = Literal["published", "budgets"]

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class OpenedModel:
    """A pipeline with what its results need to be understood.

    Attributes:
        name: for people to read.
        kind: what was opened and who computes it, for people to read.
        runner: computes the stages.
        classes: names, without background.
        budgets: tokens that run in blocks 1-2, 3-5, 6-8, 9-11; None where they vary or where the
            model is dense.
        sha256: of a bundle's manifest, which holds the hashes of its graphs, or of a checkpoint.
        identity: a hash of all that its results come from: of a checkpoint, the settings that it is
            run with as well.
        operations: stage to what its graph computes; None for a checkpoint, which has no graphs.
        threads: what it was opened with; None: one per core.
    """

    name: str
    kind: str
    runner: PipelineRunner
    classes: tuple[str, ...]
    budgets: tuple[int, ...] | None
    sha256: str
    operations: dict[str, StageOperations] | None
    threads: int | None
    identity: str = ""

    def explored_by(self, text: str | None) -> Exploration | None:
        """The policy that `text` names, or where it is None, the one that suits this model.

        Raises:
            ValueError: as `parse_exploration`.
        """
        return suited_exploration(self.runner.spec) if text is None else parse_exploration(text)

    def session(
        self,
        exploration: Exploration | None = None,
        resets: ResetPolicy | None = None,
        *,
        tokens: bool = False,
    ) -> VideoSession:
        """A session at its first frame, on as many threads as the model was opened with.

        Arguments as `VideoSession` takes them.
        """
        return VideoSession(
            self.runner,
            settings=PostprocessSettings(threads=self.threads),
            exploration=exploration,
            resets=resets,
            tokens=tokens,
            classes=self.classes,
        )


def newest_model(folders: tuple[Path, ...] = (Path("engines"), Path("export"))) -> Path:
    """The most recently made bundle or engine of `folders`.

    Raises:
        BundleError: there is none.
    """
    found = [path for folder in folders for path in folder.glob(f"*/{MANIFEST_NAME}")]
    if not found:
        looked = " and ".join(f"{folder}/" for folder in folders)
        raise BundleError(
            f"no model in {looked}; make one with `vpp-deploy export CHECKPOINT`, or name one with "
            "--model"
        )
    return max(found, key=lambda path: path.stat().st_mtime_ns).parent


def open_bundle(
    folder: Path,
    backend: str | None = None,
    threads: int | None = None,
    profile_folder: Path | None = None,
    *,
    timed: bool = False,
) -> OpenedModel:
    """Loads a bundle or an engine; arguments as `choose_backend` and `open_runner` take them.

    Raises:
        BundleError: the bundle is damaged, foreign or of another version.
        BackendError: the backend is unknown, not available, or cannot run this.
        EngineError: the engines are another version's, another GPU's, or damaged.
    """
    manifest = read_manifest(folder)
    backend = choose_backend(folder, manifest, backend)
    runner, kind = open_runner(folder, manifest, backend, threads, profile_folder, timed=timed)
    sha256 = hash_file(folder / MANIFEST_NAME)
    return OpenedModel(
        name=manifest.name,
        kind=kind,
        runner=runner,
        classes=manifest.classes,
        budgets=manifest.budgets or None,
        sha256=sha256,
        identity=sha256,
        operations=manifest.operations,
        threads=threads,
    )


def open_checkpoint(
    path: Path,
    input_size: tuple[int, int],
    rule: Rule = "published",
    recipe_path: Path | None = None,
    threads: int | None = None,
) -> OpenedModel:
    """Builds the PyTorch model of a checkpoint: the reference, in eager mode, on the CPU.

    Args:
        path: .pth or .safetensors.
        input_size: (H, W) of the padded input, multiples of 32.
        rule: the published threshold rule with any number of tracks, or the recipe's budgets and
            track slots.
        recipe_path: what the checkpoint does not say, and the budgets; None finds one for the
            checkpoint in `export/` where it is needed.
        threads: of PyTorch; None leaves it to PyTorch (one per core).

    Raises:
        BackendError: PyTorch is not installed.
        CheckpointError: the checkpoint cannot be read or does not fit.
        RecipeError: a setting is missing or contradicts the checkpoint.
    """
    try:
        import torch
    except ImportError as error:
        raise BackendError(
            f"{path} is a checkpoint, and running one needs PyTorch; install vpp-deploy[export], "
            "or export it elsewhere and run the bundle"
        ) from error

    from vpp_deploy.partition.prepare import prepare_budgets, prepare_published

    if threads is not None:
        torch.set_num_threads(threads)
    if rule == "published":
        prepared = prepare_published(path, recipe_path, input_size)
    else:
        # The reference, whatever precision the recipe exports.
        prepared = prepare_budgets(path, recipe_path, input_size, "fp32", "cpu")
    settings = (prepared.checkpoint.sha256, rule, prepared.model.config, prepared.plan.spec)
    return OpenedModel(
        name=path.name,
        kind=f"checkpoint on PyTorch (cpu), {rule} rule",
        runner=TorchRunner(prepared.plan),
        classes=prepared.model.config.classes,
        budgets=None if prepared.budgets is None else dataclasses.astuple(prepared.budgets),
        sha256=prepared.checkpoint.sha256,
        identity=hashlib.sha256(repr(settings).encode()).hexdigest(),
        operations=None,
        threads=threads,
    )
