"""The content picture: a lakeside village on a summer evening.

Here is what there is to see, and what its surfaces look like; `render.py` takes the picture.
"""

import numpy as np

from render import EYE, FOCAL, HORIZON, SUN, H, Lamp, W, add_water, render
from tools import Array, blur, fbm, halved, hash01, hexes, mix, noise, ramp, smooth, table, unit

PLAIN, WALL, ROOF, STONE, WOOD, LEAF = range(6)


def shore(x: Array) -> Array:
    """Distance at which land begins: a quay ahead, a bay that opens to the left."""
    left = np.maximum(-16 - x, 0)
    bank = 74 + 3.2 * left + 10 * noise(x / 40, 0, 5) * smooth(0, 20, left)
    return np.minimum(bank, 900 + 0.25 * x)


def terrain(x: Array, z: Array) -> Array:
    """Height of the land, far below zero where there is water."""
    d = z - shore(x)
    hill = (
        smooth(40, 520, d) * smooth(-330, 170, x) * (118 + 65 * noise(x / 170 + 0.4, z / 260, 31))
    )
    far = smooth(900, 4800, z) * (340 + 390 * fbm(x / 1500 + 1.3, z / 2600, 41, 6))
    rough = 1.2 * smooth(5, 60, d) * fbm(x / 18, z / 18, 51, 3)
    rough += 9 * smooth(500, 1500, z) * fbm(x / 60, z / 60, 61, 3)
    land = 1.5 + 0.15 * np.clip(d - 20, 0, 110) + hill + np.maximum(far, 0) + rough
    return np.where(d < 0, -50.0, land)


def ground_look(x: Array, z: Array) -> tuple[Array, Array]:
    """Color and normal of the land."""
    h, step = terrain(x, z), 0.4 + 0.002 * z
    slopes = (h - terrain(x + step, z)) / step, (h - terrain(x, z + step)) / step
    fine, broad = fbm(x / 5, z / 9, 71, 4), fbm(x / 200, z / 300, 75, 4)
    grass = ramp(table(".15 .20 .05; .28 .25 .09"), 0.5 + 1.2 * fine + broad)
    forest = ramp(table(".05 .085 .03; .13 .14 .045"), 0.3 + 1.5 * broad)
    yard = np.array([0.34, 0.30, 0.24]) * (1 + 0.3 * fine[:, None])
    color = mix(yard, mix(grass, forest, smooth(450, 1200, z)), smooth(8, 30, z - shore(x)))
    return color, unit(np.stack([slopes[0], 1 + 0 * h, slopes[1]], -1))


def sky(ray: Array) -> Array:
    """Color of the evening sky with its clouds."""
    up = np.clip(ray[..., 1], 0, 1)
    low, middle, zenith = table("1.15 .95 .74; .40 .60 .88; .13 .28 .62")
    shade, lit = table(".46 .47 .58; 2.0 1.62 1.25")
    color = mix(mix(low, middle, smooth(-0.02, 0.20, up)), zenith, smooth(0.10, 0.65, up))
    color *= 0.9 + 0.35 * np.clip(0.35 - 0.9 * ray[..., :1], 0, 1)
    x, z = (0.55 * ray[..., i] / (up + 0.10) for i in (0, 2))
    warp = 0.35 * fbm(x + 3.1, z, 210, 2)
    x, z = x + 3.1 + warp, z + warp
    body = fbm(x, z, 220, 7)
    cover = smooth(0, 0.42, body + 0.06)
    glow = 0.62 + 1.4 * (body - fbm(x - 0.10, z - 0.07, 220, 4)) - 0.33 * cover
    return mix(color, mix(shade, lit, np.clip(glow, 0, 1.2)), 0.92 * cover * smooth(0, 0.10, up))


