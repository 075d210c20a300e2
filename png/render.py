"""A small renderer for polygons, leaves, a height field and a lake.

It draws them into depth buffers, lights them through shadow maps of the sun and of the sky, and
mirrors them in rippled water.
"""

from collections.abc import Callable
from functools import cache
from typing import Protocol

import numpy as np

from tools import Array, fbm, mix, noise, ramp, smooth, table, unit

W, H = 1280, 960  # the photograph, before it is halved
FOCAL, HORIZON, EYE = 1.02 * W, 0.565 * H, 4.2  # x is right, y up, z ahead; in meters
SUN = np.array([-0.842, 0.361, -0.401])
SUNLIGHT, SKYLIGHT, BOUNCE = np.array([[3.6, 2.65, 1.62], [0.30, 0.42, 0.64], [0.30, 0.22, 0.14]])


class Scene(Protocol):
    """What there is to render: polygons and leaves, numbered in this order, and the land."""

    faces: list[Array]  # the corners of each polygon
    points: Array  # of the leaves
    radius: Array  # of the leaves
    normal: Array  # of the faces, then of the leaves
    terrain: Callable[[Array, Array], Array]  # height of the land at x and z
    ground_look: Callable[[Array, Array], tuple[Array, Array]]  # its color and normal

    def surface_color(self, face: Array, points: Array) -> Array:
        """Color of the faces and leaves with these numbers, at these points on them."""


def fill(near: Array, ident: Array, polygon: Array, index: int) -> None:
    """Draw one polygon of (x, y, nearness) corners into a depth buffer."""
    x0, y0 = np.maximum(np.floor(polygon[:, :2].min(0)), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(polygon[:, :2].max(0)) + 1, near.shape[::-1]).astype(int)
    a, b, c = np.cross(polygon[1] - polygon[0], polygon[2] - polygon[0])
    if x0 >= x1 or y0 >= y1 or abs(c) < 1e-9:
        return
    y, x = np.ogrid[y0:y1, x0:x1]
    depth = polygon[0, 2] - (a * (x - polygon[0, 0]) + b * (y - polygon[0, 1])) / c
    inside = depth > near[y0:y1, x0:x1]
    for p, q in zip(polygon, np.roll(polygon, -1, axis=0) - polygon, strict=True):
        inside &= (q[0] * (y - p[1]) - q[1] * (x - p[0])) * np.sign(c) >= 0
    near[y0:y1, x0:x1][inside] = depth[inside]
    ident[y0:y1, x0:x1][inside] = index


def rasterize(scene: Scene, project: Callable, shape: tuple) -> tuple[Array, Array]:
    """Return for each pixel how near the nearest thing is, and which it is (-1 for none)."""
    near, ident = np.zeros(shape), np.full(shape, -1)
    for i, face in enumerate(scene.faces):
        fill(near, ident, project(face)[0], i)
    points, scale = project(scene.points)
    radius, spots = np.clip(np.round(scene.radius * scale), 1, 4), []
    for k in range(1, 5):
        leaf = np.flatnonzero(radius == k)
        for dy, dx in np.argwhere(np.hypot(*np.mgrid[-k : k + 1, -k : k + 1]) < k + 0.3) - k:
            x, y = (np.round(points[leaf, i]).astype(int) + d for i, d in enumerate((dx, dy)))
            ok = (x >= 0) & (y >= 0) & (x < shape[1]) & (y < shape[0])
            spots.append((y[ok] * shape[1] + x[ok], leaf[ok]))
    pixel, leaf = (np.concatenate(part) for part in zip(*spots, strict=True))
    depth = points[leaf, 2]
    seen = np.flatnonzero(depth > near.ravel()[pixel])
    seen = seen[np.argsort(depth[seen])]  # the nearest is written last and stays
    near.ravel()[pixel[seen]] = depth[seen]
    ident.ravel()[pixel[seen]] = leaf[seen] + len(scene.faces)
    return near, ident


class Lamp:
    """A far light from one direction, with its shadow map."""

    def __init__(self, scene: Scene, toward: Array, size: int) -> None:
        right = unit(np.cross((0.0, 1.0, 0.01), toward))
        self.axes, self.size = unit(np.stack([right, np.cross(toward, right), toward])).T, size
        self.map = rasterize(scene, self.project, (size, size))[0]

    def project(self, points: Array) -> tuple[Array, float]:
        """Look at points from the light; nearness grows toward it."""
        k = self.size / 250
        flat = (points - (20, 5, 130)) @ self.axes * (k, k, 1)
        return flat + np.array([self.size / 2, self.size / 2, 500]), k

    def reaches(self, points: Array, normals: Array) -> Array:
        """Say for each point whether the light falls on it."""
        x, y, depth = self.project(points + 0.35 * normals)[0].T
        i, j = (np.clip(np.round(a), 0, self.size - 1).astype(int) for a in (y, x))
        return (i != np.round(y)) | (j != np.round(x)) | (self.map[i, j] < depth + 0.25)


@cache
def landform(terrain: Callable) -> tuple[Array, Array]:
    """Heights under each picture column, at ever farther distances."""
    z = np.geomspace(60, 9500, 1400).astype(np.float32)[:, None]
    return z[:, 0], terrain(z * ((np.arange(W) - W / 2) / FOCAL), z)


