"""The first style picture: an oil painting of a swirling sky over fields.

It is thousands of brush strokes that follow a flow field, with light raking over their relief.
"""

import numpy as np

from tools import Array, blur, fbm, halved, hexes, mix, noise, ramp, smooth, table, unit

W, H = 1280, 1024  # the painting, before it is halved


def swirl(x: Array, y: Array) -> tuple[Array, Array]:
    """Flow direction of the sky, and a wave from -1 to 1 that winds up in its eddies."""
    fx, fy = 0.55 + 0 * x, 0.22 * np.cos(5.5 * x + 2 * y)
    wave = np.sin(5 * y + 2.2 * x + 2.5 * noise(2 * x, 3 * y, 411))
    eddies = ".93 .27 .30 1; .33 .24 .27 -1; .62 .60 .16 1.1; .05 .62 .16 1; 1.22 .60 .13 -.9"
    for cx, cy, reach, spin in table(eddies):
        dx, dy = x - cx, y - cy
        r = np.hypot(dx, dy) / reach
        pull = 1.65 / reach * np.exp(-(r**2)) / (r + 0.12)
        fx, fy = fx + pull * (0.12 * dx - spin * dy), fy + pull * (0.12 * dy + spin * dx)
        winding = np.sin(8.5 * r - np.sign(spin) * np.arctan2(dy, dx))
        wave += np.exp(-((r / 1.25) ** 2)) * (winding - wave)
    return np.arctan2(fy, fx) + 0.25 * fbm(3 * x, 3 * y, 400, 2), wave


def motif() -> tuple[Array, Array]:
    """Color and stroke direction to paint: a swirling sky, a sun, fields, a wind-bent tree."""
    y, x = np.mgrid[0:H:2, 0:W:2].astype(np.float32) / H
    angle, wave = swirl(x, y)
    tone = 0.45 + 0.46 * wave + 0.26 * fbm(4 * x, 7 * y, 420, 3)
    color = ramp(hexes("1a1446 1f2f9c 0f5fb8 12a0a8 6fd3b4 f4edb2"), tone)
    r = np.hypot(x - 0.93, y - 0.27) + 0.012 * noise(9 * x, 9 * y, 430)
    sun = ramp(hexes("fff3b0 ffd23c ff9a1c f0431e c81e3a"), r / 0.20)
    color = mix(color, sun, smooth(0.235, 0.185, r))

    soils = "5a1668 a31f6b e0457b c2261f f0641e ffb52e d98b12 ffd34a fff0a0 14104a 2a2b8c a3216e"
    fields = table(".70 .045 3.1 .4; .76 .04 4.2 2; .83 .035 3.4 4; .90 .03 5 1")
    for (base, swell, k, phase), soil in zip(fields, hexes(soils).reshape(4, 3, 3), strict=True):
        down = y - base - swell * np.sin(k * x + phase) - 0.02 * np.sin(9 * x + 3 * phase)
        slope = swell * k * np.cos(k * x + phase) + 0.18 * np.cos(9 * x + 3 * phase)
        furrow = 0.3 * np.sin(70 * down * (1 + 0.35 * np.sin(3 * x + phase)))
        tone = 0.55 + furrow + 0.35 * noise(6 * x, 9 * y, 440) - 0.8 * down
        color = np.where(down[..., None] > 0, ramp(soil, tone), color)
        angle = np.where(down > 0, np.arctan(slope) + 0.25 * np.sin(12 * x + 20 * y), angle)

    bark = ramp(hexes("1a0a2c 5c1440"), 0.3 + 2 * noise(40 * x, 8 * y, 451))
    limbs = ".16 .92 .20 .55 .055 .038; .20 .58 .36 .36 .034 .02; .19 .60 .14 .36 .028 .02"
    for x0, y0, x1, y1, w0, w1 in table(limbs):
        bx, by = x1 - x0, y1 - y0
        t = np.clip(((x - x0) * bx + (y - y0) * by) / (bx**2 + by**2), 0, 1)
        away = np.hypot(x - x0 - t * bx + 0.025 * np.sin(np.pi * t), y - y0 - t * by)
        inside = away < w0 + (w1 - w0) * t
        color = np.where(inside[..., None], bark, color)
        angle = np.where(inside, np.arctan2(by, bx), angle)
    crowns = ".13 .37 .085; .47 .33 .095; .30 .36 .09; .22 .24 .125; .38 .21 .12; .54 .22 .065"
    for cx, cy, reach in table(crowns):
        dx, dy = (x - cx) / reach, (y - cy) / reach
        r = np.hypot(dx / 1.2, dy) + 0.30 * noise(9 * x, 9 * y, 450)
        tone = 0.52 + 0.42 * dx - 0.34 * dy - 0.12 * r + 0.28 * fbm(12 * x, 12 * y, 460, 2)
        blossom = ramp(hexes("2c0838 7d0f4e cf1d4c ff5a2e ffb04a"), tone)
        color = mix(color, blossom, smooth(1.03, 0.97, r))
        angle = np.where(r < 1, np.arctan2(dy, dx) + np.pi / 2 + 0.3, angle)
    return color, 0.5 * np.arctan2(blur(np.sin(2 * angle), 3), blur(np.cos(2 * angle), 3))


