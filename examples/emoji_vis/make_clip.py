"""Writes one clip as a video: `python -m examples.emoji_vis.make_clip FILE.mp4 --seed N`."""

import argparse
from pathlib import Path

from examples.emoji_vis.scenes import random_scene
from vpp_deploy.cli.arguments import parse_frame_size
from vpp_deploy.video.writer import VideoWriter


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m examples.emoji_vis.make_clip")
    parser.add_argument("file", type=Path)
    parser.add_argument("--split", choices=("train", "val", "test"), default="test")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--fps", type=float, default=12.5)
    parser.add_argument("--size", type=parse_frame_size, default=(360, 640), metavar="HxW")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--late", action="store_true", help="all objects but one enter late")
    arguments = parser.parse_args()
    height, width = arguments.size
    scene = random_scene(
        (arguments.seed,), arguments.split, width / height, arguments.frames, late=arguments.late
    )
    with VideoWriter(arguments.file, arguments.fps, arguments.size) as writer:
        for t in range(arguments.frames):
            writer.write(scene.draw(t, arguments.size).image)


if __name__ == "__main__":
    main()
