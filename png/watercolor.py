"""The fourth style picture: a watercolor of a lake at sunset.

Washes of transparent paint lie over one another. Each pools at its edge, settles into the tooth
of the paper, and is pushed aside by drops of water.
"""

import numpy as np

from tools import Array, fbm, halved, hexes, noise, ramp, smooth, table

W, H = 1280, 960  # the sheet, before it is halved
GOLD, APRICOT, CORAL, ROSE, PLUM, VIOLET, INDIGO, TEAL, UMBER = hexes(
    "ffd257 ffab52 f7704f e0527f 8d4a86 6a5aa8 2f3a72 4f9aa0 4a2c3f"
)
y, x = np.mgrid[0:H, 0:W].astype(np.float32)


class Sheet:
    """Paper, and how much light the paint on it takes away."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(41)
        self.taken = np.zeros((H, W, 3), np.float32)
        self.tooth = fbm(x / 5, y / 5, 700, 3) + 0.5 * noise(x / 14, y / 14, 705)
        self.seed = 710

    def turbulence(self, scale: float, octaves: int = 5) -> Array:
        """Return fractal noise of a size in points, new at each call."""
        self.seed += 10
        return fbm(x / scale, y / scale, self.seed, octaves)

    def blooms(self, count: int) -> Array:
        """Let drops fall into a wet wash: each pushes paint outward to a ragged ring."""
        flow = np.ones((H, W), np.float32)
        ragged = 0.35 * self.turbulence(60) + 0.10 * self.turbulence(12, 3)
        for _ in range(count):
            (cx, cy), reach = self.rng.uniform(0, (W, H)), self.rng.uniform(25, 110)
            r = np.hypot(x - cx, 1.2 * (y - cy)) / reach + ragged
            inner = smooth(1, 0.75, r) * (0.4 + 0.6 * r.clip(0, 1))
            flow *= 1 - 0.45 * inner + 0.5 * np.exp(-(((r - 1.0) / 0.05) ** 2)) * (r > 0.9)
        return flow

    def wash(
        self, inside: Array, paint: Array, load: Array = 1.0, wet: float = 1.5, rough: float = 9
    ) -> None:
        """Lay a wash where inside, in points from its edge, is above zero."""
        depth = inside + rough * self.turbulence(70) + 0.8 * self.tooth
        rim = np.exp(-depth.clip(0) / 5) * min(1, 2 / wet)
        flow = 1 + 0.50 * self.turbulence(170) + 0.18 * self.turbulence(24, 3)
        grain = 1 + 0.30 * self.tooth
        body = smooth(-wet, wet, depth) * (0.80 + 0.75 * rim) * flow.clip(0.15) * grain
        self.taken -= (load * body)[..., None] * np.log(paint)


def blobs(rows: Array) -> Array:
    """Join ellipses, rows of center, half length, half width and tilt, into one shape."""
    inside = np.full((H, W), -99, np.float32)
    for cx, cy, long, wide, tilt in rows:
        reach = max(long, wide) + 40
        x0, y0 = max(int(cx - reach), 0), max(int(cy - reach), 0)
        here = np.s_[y0 : max(int(cy + reach), y0), x0 : max(int(cx + reach), x0)]
        dx, dy, c, s = x[here] - cx, y[here] - cy, np.cos(tilt), np.sin(tilt)
        r = np.hypot((dx * c + dy * s) / long, (dy * c - dx * s) / wide)
        out = np.where(r > 1, np.hypot(dx, dy) / r.clip(1), min(long, wide))
        inside[here] = np.maximum(inside[here], (1 - r) * out)
    return inside


def sky(sheet: Sheet, sun: tuple, shore: float) -> None:
    """Run the colors of evening together, then lay clouds over them."""
    rng = sheet.rng
    away = np.hypot(x - sun[0], 1.25 * (y - sun[1]))
    light = smooth(52, 100, away + 10 * sheet.turbulence(40))
    up = (shore - y) / shore + 0.16 * sheet.turbulence(260) - 0.18 * np.exp(-((away / 330) ** 2))
    lake = (y - shore) / (H - shore)
    up = np.where(y > shore, 0.10 + 0.8 * lake + 0.12 * sheet.turbulence(200), up)
    tint = ramp(np.stack([GOLD, APRICOT, CORAL, ROSE, VIOLET, INDIGO]), 0.02 + 0.86 * up)
    load = light * (0.50 + 0.25 * sheet.turbulence(120)) * sheet.blooms(22)
    sheet.taken -= (load * (1 + 0.25 * sheet.tooth))[..., None] * np.log(tint)
    paints = np.stack([APRICOT, CORAL, ROSE, PLUM, VIOLET])
    for k in range(26):
        high, rows = rng.uniform(0, 0.9), []
        cx, cy = rng.uniform(-50, W + 50), shore * (0.92 - high)
        for _ in range(6):
            long = rng.uniform(40, 170)
            rows.append((cx, cy, long, long * rng.uniform(0.12, 0.28), -0.12 + 0.1 * rng.normal()))
            cx, cy = cx + rng.uniform(-140, 140), cy + rng.uniform(-24, 24)
        paint = paints[min(int(high * 5 + rng.random()), 4)]
        sheet.wash(blobs(np.array(rows)), paint, 0.42 * light, (1.5, 1.5, 14)[k % 3], 26)


def hills(sheet: Sheet, shore: float) -> None:
    """Stand hills behind one another, each fading into mist at its foot."""
    ridges = table("150 70 .7 2.1; 105 60 1.1 5.2; 62 45 1.6 9.4; 30 34 2.4 12.7")
    paints = (ROSE * 0.5 + VIOLET * 0.5, VIOLET, PLUM * 0.5 + INDIGO * 0.5, INDIGO)
    for (top, swell, pace, phase), paint in zip(ridges, paints, strict=True):
        ridge = shore - top - swell * fbm(pace * 3 * x / W + phase, 0.5, 900, 5) * 1.3
        foot = smooth(shore + 4, ridge, y)
        inside = np.minimum(y - ridge, shore - y + 3)
        sheet.wash(inside, paint, 0.12 + 0.72 * foot, 1.5, 5)


def lake(sheet: Sheet, sun: tuple, shore: float) -> None:
    """Pull strokes across the water, longer toward the viewer, sparing the path of the sun."""
    rng = sheet.rng
    for paint, count, load in (
        (CORAL, 60, 0.35),
        (ROSE, 60, 0.4),
        (VIOLET, 70, 0.5),
        (PLUM, 50, 0.5),
        (INDIGO, 55, 0.6),
    ):
        near = rng.random(count) ** 1.3
        cy = shore + 8 + near * (H - shore)
        cx = rng.uniform(0, W, count)
        kept = (abs(cx - sun[0]) > 40 + 90 * near) | (rng.random(count) < 0.25)
        long = (24 + 130 * near) * rng.uniform(0.5, 1.3, count)
        wide = (2.2 + 11 * near) * rng.uniform(0.5, 1.2, count)
        rows = np.stack([cx, cy, long, wide, 0.02 * rng.normal(size=count)], 1)[kept]
        dry = 9 * (sheet.tooth - 0.45) * (rng.random() < 0.6)
        sheet.wash(blobs(rows) - np.maximum(dry, 0), paint, load, 1.5, 10)


def strokes(rows: Array) -> Array:
    """Join tapering strokes, rows of two ends and the half widths there, into one shape."""
    inside = np.full((H, W), -99, np.float32)
    for x0, y0, x1, y1, w0, w1 in rows:
        left, right = (int(v) for v in np.clip((min(x0, x1) - 30, max(x0, x1) + 30), 0, W))
        top, bottom = (int(v) for v in np.clip((min(y0, y1) - 30, max(y0, y1) + 30), 0, H))
        here, dx, dy = np.s_[top:bottom, left:right], x1 - x0, y1 - y0
        t = ((x[here] - x0) * dx + (y[here] - y0) * dy) / (dx * dx + dy * dy + 1e-6)
        t = t.clip(0, 1)
        away = np.hypot(x[here] - x0 - t * dx, y[here] - y0 - t * dy)
        inside[here] = np.maximum(inside[here], w0 + (w1 - w0) * t - away)
    return inside


def tree(sheet: Sheet) -> None:
    """Grow a tree on the left bank and dab its leaves on, light ones first."""
    rng, wood, tips = sheet.rng, [], []

    def grow(spot: Array, angle: float, length: float, width: float) -> None:
        for _ in range(3):  # a branch bends as it goes
            angle += 0.16 * rng.normal()
            end = spot + length / 3 * np.array([np.cos(angle), np.sin(angle)])
            wood.append((*spot, *end, width, 0.86 * width))
            spot, width = end, 0.86 * width
        if width < 3:
            tips.append(spot)
        if width > 1.3:
            for side in (-1, 1):
                fork = angle + side * rng.uniform(0.2, 0.6)
                grow(spot, fork, length * rng.uniform(0.68, 0.88), width * rng.uniform(0.62, 0.85))

    grow(np.array([205.0, 905.0]), -1.5, 240, 21)
    tips = np.array(tips)
    for paint, count, size, load in (
        (GOLD, 130, 34, 0.8),
        (APRICOT, 260, 21, 0.7),
        (CORAL, 330, 15, 0.8),
        (ROSE, 300, 12, 0.8),
    ):
        spots = tips[rng.integers(0, len(tips), count)] + rng.normal(size=(count, 2)) * (44, 34)
        long = size * rng.uniform(0.5, 1.2, count)
        wide, tilt = long * rng.uniform(0.4, 0.8, count), rng.uniform(0, np.pi, count)
        sheet.wash(blobs(np.column_stack([spots, long, wide, tilt])), paint, load, 1.5, 5)
    sheet.wash(strokes(np.array(wood)), UMBER, 1.3, 1.2, 3)
    spots = tips[rng.integers(0, len(tips), 260)] + rng.normal(size=(260, 2)) * (34, 26)
    long = 9 * rng.uniform(0.4, 1.2, 260)
    dabs = np.column_stack([spots, long, 0.6 * long, rng.uniform(0, np.pi, 260)])
    sheet.wash(blobs(dabs), (ROSE * PLUM) ** 0.7, 1.0, 1.5, 3)


def bank(sheet: Sheet) -> None:
    """Wash in the near bank, with reeds, and let some of it run down and spatter."""
    rng = sheet.rng
    edge = 905 - 60 * np.exp(-(((x - 150) / 230) ** 2)) + 45 * np.sin(x / 330 + 2.2)
    sheet.wash(y - edge, PLUM, 0.7, 6, 22)
    sheet.wash(y - edge - 25, INDIGO, 0.9, 1.5, 26)
    for paint, count, load in ((TEAL, 50, 0.8), (UMBER, 90, 1.0), (INDIGO, 70, 1.0)):
        root = np.where(
            rng.random(count) < 0.55, rng.normal(1120, 90, count), rng.normal(250, 190, count)
        )
        low, height = rng.uniform(880, 980, count), rng.uniform(60, 230, count)
        lean = rng.normal(0.05, 0.16, count)
        reeds = []
        for x0, y0, tall, bend in zip(root, low, height, lean, strict=True):
            t = np.linspace(0, 1, 6)
            px, py, w = x0 + bend * tall * t**2, y0 - tall * t, 3.4 * (1 - t) + 0.7
            reeds += list(zip(px, py, px[1:], py[1:], w, w[1:], strict=False))
        sheet.wash(strokes(np.array(reeds)), paint, load, 1.2, 1)
    for paint, count in ((PLUM, 90), (CORAL, 130)):
        spots = rng.normal(rng.choice([250, 1000]), 260, count), rng.normal(640, 230, count)
        size = 1 + 5 * rng.random(count) ** 3
        sheet.wash(blobs(np.column_stack([*spots, size, size, 0 * size])), paint, 0.8, 1.2, 0.5)


def watercolor() -> Array:
    """Paint the sheet from light to dark."""
    sheet, sun, shore = Sheet(), (830, 395), 560
    sky(sheet, sun, shore)
    hills(sheet, shore)
    lake(sheet, sun, shore)
    tree(sheet)
    bank(sheet)
    paper = hexes("fdf8ec")[0] * (1 + 0.035 * sheet.tooth)[..., None]
    return halved(paper * np.exp(-sheet.taken.clip(0)))
