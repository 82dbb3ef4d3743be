"""Everything that can be said of VPP's speed on a GPU, checked and measured in one call.

    python -m benchmarks.gpu [--minutes 9]

Rows are cases (a size, a budget, a batch) by methods (`gpu_methods.py`). Every row is opened,
warmed up, compared with fp32 and with the CPU, and timed by itself; when all rows of a case are
there, they take turns, so that a GPU that gets warm favours none, and these times replace the first
ones. The report is written after every row. What fails is a row that says why.
"""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cpu import DENSE, PRUNED
from benchmarks.errors import in_one_line
from benchmarks.gpu_cases import Own, cases_of
from benchmarks.gpu_methods import chosen
from benchmarks.gpu_run import SCENE_FRAMES, Settings, benchmark
from vpp_deploy.cli.arguments import parse_frame_size, parse_size
from vpp_deploy.drift import Bounds


@in_one_line()
def main(
    device: Annotated[str, typer.Option(help="cuda, or cpu to try the script.")] = "cuda",
    size: Annotated[str, typer.Option(metavar="HxW", help="Input of the network.")] = "544x960",
    frame_size: Annotated[str, typer.Option(metavar="HxW", help="Of the scene.")] = "720x1280",
    video: Annotated[Path | None, typer.Option(help="A video file in place of the scene.")] = None,
    models: Annotated[str, typer.Option(help="small and tiny, the important one first.")] = (
        "small,tiny"
    ),
    kinds: Annotated[str, typer.Option(help="52, 40 and dense.")] = ",".join([*PRUNED, DENSE]),
    batches: Annotated[str, typer.Option(help="Streams stepped together.")] = "1,8",
    methods: Annotated[
        str | None, typer.Option(help="Words of the methods to run, with commas; default: all.")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Timed of each row.")] = 200,
    turns: Annotated[int, typer.Option(min=1, help="In which rows are timed.")] = 10,
    check_frames: Annotated[int, typer.Option(min=2, max=SCENE_FRAMES)] = 20,
    min_tracks: Annotated[
        float, typer.Option(help="Share of instances that a correct row finds, too.")
    ] = Bounds.tracks,
    min_iou: Annotated[float, typer.Option(help="Mean IoU of their masks.")] = Bounds.iou,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Weights of your own in place of --models and --kinds.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="Of these weights.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Begin nothing new after that; default: no limit.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the report and all that is made.")] = Path(
        "runs/gpu"
    ),
) -> None:
    """Check and time every way to run VPP on this GPU."""
    cases, own = cases_of(models, kinds, batches), None
    if checkpoint is not None and recipe is not None:
        cases, own = cases_of(checkpoint.stem, "", batches), Own(checkpoint, recipe)
    elif checkpoint is not None or recipe is not None:
        raise typer.BadParameter("--checkpoint and --recipe go together")
    settings = Settings(
        device=device,
        out=out,
        input_size=parse_size(size),
        frame_size=parse_frame_size(frame_size),
        video=video,
        cases=cases,
        frames=frames,
        turns=turns,
        check_frames=check_frames,
        bounds=Bounds(tracks=min_tracks, iou=min_iou),
        own=own,
        minutes=minutes,
    )
    report = benchmark(settings, chosen(methods))
    print(report.markdown())
    print(f"\n{out / 'gpu.json'} has all of it, {out / 'gpu.md'} these tables")


if __name__ == "__main__":
    typer.run(main)
