"""Draw the demo film (clip.mp4): a boat sails past the village, while the camera pans.

Both move evenly, so that the motion of every pixel is known. `python png/clip.py` writes the film
beside itself, and needs the extra `film`. `python png/clip.py FOLDER` writes its frames there, and
their motion: backward_2_1.flo from the second to the first, forward_1_2.flo the other way.
"""

import argparse
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from tools import Array, mix

COUNT, RATE = 24, Fraction(12)  # frames, and frames a second
SIZE, SCALE = (288, 216), 0.8  # width and height in px; size of the picture's things
CORNER, PAN = (158, 96), 2.5  # the first frame's place in the picture; px to the right each frame
START, SAIL = (-96, 34), 9.5  # the boat's place in the first frame; px to the right each frame
# The boat's place in the picture. Its hull, its mast and its sails in sixths of px from there.
BOAT, SIXTHS = (55, 175, 205, 355), 6
OUTLINES = (
    ((66, 894), (85, 880), (250, 906), (500, 914), (700, 896), (834, 870), (834, 978), (68, 1004)),
    ((498, 60), (508, 60), (508, 915), (498, 915)),
    ((490, 88), (490, 878), (122, 878)),
    ((524, 252), (818, 864), (524, 866)),
)


class Frame(NamedTuple):
    """A frame of the film.

    Attributes:
      image: sRGB.
      motion: where each pixel was in the frame before, less where it is: x and y in px.
      seen: whether the frame before shows what each pixel shows.
    """

    image: Array
    motion: Array
    seen: Array


def frames() -> Iterator[Frame]:
    """Draw the frames."""
    picture = Image.open(Path(__file__).with_name("content.png")).convert("RGB")
    boat, cover = (_scaled(part) for part in (picture.crop(BOAT), _cover()))
    backdrop, before = _scaled(picture), np.zeros(SIZE[::-1])
    for number in range(COUNT):
        place = START[0] + SAIL * number, START[1]
        now = _view(cover, (-place[0], -place[1]))
        behind = _view(backdrop, (CORNER[0] + PAN * number, CORNER[1]))
        image = mix(behind, _view(boat, (-place[0], -place[1])), now)
        motion = np.where(now > 0.5, -SAIL, PAN)
        yield Frame(image, motion[..., None] * (1.0, 0.0), _seen(motion, now > 0.5, before > 0.5))
        before = now


def _cover() -> Image.Image:
    """Return how much of each pixel of the boat's place is the boat."""
    width, height = BOAT[2] - BOAT[0], BOAT[3] - BOAT[1]
    mask = Image.new("L", (SIXTHS * width, SIXTHS * height))
    for outline in OUTLINES:
        ImageDraw.Draw(mask).polygon(outline, 255)
    return mask.resize((width, height), Image.Resampling.BOX)


def _scaled(image: Image.Image) -> Image.Image:
    size = round(SCALE * image.width), round(SCALE * image.height)
    return image.resize(size, Image.Resampling.LANCZOS)


def _view(image: Image.Image, corner: tuple[float, float]) -> Array:
    """Return the part of an image that a frame at this corner shows, in [0, 1]."""
    shift = (1, 0, corner[0], 0, 1, corner[1])
    return np.asarray(image.transform(SIZE, Image.Transform.AFFINE, shift, 3)) / 255


def _seen(motion: Array, boat: Array, boat_before: Array) -> Array:
    """Say of each pixel whether the frame before shows the same thing at its place there."""
    columns = np.arange(SIZE[0]) + motion
    inside = (columns >= 0) & (columns <= SIZE[0] - 1)
    rows = np.arange(SIZE[1])[:, None]
    around = [np.clip(end(columns).astype(int), 0, SIZE[0] - 1) for end in (np.floor, np.ceil)]
    return inside & np.all([boat_before[rows, side] == boat for side in around], axis=0)


def write_frames(folder: Path) -> None:
    """Write the frames and their motion as files."""
    folder.mkdir(exist_ok=True)
    before = None
    for number, frame in enumerate(frames(), 1):
        levels = np.uint8(np.clip(frame.image, 0, 1) * 255 + 0.5)
        Image.fromarray(levels).save(folder / f"{number:06}.png")
        if before:
            write_motion(folder / f"backward_{number}_{number - 1}.flo", frame.motion)
            write_motion(folder / f"forward_{number - 1}_{number}.flo", -before.motion)
        before = frame


def write_motion(path: Path, motion: Array) -> None:
    """Write a file .flo, the format of the Middlebury benchmark."""
    height, width, _ = motion.shape
    header = np.float32(202021.25).tobytes() + np.array([width, height], "<i4").tobytes()
    path.write_bytes(header + motion.astype("<f4").tobytes())


def write_film(path: Path) -> None:
    """Write the film."""
    from nst_jax.io import video
    from nst_jax.io.arrays import rounded

    clock = video.Clock(RATE, 1 / RATE)
    shown = (video.Frame(rounded(x.image), number / RATE) for number, x in enumerate(frames()))
    video.write_video(path, shown, clock=clock)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Draw the demo film.")
    parser.add_argument("folder", nargs="?", type=Path, help="for frames and motion, not a film")
    return parser


if __name__ == "__main__":
    folder = make_parser().parse_args().folder
    if folder:
        write_frames(folder)
    else:
        write_film(Path(__file__).with_name("clip.mp4"))
