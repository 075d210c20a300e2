"""Put pictures side by side: `python png/sheet.py content.png style.png result.png sheet.png`."""

import sys

from PIL import Image

HEIGHT, GAP = 300, 10


def sheet(paths: list[str]) -> Image.Image:
    """Scale every picture to one height and place them from left to right on white."""
    pictures = []
    for path in paths:
        picture = Image.open(path).convert("RGB")
        width = round(picture.width * HEIGHT / picture.height)
        pictures.append(picture.resize((width, HEIGHT), Image.Resampling.LANCZOS))
    total = sum(picture.width for picture in pictures) + GAP * (len(pictures) - 1)
    result, left = Image.new("RGB", (total, HEIGHT), "white"), 0
    for picture in pictures:
        result.paste(picture, (left, 0))
        left += picture.width + GAP
    return result


if __name__ == "__main__":
    sheet(sys.argv[1:-1]).save(sys.argv[-1])