def wall_color(paint: Array, u: Array, v: Array, size: Array, cells: Array, face: Array) -> Array:
    """Plaster with windows: frames, shutters, glass and bars; a lone cell is a dark arch."""
    (_, nv), (cw, ch) = cells, size / cells
    iu, iv = np.floor(u / cw), np.floor(v / ch)
    su, sv, hw, hh = abs(u - (iu + 0.5) * cw), v - (iv + 0.52) * ch, 0.19 * cw, 0.27 * ch
    arch, rise = nv == 1, np.clip(sv - hh + hw, 0, hw)
    inset = np.minimum(np.where(arch, np.sqrt(hw**2 - rise**2), hw) - su, hh - abs(sv))
    inset[iv >= nv] = -1  # under the gable
    shutter = (su < 2.05 * hw) & (abs(sv) < hh) & (iv < nv) & ~arch
    bar = ((su < 0.05) | (abs(sv - 0.2 * hh) < 0.05)) & ~arch
    hues = hexes("5a8074 94674f 6f8699 a09c93")[(hash01(face // 4) * 4).astype(int)] ** 2.2
    glass = np.where(hash01(iu, iv, face) > 0.8, 0.16, 0.035) * np.where(sv > hh - 0.16, 0.4, 1)
    stain = (1 + 0.22 * fbm(u / 1.7 + face, v / 2.4, 91, 4)) * (0.7 + 0.3 * smooth(0, 1.4, v))
    color = paint * stain[:, None]
    color[shutter] = (hues * (0.8 + 0.3 * (np.floor(v / 0.12) % 2))[:, None])[shutter]
    color[inset > -0.16] = 0.74, 0.70, 0.62
    color[inset > 0] = np.where(bar, 0.45, glass)[inset > 0, None] * (0.85, 0.9, 1.05)
    return color


class Village:
    """Polygons and leaves, and tables of how each of them looks: faces first, then leaves."""

    terrain, ground_look = staticmethod(terrain), staticmethod(ground_look)

    def __init__(self) -> None:
        self.rng, self.faces, self.looks, self.leaves = np.random.default_rng(12), [], [], []
        self.build()
        a, b, c = (np.array([face[i] for face in self.faces]) for i in range(3))
        normal = unit(np.cross(b - a, c - a))
        self.origin, self.u = a, unit(b - a)
        self.v = np.cross(normal, self.u)
        self.v *= np.where(self.v[:, 1:2] < 0, -1, 1)
        self.size = np.linalg.norm(b - a, axis=1), abs(((c - a) * self.v).sum(1))
        looks = np.array(self.looks)
        leaves = [np.concatenate(part) for part in zip(*self.leaves, strict=True)]
        self.cells, self.points, self.radius = looks[:, 4:], leaves[0], leaves[3]
        self.normal = np.concatenate([normal, leaves[1]])
        self.color = np.concatenate([looks[:, :3], leaves[2]])
        self.kind = np.concatenate([looks[:, 3], 0 * self.radius + LEAF]).astype(int)

    def place(self, x: float, z: float, yaw: float = 0, y: float | None = None) -> None:
        """Choose where the next parts go; y defaults to the ground."""
        c, s = np.cos(yaw), np.sin(yaw)
        self.turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        self.shift = x, terrain(x, z) if y is None else y, z

    def face(self, corners: list, color: Array, kind: int = PLAIN, cells: tuple = (1, 1)) -> None:
        """Add a flat convex polygon; cells counts its windows across and up."""
        self.faces.append(np.array(corners, float) @ self.turn + self.shift)
        self.looks.append((*color, kind, *cells))

    def strip(self, low: list, high: list, color: Array, kind: int = PLAIN) -> None:
        """Add the band of faces between two lines of points."""
        for i in range(len(low) - 1):
            self.face([low[i], low[i + 1], high[i + 1], high[i]], color, kind)

    def box(self, x: tuple, y: tuple, z: tuple, color: Array, kind: int = PLAIN) -> None:
        """Add a box without a bottom."""
        low, high = ([(x[i], h, z[j]) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))] for h in y)
        self.strip([*low, low[0]], [*high, high[0]], color, kind)
        self.face(high, color, WOOD if kind == WOOD else PLAIN)

    def house(self, size: tuple, paint: Array, tile: Array) -> None:
        """Build a house with a saddle roof and a chimney; size: width, depth, wall, roof."""
        (w, d, h, r), out = size, 0.55
        a, b, e, c = w / 2, d / 2, w / 2 + out, self.rng.uniform(-0.3, 0.3) * w
        across, deep, floors = (max(round(n), 1) for n in (w / 2.7, d / 2.9, h / 2.9))
        ridge, eave = [(-e, h + r, 0), (e, h + r, 0)], h - r * out / b
        for s in (-1, 1):
            p, q = s * a, s * b
            edge = [(-e, eave, q + s * out), (e, eave, q + s * out)]
            self.strip(edge, ridge, tile, ROOF)
            front = [(-a, 0, q), (a, 0, q), (a, h, q), (-a, h, q)]
            self.face(front, paint, WALL, (across, floors))
            gable = [(p, 0, -b), (p, 0, b), (p, h, b), (p, h + r, 0), (p, h, -b)]
            self.face(gable, paint, WALL, (deep, floors))
        self.box((c - 0.4, c + 0.4), (h, h + r + 1.1), (0.5, 1.3), paint * 0.8)

    def church(self, x: float, z: float) -> None:
        """Build the landmark: a bell tower with a patina spire, and its nave."""
        self.place(x, z, 0.12)
        wall, trim, patina, iron, tile = hexes("e8dfcc d0bfa6 7d9f96 a08d62 af7359") ** 2.2
        for half, low, high in table("2.9 0 13; 3.2 13 13.6; 2.9 13.6 19.6; 3.35 19.6 20.3"):
            side, look = (-half, half), (trim, PLAIN) if half > 3 else (wall, WALL)
            self.box(side, (low, high), side, *look)
        ring = table("-3.2 0 -3.2; 3.2 0 -3.2; 3.2 0 3.2; -3.2 0 3.2; -3.2 0 -3.2")
        levels = [ring * k + (0, y, 0) for k, y in ((1, 20.3), (0.52, 23.3), (0, 33.5))]
        self.strip(levels[0], levels[1], patina, ROOF)
        self.strip(levels[1], levels[2], patina, ROOF)
        self.box((-0.1, 0.1), (33, 36), (-0.1, 0.1), iron)
        self.box((-0.7, 0.7), (34.8, 35), (-0.1, 0.1), iron)
        self.place(x + 11, z + 2.5, 0.12)
        self.house((16, 9, 7.5, 5.2), wall, tile)

    def boat(self, length: float, color: Array, mast: float) -> None:
        """Build a small boat with a red rail; a mast brings two sails."""
        rail, deck, spar, cloth = hexes("b2452f a08053 b28f5f e8deca") ** 2.2
        t = np.linspace(-1, 1, 13)
        x, sheer = length / 2 * t, length * (0.10 + 0.05 * t**2)
        beam = length * 0.17 * np.sqrt(1.002 - np.clip(t, -0.55, 1) ** 2)
        for s in (-1, 1):
            keel, side = np.stack([x, 0 * x, 0.75 * s * beam], 1), np.stack([x, sheer, s * beam], 1)
            self.strip(keel, side, color)
            self.strip(side * (1, 0.85, 1.01), side * (1, 1.05, 1.01), rail)
        self.strip(side * (1, 0.9, -1), side * (1, 0.9, 1), deck)
        if mast:
            self.box((0.30, 0.44), (0.3, mast), (-0.07, 0.07), spar)
            for tack, foot, head in ((0.25, -0.44, mast - 0.2), (0.55, 0.47, mast * 0.8)):
                x, y = np.linspace(tack, foot * length, 17), np.linspace(head, 1.3, 17)
                belly = -0.45 * np.sin(np.linspace(0.2, 2.6, 17))
                low, high = (np.stack([x, h, belly], 1) for h in (0 * y + 1.25, y))
                self.strip(low, high, cloth)

    def tree(self, x: float, z: float, height: float, color: Array) -> None:
        """Grow a tree: clumps of leaves, as many as its size in the picture calls for."""
        self.place(x, z)
        rng, px, slim = self.rng, FOCAL * height / z, self.rng.choice([0.6, 1, 1.1])
        n = int(np.clip(px / 6, 6, 44))
        m = int(np.clip(0.30 * px**2, 60, 9000) / n) + 4
        core = unit(rng.normal(size=(n, 1, 3))) * rng.uniform(0.25, 1, (n, 1, 1)) ** 0.5
        out = unit(rng.normal(size=(n, m, 3)))
        reach = rng.uniform(0.08, 0.18, (n, 1, 1)) * rng.uniform(0.5, 1.2, (n, m, 1))
        points = core * (0.30 * slim, 0.34, 0.30 * slim) + (0, 0.6, 0) + out * reach
        normals = unit(0.6 * out + 0.6 * core + 0.35 * rng.normal(size=out.shape) + (0, 0.15, 0))
        tints = color * rng.uniform(0.75, 1.25, (n, 1, 1)) * rng.uniform(0.7, 1.3, (n, m, 1))
        parts = points * height + self.shift, normals, tints
        radii = np.full(n * m, 1.15 * max(0.12, z / FOCAL))
        self.leaves.append((*(part.reshape(-1, 3) for part in parts), radii))
        if z < 200:
            stem = -0.022 * height, 0.022 * height
            self.box(stem, (-1, 0.6 * height), stem, np.array([0.16, 0.11, 0.07]))

    def build(self) -> None:
        """Put everything in its place."""
        rng = self.rng
        paints = hexes("efdfc2 eab46f e8956f f0ebe0 e0a89c a9c0bf eccb84 d8785c") ** 2.2
        tiles = hexes("b0765e a96d59 ba8870 8b8178") ** 2.2
        stone, wood = hexes("b2a99c 957f6b") ** 2.2
        self.place(0, 0, y=0)
        self.box((-16, 140), (0, 1.6), (74, 84), stone, STONE)
        for z in np.arange(8, 31, 0.45):
            ends = 4.4 + rng.uniform(-0.06, 0.06), 6.8 + rng.uniform(-0.06, 0.06)
            self.box(ends, (0.6, 0.8), (z, z + 0.42), wood * rng.uniform(0.6, 1.25), WOOD)
        for x, z in [(x, z) for x in (4.4, 6.8) for z in (14, 19.5, 25, 30.8)]:
            post = (x - 0.12, x + 0.12), (0, rng.uniform(1.4, 1.8)), (z - 0.12, z + 0.12)
            self.box(*post, wood * 0.6, WOOD)

        for z, x, end, loose in table("87 -9 54 0; 108 36 66 1; 132 -8 84 1; 160 0 100 1"):
            for k in range(99):
                span, tall = rng.uniform(6.2, 10), rng.choice([5.8, 8.4, 8.8])
                w, d, yaw = (9, span, np.pi / 2) if rng.random() < 0.6 else (span, 9, 0)
                yaw += rng.uniform(-0.04, 0.04) * (1 + 7 * loose)
                self.place(x + span / 2, z + rng.uniform(-1, 1), yaw)
                size = (w, d, tall, rng.uniform(0.34, 0.42) * d)
                self.house(size, paints[k % 8], tiles[rng.integers(4)])
                x += span + rng.choice([0.2, 0.3, 2.4]) + loose * rng.uniform(1, 9)
                if x > end:
                    break
        self.church(11, 111)
        hulls = hexes("596f7a 618fae e9e7e2 c26052 6c9790") ** 2.2
        fleet = "-11.5 40 .3 7.5 9.5; 1 66 .2 6 0; 17 69 .1 5 0; 24 68 -.15 6.5 0; -34 130 .5 7 9"
        for (x, z, yaw, length, mast), hull in zip(table(fleet), hulls, strict=True):
            self.place(x, z, yaw, 0)
            self.boat(length, hull, mast)
        greens = table(".085 .13 .03; .11 .15 .03; .06 .10 .035; .16 .15 .03; .20 .13 .03")
        near = "-12 84 10; -18 98 13; -21 108 11; 3 100 9; 28 100 10; 36 99 12; -13 110 14"
        for x, z, height in table(near + "; 44 103 11; 30 80.5 6.5; 12.5 80.5 6; -5 80.5 6"):
            self.tree(x, z, height, greens[rng.integers(4)])
        for _ in range(5200):
            z = np.sqrt(rng.uniform(115**2, 1000**2))
            x = rng.uniform(-0.56, 0.56) * z
            d, garden = z - shore(x), z < 178 and x > -12
            meadow = d > 60 and noise(x / 60, z / 90, 77) > 0.16
            if d > 3 and not meadow and (not garden or rng.random() < 0.25):
                height, color = rng.uniform(6, 12) * (0.7 if garden else 1), greens[rng.integers(5)]
                self.tree(x, z, height, color * rng.uniform(0.7, 1.1))

    def surface_color(self, face: Array, points: Array) -> Array:
        """Paint every visible point of the faces by its kind of surface."""
        color, kinds = self.color[face], self.kind[face]
        for kind in (WALL, ROOF, STONE, WOOD):
            g, p = face[kinds == kind], points[kinds == kind]
            u, v = (((p - self.origin[g]) * axis[g]).sum(1) for axis in (self.u, self.v))
            size = np.stack(self.size)[:, g]
            if kind == WALL:
                color[kinds == kind] = wall_color(self.color[g], u, v, size, self.cells[g].T, g)
                continue
            if kind == WOOD:
                along, across = np.where(size[0] > size[1], (u, v), (v, u))
                tone = 1 + 0.5 * fbm(along * 1.2 + g, across * 22, 97, 3)
            else:
                row, lift = np.divmod(v / 0.44, 1)
                column, side = np.divmod(u / (0.3 if kind == ROOF else 1.1) + 0.37 * row, 1)
                tone = 0.72 + 0.5 * hash01(column, row, g) + 0.4 * fbm(u / 1.7 + g, v / 2.4, 91, 4)
                joint = (lift < 0.12) | (side < 0.06)
                tone *= 1.1 - 0.35 * lift if kind == ROOF else 1 - 0.4 * joint
            wet = 0.35 + 0.65 * smooth(0.15, 0.5, p[:, 1])
            color[kinds == kind] *= (tone * wet)[:, None]
        return color


def photograph() -> Array:
    """Render the village and develop it: glow, soft corners, vignette, film curve, grain."""
    scene, rng = Village(), np.random.default_rng(4)
    suns = [Lamp(scene, SUN + 0.012 * rng.normal(size=3), 2048) for _ in range(3)]
    dome = rng.normal(size=(8, 3))
    dome[:, 1] = abs(dome[:, 1]) + 0.3
    lamps = suns, [Lamp(scene, toward, 800) for toward in dome]
    y, x = np.mgrid[0:H, 0:W]
    ray = np.stack([(x - W / 2) / FOCAL, (HORIZON - y) / FOCAL, np.ones((H, W))], -1)
    backdrop = sky(unit(ray))
    mirror, _ = render(scene, lamps, -EYE, ray, backdrop)
    image, near = render(scene, lamps, EYE, ray, backdrop)
    add_water(image, near, ray, mirror)
    corner = (2 * x / W - 1) ** 2 + (2 * y / H - 1) ** 2
    image = 0.93 * image + 0.07 * blur(np.clip(image, 0, 4), 14)
    image = mix(image, blur(image, 2.0), smooth(0.5, 2.0, corner)) * (1 - 0.16 * corner)[..., None]
    image = np.maximum(halved(image), 0) * 0.66
    image = image * (2.51 * image + 0.03) / (image * (2.43 * image + 0.59) + 0.14)
    grain = blur(rng.normal(size=image.shape[:2]), 0.6)[..., None]
    image = np.clip(image, 0, 1) ** (1 / 2.1)
    return image + 0.018 * grain * (1 - 0.5 * image)
