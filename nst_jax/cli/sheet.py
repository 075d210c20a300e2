"""The contact sheet of a command: contents, styles and results side by side."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from nst_jax.cli.console import save_or_rescue
from nst_jax.cli.names import PictureFiles, check_apart
from nst_jax.io.images import check_output, image_shape, load_image
from nst_jax.io.sheet import Cell, contact_sheet

_MOST = 512  # px; the longest side of a picture on the sheet
_MakeCell = Callable[[str | Path], Cell]


def check_sheet(path: Path, outputs: Collection[Path], inputs: Collection[str]) -> None:
    """Raise InputError if `path` cannot be written, or is the file of another image.

    Args:
      path: the file of the sheet.
      outputs: the files of the results.
      inputs: the files of the contents and styles.
    """
    check_output(path)
    check_apart("--sheet", path, [*outputs, *inputs])


def save_sheet(path: Path, pictures: Sequence[PictureFiles], *, grid: bool) -> str:
    """Save the contact sheet of finished pictures; return the fault, or an empty text.

    No picture is larger on it than the largest result, or than 512 px.

    Args:
      path: the file.
      pictures: at least one; their files are read.
      grid: whether every content goes with every style: a row for each content, a column for each
        style. Otherwise each picture has a row: the content, the styles, the result.
    """
    side = min(_MOST, max(max(image_shape(picture.output)) for picture in pictures))

    def cell(path: str | Path) -> Cell:
        return load_image(path, size=side, enlarge=False), Path(path).stem

    return save_or_rescue(path, contact_sheet((_grid if grid else _rows)(pictures, cell)))


def _rows(pictures: Sequence[PictureFiles], cell: _MakeCell) -> list[list[Cell]]:
    return [
        [cell(picture.content), *map(cell, picture.styles), cell(picture.output)]
        for picture in pictures
    ]


def _grid(pictures: Sequence[PictureFiles], cell: _MakeCell) -> list[list[Cell]]:
    results = {(picture.content, picture.styles): picture.output for picture in pictures}
    contents = dict.fromkeys(picture.content for picture in pictures)
    styles = dict.fromkeys(picture.styles for picture in pictures)
    rows: list[list[Cell]] = [[None, *(cell(style) for (style,) in styles)]]
    for content in contents:
        outputs = [results.get((content, style)) for style in styles]
        rows.append([cell(content), *(cell(path) if path else None for path in outputs)])
    return rows
