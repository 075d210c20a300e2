"""Draw the two demo pictures: a lakeside village (content.png) and an oil painting (style.png).

`python png/draw.py` writes both beside itself, always the same, in about a minute; it needs only
numpy and pillow.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from painting import painting
from scene import photograph

if __name__ == "__main__":
    for name, draw in (("content.png", photograph), ("style.png", painting)):
        picture = np.uint8(np.clip(draw(), 0, 1) * 255 + 0.5)
        Image.fromarray(picture).save(Path(__file__).with_name(name), optimize=True)