class Canvas:
    """Wet paint: its color and its thickness."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(21)
        self.color = np.full((H, W, 3), hexes("4a2030")[0], np.float32)
        self.relief = np.zeros((H, W), np.float32)
        streaks = np.fft.rfft(blur(self.rng.normal(size=(512, 2048)), 0.8))
        streaks = np.fft.irfft(streaks * np.exp(-2 * (45 * np.pi * np.fft.rfftfreq(2048)) ** 2))
        self.bristles = (streaks / streaks.std()).astype(np.float32)

    def stroke(self, spot: Array, angle: float, curve: float, size: tuple, paints: tuple) -> None:
        """Pull a bent stroke, half long and half wide, in one paint with some of another."""
        (x, y), (half, wide) = spot, size
        c, s, sag = np.cos(angle), np.sin(angle), 1.2 * wide + abs(curve) * half**2 / 2
        reach = abs(c) * half + abs(s) * sag, abs(s) * half + abs(c) * sag
        x0, y0 = np.maximum(spot - reach, 0).astype(int)
        x1, y1 = np.minimum(spot + reach + 2, (W, H)).astype(int)
        if x0 >= x1 or y0 >= y1:
            return
        yy, xx = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        u, v = (xx - x) * c + (yy - y) * s, (yy - y) * c - (xx - x) * s
        v, u = v - curve * u * u / 2, u * self.rng.choice([-1, 1])
        along, across, (i, j) = u / half, v / wide, self.rng.integers(0, 512, 2)
        fine, broad = (
            self.bristles[(across * k + i).astype(int) & 511, (u * k / 9 + j).astype(int) & 2047]
            for k in (9, 2.5)
        )
        edge = 1 - smooth(0.70, 1.0, across**2 + along**8 + 0.12 * fine)
        dry = smooth(-0.35, 0.35, 1.25 - 0.35 * fine - 2.2 * np.maximum(along - 0.25, 0))
        cover = 0.96 * edge * dry
        paint = mix(*paints, np.clip(0.16 + 0.24 * broad + 0.15 * along, 0, 0.75))
        paint *= (1 + 0.075 * fine)[..., None]
        thick = 0.55 + 0.15 * fine + 0.50 * np.exp(-(((abs(across) - 0.80) / 0.14) ** 2))
        thick += 0.35 * np.exp(-(((along - 0.55) / 0.2) ** 2))
        here = np.s_[y0:y1, x0:x1]
        self.color[here] += cover[..., None] * (paint - self.color[here])
        self.relief[here] += cover * (thick * (2 * wide) ** 0.5 - 0.55 * self.relief[here])

    def lit(self) -> Array:
        """Let light from the upper left rake over the paint."""
        dy, dx = np.gradient(blur(self.relief, 0.9))
        normal, lamp = unit(np.stack([-dx, -dy, 0 * dx + 1.25], -1)), np.array([-0.55, -0.62, 0.56])
        shade = 0.45 + 0.55 * np.clip(normal @ lamp / lamp[2], 0, 1.7)
        gloss = np.clip(normal @ unit(lamp + np.array([0, 0, 1])), 0, 1) ** 40
        return self.color.clip(0, 1) * shade[..., None] + 0.1 * (gloss - gloss.mean())[..., None]


def painting() -> Array:
    """Paint the motif from broad strokes to small ones, these mostly where there is detail."""
    canvas, (color, angle) = Canvas(), motif()
    rng, detail = canvas.rng, abs(color - blur(color, 6)).sum(-1)

    def at(field: Array, spot: Array) -> Array:
        x, y = np.clip(spot / 2, 0, (W // 2 - 1, H // 2 - 1)).astype(int)
        return field[y, x]

    for width, length, gap, share in table("64 220 46 9; 42 170 31 9; 28 120 23 .62; 17 76 14 .4"):
        soft = blur(color, 0.1 * width)
        grid = np.mgrid[0 : W + gap : gap, 0 : H + gap : gap].reshape(2, -1).T
        for spot in rng.permutation(grid + rng.uniform(-0.6, 0.6, grid.shape) * gap):
            if rng.random() > share * (0.35 + 5 * at(detail, spot)):
                continue
            turn = at(angle, spot) + 0.10 * rng.normal()
            half, wide = length * rng.uniform(0.35, 0.62), width * rng.uniform(0.38, 0.60)
            step = 0.6 * half * np.array([np.cos(turn), np.sin(turn)])
            bend = (at(angle, spot + step) - at(angle, spot - step) + np.pi / 2) % np.pi - np.pi / 2
            curve = np.clip(bend / (1.2 * half), -0.9 / half, 0.9 / half)
            paint = (at(soft, spot) + 0.045 * rng.normal(size=3)) * rng.uniform(0.86, 1.14)
            other = at(soft, spot + rng.integers(-1, 2, 2) * width)
            canvas.stroke(spot, turn, curve, (half, wide), (paint, other))
    return halved(canvas.lit())
