"""The second style picture: a woodblock print of a stormy sea.

A drawing is cut into nested blocks, from pale blue to the key lines, which are printed one over
the other on grainy paper, as printers do.
"""

import numpy as np
from PIL import Image, ImageDraw

from tools import Array, blur, fbm, halved, hexes, noise, smooth, table, unit

W, H = 1280, 960  # the print, before it is halved
PAPER, PALE, MIDDLE, DEEP, KEY, RED = range(6)
INKS = hexes("bcd2dc 86a8c6 4868a0 4a4a6c e2593a")  # each lets this much light through

# A breaker that rolls to the right: its back and its hollow, both from the foot to the tip.
BACK = table("-.35 .95; -.1 .66; .07 .47; .22 .27; .40 .12; .58 .08; .73 .14; .80 .26; .77 .37")
HOLLOW = table("1.0 1.02; .72 .86; .52 .76; .40 .61; .37 .44; .43 .30; .55 .23; .66 .27; .71 .35")


def spline(knots: Array, n: int = 200) -> Array:
    """Run a Catmull-Rom curve through the knots."""
    p = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    t = np.linspace(0, len(knots) - 1, n)
    i = np.minimum(t.astype(int), len(knots) - 2)
    t = (t - i)[:, None]
    a, b, c, d = (p[i + k] for k in range(4))
    return b + t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))) / 2


