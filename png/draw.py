"""Draw the demo pictures: a lakeside village (content.png) and four styles to give it.

There are two masks of it: a map of its regions (regions.png), and the village (village.png).

The styles are an oil painting (style.png), a woodblock print (ink.png), a glass mosaic (mosaic.png)
and a watercolor (watercolor.png). `python png/draw.py` writes all seven beside itself, always the
same, in about two minutes; names given after it draw only those. It needs only numpy and pillow.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from ink import ink
from mosaic import mosaic
from painting import painting
from regions import regions, village
from scene import photograph
from watercolor import watercolor

PICTURES = {
    "content.png": photograph,
    "style.png": painting,
    "ink.png": ink,
    "mosaic.png": mosaic,
    "watercolor.png": watercolor,
    "regions.png": regions,
    "village.png": village,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        picture = np.uint8(np.clip(PICTURES[name](), 0, 1) * 255 + 0.5)
        Image.fromarray(picture).save(Path(__file__).with_name(name), optimize=True)
