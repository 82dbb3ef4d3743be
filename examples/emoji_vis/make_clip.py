"""Writes one clip as a video: `python -m examples.emoji_vis.make_clip FILE.mp4 --seed N`."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from examples.emoji_vis.commands import check_rate, command, frame_size
from examples.emoji_vis.photos import Split
from examples.emoji_vis.scenes import random_scene
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
    height, width = frame_size(size)
    rate = check_rate(fps)
    if file.suffix.lower() != ".mp4":
        raise typer.BadParameter(f"{file} does not end in .mp4, the only format written")
    with command():
        scene = random_scene((seed,), split, width / height, frames, late=late)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".make_clip.") as folder:
            aside = Path(folder) / file.name
            with VideoWriter(aside, rate, (height, width)) as writer:
                for t in range(frames):
                    writer.write(scene.draw(t, (height, width)).image)
            aside.replace(file)


if __name__ == "__main__":
    typer.run(main)
