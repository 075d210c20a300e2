"""The third style picture: a mosaic of glass, rosettes in a stream of winding ribbons.

The tesserae are cells of a Voronoi diagram that is measured along and across the flow of the
motif, and is relaxed until they sit in rows; then each is given its glass and set in grout.
"""

import numpy as np

from tools import Array, blur, fbm, halved, hexes, mix, noise, ramp, smooth, table, unit

W, H = 1200, 960  # the mosaic, before it is halved
JEWEL = 1  # a piece that is a single tessera

ROSETTES = table("""
.42 .40 .275 12 0; 1.02 .66 .215 9 1; .95 .17 .150 8 2; .13 .83 .155 10 3; .60 .88 .125 6 4;
1.20 .32 .11 5 0; .07 .16 .12 7 1; .69 .10 .10 5 3; 1.19 .95 .12 6 2""")
GLASS = [
    hexes(row)
    for row in (
        "7a0f1e c4202c f0642e ffb43c fff0b8",
        "2a0f5c 6a1f9c b83cae f07ab0 ffe0d0",
        "8a2a08 e06a10 ffae20 ffe06a fff8d8",
        "5c0a3c b01858 f04878 ff9a8a ffe8b0",
        "064a3c 0f8a5c 5ac070 c8e878 fff6c0",
    )
]
STREAM = hexes("0e1d66 1747b0 0f8fc8 5fd4cc e9f2c4 f2b632 0b7f6a 0a4468 2a1a6e 1a62c4 17b0a0")


def motif() -> tuple[Array, Array, Array]:
    """For each point: which piece of the motif it is in, its color, and the way its rows run."""
    y, x = np.mgrid[0:H, 0:W].astype(np.float32) / H
    away = sum(np.exp(-6 * np.hypot(x - cx, y - cy) / reach) for cx, cy, reach, *_ in ROSETTES)
    away = np.minimum(-np.log(away) / 6, 3)  # how many radii from the nearest rosette
    level = 0.9 * y + 0.14 * np.sin(3.1 * x + 0.6) + 0.22 * fbm(1.7 * x, 1.7 * y, 600, 2)
    level = 15 * (level + 0.42 * smooth(0.8, 2.6, away))  # the stream winds around them
    rise, run = np.gradient(blur(level, 5))
    angle = np.arctan2(run, -rise)
    band = np.floor(level).astype(int)
    piece, color = band + 100, STREAM[band * 4 % len(STREAM)]
    color = mix(color, STREAM[(band * 4 + 1) % len(STREAM)], 0.45 * (level % 1))

    for n, (cx, cy, reach, petals, kind) in enumerate(ROSETTES):
        dx, dy = x - cx, y - cy
        outward = np.arctan2(dy, dx)
        r, glass = np.hypot(dx, dy) / reach, GLASS[int(kind)]
        r = r * (1 + 0.06 * noise(2.5 * x, 2.5 * y, 610 + n))  # by hand
        edge = 0.98 - 0.027 / reach  # the rim is one tessera wide
        own, tone, flow = 0 * r, 0 * r - 1, outward + np.pi / 2
        for ring, (lo, hi, sharp) in enumerate(((0.42, edge, 2.4), (0.22, 0.64 * edge, 1.7))):
            turn = (outward / (2 * np.pi) + 0.5) * petals + 0.5 * ring + 0.2 * n
            across = 2 * (turn % 1) - 1
            tip = lo + (hi - lo) * (1 - abs(across) ** sharp) ** 0.6
            there, inward = (r < tip) & (r > 0.2), (tip - r) / (hi - lo)
            own = np.where(there, 10 + 40 * ring + np.floor(turn) % petals, own)
            tone = np.where(there, 0.05 + 0.35 * ring + 0.62 * inward, tone)
            flow = np.where(there, outward + 0.6 * across + np.pi / 2 * (inward < 0.2), flow)
        heart, rim = r < 0.22, r > edge + 0.01
        own = np.where(heart, JEWEL + (r > 0.09), np.where(rim, 3, own))
        tone = np.where(heart, 1 - 0.9 * (r > 0.09), np.where(rim, 0.72, tone))
        look = np.where(tone[..., None] < 0, hexes("10124e")[0], ramp(glass, tone))
        here = r < 1
        color = np.where(here[..., None], look, color)
        piece, angle = np.where(here, 200 * n + 200 + own, piece), np.where(here, flow, angle)
    return piece.astype(np.int32), color, angle