class Drawing:
    """What is to be printed, drawn far larger: for each point the darkest block it needs."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(8)
        self.image = Image.new("L", (2 * W, 2 * H), PAPER)
        self.pen = ImageDraw.Draw(self.image)

    def area(self, outline: Array, ink: int) -> None:
        """Fill an outline; the picture is one high."""
        self.pen.polygon([tuple(p) for p in outline * 2 * H], fill=int(ink))

    def disc(self, spot: Array, radius: float, ink: int) -> None:
        """Fill a hand-cut, not quite round disc."""
        turn, (a, b) = np.linspace(0, 2 * np.pi, 90), self.rng.uniform(0, 2 * np.pi, 2)
        slip = min(0.05 * radius, 0.0015)
        r = radius + slip * (np.sin(2 * turn + a) + 0.7 * np.sin(3 * turn + b))
        self.area(spot + (r * np.stack([np.cos(turn), np.sin(turn)])).T, ink)

    def line(self, path: Array, width: float, ink: int = KEY, taper: float = 0.7) -> None:
        """Cut a line that swells and thins out along its path."""
        along = np.linspace(0, 1, len(path))
        side = unit(np.gradient(path, axis=0) + 1e-9)[:, ::-1] * (-1, 1)
        swell = 1 + 0.5 * noise(9 * along + 99 * self.rng.random(), 0.5, 500)
        half = 0.5 * width * swell * np.sin(np.pi * along.clip(0.001, 0.999)) ** taper
        edges = path + side * half[:, None], path - side * half[:, None]
        self.area(np.concatenate([edges[0], edges[1][::-1]]), ink)

    def foam(self, path: Array, size: float, spin: int) -> None:
        """Hang clumps of foam along a path: discs in one outline, some with a spiral in them."""
        rng, length = self.rng, np.hypot(*np.diff(path, axis=0).T).sum()
        for t in np.sort(rng.random(int(1.1 * length / size) + 1)):
            center = path[int(t * (len(path) - 1))] + 0.45 * size * rng.normal(size=2)
            grow = size * (0.55 + 0.6 * t)
            radii = np.concatenate([[0.72], rng.uniform(0.18, 0.62, 7)]) * grow
            angles = rng.uniform(0, 2 * np.pi, 8)
            away = np.stack([np.cos(angles), np.sin(angles)], 1) * (grow - 0.2 * radii)[:, None]
            spots = center + away * (np.arange(8) > 0)[:, None]
            for grown, ink in ((0.0032, KEY), (0, PALE)):
                for spot, radius in zip(spots, radii, strict=True):
                    self.disc(spot, radius + grown, ink)
            for spot, radius in zip(spots, radii, strict=True):
                self.disc(spot - (0.10 * radius, 0.17 * radius), 0.85 * radius, PAPER)
            for spot, radius, angle in zip(spots[::-1], radii[::-1], angles, strict=True):
                if radius < 0.012:
                    continue
                self.disc(spot, radius, KEY)
                self.disc(spot, radius - 0.0028, PALE)
                self.disc(spot - (0.10 * radius, 0.17 * radius), 0.86 * radius - 0.003, PAPER)
                turn = np.linspace(0, 1, 80)
                around, r = angle + spin * 2.6 * np.pi * turn, radius * (0.98 - 0.9 * turn)
                spiral = spot + (r * np.stack([np.cos(around), np.sin(around)])).T
                self.line(spiral, 0.0035 + 0.035 * radius)

    def spray(self, spot: Array, reach: float, count: int) -> None:
        """Throw drops around a spot."""
        for _ in range(count):
            away, radius = self.rng.normal(size=2) * reach, 0.0015 + 0.006 * self.rng.random() ** 3
            self.disc(spot + away, radius, self.rng.choice([PAPER, MIDDLE, DEEP]))

    def breaker(self, size: tuple, shift: tuple) -> None:
        """Draw a great wave: stripes that run up into its tip, and foam along its lip."""
        rng, spin = self.rng, int(np.sign(size[0]))
        back, hollow = (spline(knots * size + shift) for knots in (BACK, HOLLOW))
        scale = abs(size[0])
        self.area(np.concatenate([back, hollow[::-1]]), MIDDLE)

        def inside(s: float, start: float, stop: float) -> Array:
            t = np.linspace(start, stop, 160)
            at = [
                np.stack([np.interp(t * 199, np.arange(200), c[:, k]) for k in (0, 1)], 1)
                for c in (back, hollow)
            ]
            wobble = 0.012 * noise(6 * t, 40 * s, 510)[:, None]
            return at[0] + (at[1] - at[0]) * np.clip(s + wobble, 0, 1)

        stripes = np.linspace(0.05, 0.97, 17)
        for k, s in enumerate(stripes):
            ink = (DEEP, PALE, DEEP, PAPER)[k % 4]
            stop = rng.uniform(0.86, 1.0)
            self.line(inside(s, rng.uniform(0, 0.10), stop), 0.036 * scale, ink, 0.3)
            for off in (-0.021, 0.021):
                self.line(inside(s + off, rng.uniform(0, 0.3), stop - 0.03), 0.0035)
        self.line(back, 0.011 * scale)
        self.line(hollow, 0.010 * scale)
        self.foam(inside(0.02, 0.40, 1.0), 0.040 * scale, spin)
        self.foam(inside(0.9, 0.72, 1.0), 0.036 * scale, spin)
        self.foam(inside(0.4, 0.80, 1.0), 0.050 * scale, spin)
        self.spray(back[-1] + (0.03 * spin, 0.05), 0.09 * scale, 60)
        self.spray(back[110], 0.06 * scale, 30)

    def swell(self, base: float, height: float, pace: float, phase: float) -> None:
        """Draw a row of pointed waves across the picture, with lines that follow their crests."""
        x = np.linspace(-0.05, 4 / 3 + 0.05, 500)
        turn = pace * x + phase + 2.2 * noise(2.5 * x, phase, 520)
        peak = (1 - abs(np.sin(turn))) ** 1.5
        drop = height * (1 + 1.1 * noise(3.1 * x, phase, 521))
        crest = np.stack([x - 0.25 * height * np.sin(2 * turn), base - drop * peak], 1)
        floor = np.array([[x[-1], 1.3], [x[0], 1.3]])
        self.area(np.concatenate([crest, floor]), DEEP)
        for k in range(1, 16):
            fade = 0.9**k
            flat = base + 0.5 * height + 0.05 * noise(3 * x, 5 * phase, 522)
            sink = np.stack([x, crest[:, 1] * fade + flat * (1 - fade)], 1)
            sink[:, 1] += 0.0115 * k * (1 + 0.35 * noise(4 * x, 0.4 * k + phase, 523))
            sink[:, 1] = blur(sink[:, 1:], 0.9 * k)[:, 0]  # the deeper, the rounder
            if k % 2:
                lo = self.rng.integers(0, 60)
                ink = (PALE, MIDDLE, PAPER, MIDDLE)[k // 2 % 4]
                for part in np.split(sink, np.sort(self.rng.integers(lo, 500, 3))):
                    if len(part) > 20:
                        self.line(part, 0.013, ink, 0.3)
            else:
                self.line(sink, 0.0035)
        self.line(crest, 0.008, KEY, 0.1)
        for i in np.flatnonzero((peak[1:-1] > peak[2:]) & (peak[1:-1] >= peak[:-2])) + 1:
            self.foam(crest[max(i - 12, 0) : i + 13], 0.28 * drop[i], 1)
            self.spray(crest[i] - (0, 0.01), 0.02, 9)


def drawn() -> Array:
    """Draw a sun with bands of mist, two breakers, and the swell before them."""
    sheet = Drawing()
    sheet.disc(np.array([0.985, 0.27]), 0.135, RED)
    for y, x0, x1, width in table(".30 .72 1.28 .022; .345 .9 1.5 .03; .235 1.02 1.45 .016"):
        mist = np.linspace(x0, x1, 200)
        sheet.line(np.stack([mist, y + 0.006 * noise(3 * mist, y, 530)], 1), width, PALE, 0.3)
    x = np.linspace(0, 4 / 3, 400)
    for y, ink, seed in ((0.585, PALE, 531), (0.605, MIDDLE, 532)):
        island = y - 0.05 * (0.1 + fbm(3.2 * x, 0.5, seed, 4)).clip(-0.5)
        sheet.area(np.stack([np.append(x, [4 / 3, 0]), np.append(island, [0.7, 0.7])], 1), ink)
    sheet.swell(0.63, 0.05, 16, 0.3)
    sheet.breaker((-0.50, 0.52), (1.43, 0.24))
    sheet.swell(0.73, 0.06, 12, 1.4)
    sheet.breaker((0.96, 0.96), (-0.04, 0.03))
    sheet.swell(0.86, 0.09, 8, 2.2)
    sheet.swell(0.98, 0.10, 6.5, 0.5)
    return np.array(sheet.image)


def ink() -> Array:
    """Print the blocks, each a little out of place, its wood and the paper showing through."""
    drawing, rng = drawn(), np.random.default_rng(9)
    y, x = np.mgrid[0:H, 0:W].astype(np.float32) / H
    fibres = blur(rng.normal(size=(H, W)), 0.9) * 2 + fbm(60 * x, 90 * y, 540, 3)
    picture = (
        hexes("f3e7cd")[0] * (1 + 0.022 * fibres + 0.03 * fbm(2 * x, 2 * y, 545, 3))[..., None]
    )
    fade = smooth(0.30, -0.05, y + 0.05 * fbm(2 * x, 3 * y, 546, 3))  # wiped by hand into the sky
    for block, through in enumerate(INKS, 1):
        cut = drawing == RED if block == RED else (drawing >= block) & (drawing < RED)
        cut = np.float32(cut).reshape(H, 2, W, 2).mean((1, 3))
        down, right = rng.integers(0, 3, 2)
        cut = np.pad(cut, 1, mode="edge")[down : down + H, right : right + W]
        cut = smooth(0.3, 0.7, blur(cut, 0.9) + 0.05 * fibres)  # ink creeps along the fibres
        if block in (PALE, MIDDLE):
            cut = np.maximum(cut, fade * (drawing[::2, ::2] != RED) * (1.0, 0.75)[block - 1])
        grain = noise(3 * x, 55 * y + 5 * fbm(2 * x, 3 * y, 550 + block, 2), 560 + block)
        grain = grain + 0.6 * noise(6 * x, 190 * y, 570 + block)
        load = 0.93 + 0.16 * grain + 0.10 * fbm(4 * x, 4 * y, 580 + block, 3)
        load -= 0.4 * smooth(1.2, 1.9, fibres + 0.5 * grain)  # specks the ink missed
        picture *= 1 - (cut * load)[..., None] * (1 - through)
    return halved(picture)
