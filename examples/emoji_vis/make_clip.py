"""Writes one clip as a video: `python -m examples.emoji_vis.make_clip FILE.mp4 --seed N`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from examples.emoji_vis.photos import Split
from examples.emoji_vis.scenes import random_scene
from vpp_deploy.cli.arguments import parse_frame_size
from vpp_deploy.errors import VideoError
from vpp_deploy.video.writer import VideoWriter


def main(
    file: Annotated[Path, typer.Argument(help="The video.")],
    split: Annotated[Split, typer.Option(help="Decides on photographs and drawings.")] = "test",
    frames: Annotated[int, typer.Option(min=1)] = 60,
    fps: float = 12.5,
    size: Annotated[str, typer.Option(metavar="HxW")] = "360x640",
    seed: Annotated[int, typer.Option(min=0)] = 1,
    late: Annotated[bool, typer.Option("--late", help="All objects but one enter late.")] = False,
) -> None:
    """Write one clip as a video."""
    height, width = parse_frame_size(size)
    try:
        scene = random_scene((seed,), split, width / height, frames, late=late)
        with VideoWriter(file, fps, (height, width)) as writer:
            for t in range(frames):
                writer.write(scene.draw(t, (height, width)).image)
    except VideoError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