def tesserae(piece: Array, angle: Array, size: int) -> Array:
    """Number the tessera each point is in: the nearest, by a square measure, of the same piece."""
    rng = np.random.default_rng(31)
    spots = np.mgrid[0:H:size, 0:W:size].reshape(2, -1).T
    spots = np.clip(spots + rng.uniform(0, size, spots.shape), 0, (H - 1, W - 1))
    spots = spots[piece[tuple(spots.astype(int).T)] % 200 != JEWEL]
    small = np.unique(piece, return_index=True)[1]  # each piece has a tessera at least
    spots = np.concatenate([spots, np.stack(np.divmod(small, W), 1)])
    stretch, reach = rng.uniform(0.8, 1.3, len(spots)), 2 * size
    rows, columns = np.mgrid[0:H, 0:W]
    for _ in range(12):  # each moves to the middle of its cell
        near, owner = np.full((H, W), np.inf, np.float32), np.zeros((H, W), np.int32)
        for i, (r, c) in enumerate(spots.astype(int)):
            here = np.s_[max(r - reach, 0) : r + reach, max(c - reach, 0) : c + reach]
            dy, dx = np.float32(rows[here] - r), np.float32(columns[here] - c)
            cos, sin = np.cos(angle[r, c]), np.sin(angle[r, c])
            u, v = abs(dx * cos + dy * sin) / stretch[i], abs(dy * cos - dx * sin) * stretch[i]
            far = np.maximum(u, v) + 0.2 * np.minimum(u, v)
            closer = (far < near[here]) & (piece[here] == piece[r, c])
            near[here][closer], owner[here][closer] = far[closer], i
        count = np.bincount(owner.ravel(), minlength=len(spots))
        for k, place in enumerate((rows, columns)):
            total = np.bincount(owner.ravel(), place.ravel(), len(spots))
            spots[:, k] = np.where(count, total / np.maximum(count, 1), spots[:, k])
    return owner


def edges(label: Array) -> Array:
    """Mark where neighboring points differ."""
    mark = np.zeros(label.shape, bool)
    mark[1:] |= label[1:] != label[:-1]
    mark[:, 1:] |= label[:, 1:] != label[:, :-1]
    return np.float32(mark)


def mosaic() -> Array:
    """Give every tessera its glass, lay it a little aslant in dark grout, and light it."""
    piece, color, angle = motif()
    owner = tesserae(piece, angle, 25)
    rng, count = np.random.default_rng(32), owner.max() + 1
    y, x = np.mgrid[0:H, 0:W].astype(np.float32)
    size = np.maximum(np.bincount(owner.ravel(), minlength=count), 1)
    glass = [np.bincount(owner.ravel(), color[..., k].ravel(), count) / size for k in range(3)]
    glass = np.stack(glass, 1)
    stray = rng.random(count) < 0.03  # a few of another color make the rest glow
    glass[stray] = STREAM[rng.integers(0, len(STREAM), stray.sum())]
    tint = 0.16 + rng.normal(size=(count, 1)) * 0.13 + rng.normal(size=(count, 3)) * 0.045
    glass = (glass + 0.04) * np.exp(tint)

    grit = fbm(x / 5, y / 5, 620, 3)
    joint = blur(edges(owner), 1.9) + 0.8 * blur(edges(piece), 2.2)
    gap = smooth(0.115, 0.165, joint + 0.02 * fbm(x / 14, y / 14, 625, 3))
    pillow = -np.minimum(blur(edges(owner), 3.5), 0.16) * 30 + 0.3 * fbm(x / 9, y / 9, 630, 2)
    streak = rng.uniform(0, np.pi, count)[owner]  # the glass was pulled one way or another
    u, v = x * np.cos(streak) + y * np.sin(streak), y * np.cos(streak) - x * np.sin(streak)
    swirls = fbm(u / 34 + owner * 0.37, v / 6, 640, 3)
    cloudy = fbm(u / 16 + owner * 0.73, v / 13, 650, 2)

    dy, dx = np.gradient(pillow)
    slant = rng.normal(size=(count, 2)) * 0.16
    normal = unit(np.stack([slant[owner, 0] - dx, slant[owner, 1] - dy, 0 * dx + 1], -1))
    lamp = unit(np.array([-0.5, -0.65, 0.75]))
    shade = 0.45 + 0.95 * np.clip(normal @ lamp, 0, 1)
    shine = np.clip(normal @ unit(lamp + np.array([0, 0, 1])), 0, 1) ** 60
    lit = glass[owner] * (shade * (1 + 0.28 * swirls))[..., None]
    lit = (
        mix(lit, np.sqrt(lit.clip(0, 1)), 0.45 * smooth(0.1, 0.7, cloudy)) + 0.30 * shine[..., None]
    )
    grout = hexes("17141c")[0] * (1.1 + 0.9 * grit)[..., None]
    shadow = 1 - 0.5 * np.roll(gap, (3, 3), (0, 1)) * (1 - gap)
    return halved(mix(lit * shadow[..., None], grout, gap))