def view_land(terrain: Callable, eye: float) -> Array:
    """Nearness of the land in each pixel, found by walking every column outward once."""
    z, height = landform(terrain)
    y = np.where(height < 0, 1e6, HORIZON - FOCAL * (height - eye) / z[:, None])
    top, rows, near = np.minimum.accumulate(y, axis=0), np.arange(H), np.zeros((H, W))
    for c in range(W):
        k = np.searchsorted(-top[:, c], -rows)
        near[:, c] = np.interp(-rows, -top[:, c], 1 / z) * (k < len(z))
    return near


def render(scene: Scene, lamps: tuple, eye: float, ray: Array, backdrop: Array) -> tuple:
    """Picture the land seen from a height; from below zero, it is what the water mirrors."""

    def project(p: Array) -> tuple[Array, Array]:
        x, y, z = p[:, 0] / p[:, 2], (p[:, 1] - eye) / p[:, 2], 1 / p[:, 2]
        return np.stack([W / 2 + FOCAL * x, HORIZON - FOCAL * y, z], 1), FOCAL * z

    near, ident = rasterize(scene, project, (H, W))
    land = view_land(scene.terrain, eye)
    ident[land > near] = -2
    near = np.maximum(near, land)
    hit = near > 0
    z, view, face, ground = 1 / near[hit], ray[hit], np.maximum(ident[hit], 0), ident[hit] == -2
    points = view * z[:, None] + (0, eye, 0)
    color, normal = scene.surface_color(face, points), scene.normal[face]
    color[ground], normal[ground] = scene.ground_look(points[ground, 0], points[ground, 2])
    leaf = (face >= len(scene.faces)) & ~ground
    normal *= np.where(leaf, 1, -np.sign((normal * view).sum(1)))[:, None]

    suns, skies = lamps
    sun = np.mean([lamp.reaches(points, normal) for lamp in suns], axis=0)
    weights = np.stack([np.clip(normal @ lamp.axes[:, 2] + 0.25, 0.02, None) for lamp in skies])
    reached = np.stack([lamp.reaches(points, normal) for lamp in skies])
    dome, up = (weights * reached).sum(0) / weights.sum(0), 0.5 + 0.5 * normal[:, 1]
    through = np.where(leaf, 0.25, 0)  # leaves let some light through
    facing = np.maximum((1 - through) * (normal @ SUN) + through, 0.24 * through)
    light = SUNLIGHT * (facing * sun)[:, None] + SKYLIGHT * ((0.25 + 0.75 * up) * dome)[:, None]
    light += BOUNCE * ((1 - up) * (0.4 + 0.6 * dome))[:, None]
    color *= light * np.where(leaf, 1.35, 1)[:, None]
    air = ramp(table(".46 .57 .77; .92 .79 .68"), 0.3 - 1.25 * view[:, 0])
    image = backdrop.copy()
    image[hit] = mix(color, air, 1 - np.exp(-np.maximum(z - 60, 0) / 2600))
    return image, near


def add_water(image: Array, near: Array, ray: Array, mirror: Array) -> None:
    """Lay the lake over the picture: ripples bend the mirror image, Fresnel's law weighs it."""
    flat = np.maximum(-ray[..., 1] / EYE, 0)
    wet = flat > near
    rng, d, z = np.random.default_rng(5), unit(ray[wet]), 1 / flat[wet]
    x, grain = ray[wet][:, 0] * z, z * z / (FOCAL * EYE)  # grain: the reach of a pixel
    breeze = 0.45 + 0.55 * smooth(-0.35, 0.45, fbm(x / 38, z / 16, 301, 3))
    bend, sx, sz, lost = noise(x / 9, z / 9, 311), 0 * x, 0 * x, 0 * x
    for reach, steep in ((2.6, 0.10), (1.0, 0.12), (0.36, 0.12)):
        seen = steep * breeze / (1 + (grain / reach) ** 2) / (1 + z / 90)
        sx += 0.6 * seen * noise(x / (2.2 * reach) + bend, z / reach, 320)
        sz += seen * noise(x / (2.2 * reach) + bend, z / reach + bend, 330)
        lost += 0.16 * (steep / (1 + z / 90) - seen)
    color = np.zeros_like(d)
    for k in range(6):  # ripples too fine to see scatter what is mirrored
        tilt = sz + lost * (0.6 * (k + rng.random(len(z))) - 1.8)
        normal = unit(np.stack([-sx, 1 + 0 * sx, -tilt], -1))
        cosine = np.maximum(-(d * normal).sum(1), 0.01)
        r = d + 2 * cosine[:, None] * normal
        j = np.clip(W / 2 + FOCAL * r[:, 0] / r[:, 2], 0, W - 1).astype(int)
        i = np.clip(HORIZON - FOCAL * abs(r[:, 1]) / r[:, 2], 0, H - 1).astype(int)
        fresnel = np.clip(0.10 + 0.92 * (1 - cosine) ** 5, 0, 0.92)
        color += mix(np.array([0.018, 0.055, 0.062]), mirror[i, j], fresnel) / 6
    image[wet] = color
