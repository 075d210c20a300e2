"""What the pictures are made with: vectors, colors, noise and filters."""

from functools import cache

import numpy as np
from PIL import Image

Array = np.ndarray


def table(text: str) -> Array:
    """Parse rows of numbers parted by semicolons."""
    return np.array([row.split() for row in text.split(";")], float)


def hexes(text: str) -> Array:
    """Parse hexadecimal colors into rows of red, green, blue between 0 and 1."""
    return np.array([list(bytes.fromhex(code)) for code in text.split()]) / 255


def unit(v: Array) -> Array:
    """Scale vectors along the last axis to length one."""
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def smooth(lo: float, hi: float, x: Array) -> Array:
    """Ease from 0 to 1 while x goes from lo to hi."""
    t = np.clip((x - lo) / (hi - lo), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a: Array, b: Array, t: Array) -> Array:
    """Blend colors a and b by the weights t."""
    return a + (b - a) * t[..., None]


def ramp(colors: Array, t: Array) -> Array:
    """Look t up in a row of colors that stands for 0 to 1."""
    t = np.clip(t, 0, 1) * (len(colors) - 1)
    i = np.minimum(t.astype(int), len(colors) - 2)
    return mix(colors[i], colors[i + 1], smooth(0, 1, t - i))


@cache
def lattice(seed: int) -> Array:
    """Random directions for the 256 x 256 grid points of a noise."""
    turn = np.random.default_rng(seed).uniform(0, 2 * np.pi, 256 * 256)
    return np.stack([np.cos(turn), np.sin(turn)]).astype(np.float32)


def noise(x: Array, y: Array, seed: int) -> Array:
    """Perlin gradient noise, about -0.7 to 0.7."""
    x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    ix, iy = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    fx, fy = x - ix.astype(np.float32), y - iy.astype(np.float32)
    u, v = (f * f * f * (f * (f * 6 - 15) + 10) for f in (fx, fy))

    def corner(i: int, j: int) -> Array:
        k = ((iy + j) & 255) * 256 + ((ix + i) & 255)
        return lattice(seed)[0].take(k) * (fx - i) + lattice(seed)[1].take(k) * (fy - j)

    a, b = ((1 - u) * corner(0, j) + u * corner(1, j) for j in (0, 1))
    return a + v * (b - a)


def fbm(x: Array, y: Array, seed: int, octaves: int = 5) -> Array:
    """Fractal noise: octaves of turned, ever finer Perlin noise."""
    total = 0.0
    for o in range(octaves):
        total = total + noise(x, y, seed + o) / 2**o
        x, y = 1.6 * x - 1.2 * y + 7.3, 1.2 * x + 1.6 * y - 3.1
    return total


def hash01(*numbers: Array) -> Array:
    """Turn whole numbers into a repeatable random number between 0 and 1."""
    return np.sin(sum(n * k for n, k in zip(numbers, (13, 78.2, 37.7), strict=False))) * 43758 % 1


def blur(image: Array, sigma: float) -> Array:
    """Blur by a Gaussian, through Fourier space, with the edges repeated outward."""
    pad, flat = int(3 * sigma) + 1, (1,) * (image.ndim - 2)
    image = np.pad(image, [(pad, pad)] * 2 + [(0, 0)] * len(flat), mode="edge")
    fy, fx = np.fft.fftfreq(image.shape[0]), np.fft.rfftfreq(image.shape[1])
    kernel = np.exp(-2 * (np.pi * sigma) ** 2 * (fy[:, None] ** 2 + fx**2))
    waves = np.fft.rfft2(image, axes=(0, 1)) * kernel.reshape(kernel.shape + flat)
    return np.fft.irfft2(waves, image.shape[:2], axes=(0, 1))[pad:-pad, pad:-pad]


def halved(image: Array) -> Array:
    """Filter a picture down to half its size."""
    size, planes = (image.shape[1] // 2, image.shape[0] // 2), np.float32(image).transpose(2, 0, 1)
    return np.stack([Image.fromarray(p).resize(size, Image.Resampling.LANCZOS) for p in planes], -1)
