"""Damaged and hostile image files, and a program that reads them: `hostile_images.py FOLDER`.

The program reads each file of a folder as the command reads a content image, and prints a line of
JSON for each. A crash of a decoder, or too much memory, is so a failure of that process alone.
"""

import contextlib
import gzip
import io
import json
import lzma
import resource
import struct
import sys
import time
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from image_bytes import WIDE, png
from peak_memory import forget_peak, peak

SIDE = 48  # px of the picture that is loaded
# What a process may take in all, in bytes: Pillow's limit of pixels, 179 million, with an alpha
# channel is 0.7 GB, and a picture is held up to four times while it is turned and composited.
MOST_MEMORY = 4 * 2**30
_PIXELS = 13_000  # squared it is just below Pillow's limit


def _picture(height=19, width=23, channels=3):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    bands = [x, y, 1 - x * y, 0.3 + 0.7 * x][:channels]
    levels = 200 * np.stack(bands, -1) + rng.integers(0, 55, (height, width, channels))
    return Image.fromarray(levels.astype(np.uint8).squeeze())


def _exif():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x0132] = 6, "a description", "2026:01:01 00:00:00"
    exif[0x8769] = {0x9003: "2026:01:01 00:00:00", 0x829A: 0.01, 0x927C: b"maker" * 20}
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 12.0)}
    return exif.tobytes()


_XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="x"/></rdf:RDF></x:xmpmeta>'  # noqa: E501


def samples():
    """Return small whole files of every format that Pillow or tifffile makes here, by name."""
    rgb, rgba = _picture(), _picture(channels=4)
    gray, palette = rgb.convert("L"), rgb.quantize(16)
    deep = Image.fromarray(np.arange(19 * 23, dtype=np.uint16).reshape(19, 23) * 149)
    floats = Image.fromarray(np.linspace(0, 1, 19 * 23, dtype=np.float32).reshape(19, 23))
    cmyk, bits = rgb.convert("CMYK"), gray.convert("1")
    about = {"exif": _exif(), "icc_profile": WIDE}
    frames = {"save_all": True, "append_images": [rgba.rotate(90), rgba.rotate(180)]}
    wanted = {
        "png": (rgb, about),
        "png-palette": (palette, {"transparency": 3}),
        "png-rgba": (rgba, {"dpi": (72, 72)}),
        "png-16": (deep, {}),
        "png-1": (bits, {}),
        "png-film": (rgba, frames),
        "jpeg": (rgb, about | {"xmp": _XMP, "dpi": (300, 300)}),
        "jpeg-progressive": (rgb, {"progressive": True, "quality": 95}),
        "jpeg-cmyk": (cmyk, {}),
        "jpeg-gray": (gray, {"exif": _exif()}),
        "mpo": (rgb, {"save_all": True, "append_images": [rgb.rotate(90)]}),
        "tiff": (rgb, about),
        "tiff-float": (floats, {}),
        "tiff-16": (deep, {"compression": "tiff_deflate"}),
        **{
            f"tiff-{kind}": (rgba, {"compression": kind})
            for kind in ("tiff_lzw", "packbits", "tiff_adobe_deflate", "zstd", "lzma")
        },
        "tiff-jpeg": (rgb, {"compression": "jpeg"}),
        "tiff-group4": (bits, {"compression": "group4"}),
        "tiff-film": (rgba, frames),
        "webp": (rgb, about | {"xmp": _XMP}),
        "webp-lossless": (rgba, {"lossless": True}),
        "webp-film": (rgba, frames),
        "gif": (palette, {"transparency": 2}),
        "gif-film": (palette, {"save_all": True, "append_images": [palette.rotate(180)]}),
        "avif": (rgb, about),
        "avif-rgba": (rgba, {}),
        "ico": (rgba.resize((32, 32)), {}),
        "ico-bmp": (rgba.resize((32, 32)), {"bitmap_format": "bmp"}),
        "icns": (rgba.resize((64, 64)), {}),
        "bmp": (rgb, {}),
        "bmp-palette": (palette, {}),
        "dib": (rgb, {}),
        "ppm": (rgb, {}),
        "ppm-gray": (gray, {}),
        "ppm-bits": (bits, {}),
        "tga": (rgba, {"compression": "tga_rle"}),
        "jpeg2000": (rgb, {}),
        "jpeg2000-rgba": (rgba, {}),
        "pcx": (palette, {}),
        "sgi": (rgb, {}),
        "dds": (rgba, {}),
        "im": (rgb, {}),
        "msp": (bits, {}),
        "qoi": (rgba, {}),
        "blp": (palette, {}),
        "spider": (floats, {}),
        "xbm": (bits, {}),
        "eps": (rgb, {}),
    }
    found = {}
    for name, (image, options) in wanted.items():
        with contextlib.suppress(KeyError, OSError, ValueError):  # an encoder is not built in
            file = io.BytesIO()
            image.save(file, name.partition("-")[0], **options)
            found[name] = file.getvalue()
    return found | _other_samples(np.asarray(rgb))


def _other_samples(pixels):
    """Return files that Pillow does not write: some of TIFF and PNG, HEIC, and what is text."""
    found = {}
    with contextlib.suppress(ImportError):
        import tifffile

        wide = (pixels.astype(np.uint32) * 257).astype(np.uint16)
        kinds = {
            "tiff-wide": (wide, {"compression": "zlib", "photometric": "rgb"}),
            "tiff-tiles": (wide, {"tile": (16, 16), "photometric": "rgb"}),
            "tiff-planes": (
                np.moveaxis(wide, -1, 0),
                {"planarconfig": "separate", "photometric": "rgb"},
            ),
            "tiff-inverted": (wide[..., 0], {"photometric": "miniswhite"}),
            "tiff-big": (wide, {"bigtiff": True, "photometric": "rgb"}),
            "tiff-float64": (wide / 65535, {"photometric": "rgb"}),
        }
        for name, (array, options) in kinds.items():
            file = io.BytesIO()
            tifffile.imwrite(file, array, **options)
            found[name] = file.getvalue()
    with contextlib.suppress(ImportError):
        import pillow_heif

        file = io.BytesIO()
        pillow_heif.from_pillow(Image.fromarray(pixels)).save(file)
        found["heic"] = file.getvalue()
    rows = [row.tobytes() for row in pixels]
    chunks = [(b"gAMA", struct.pack(">I", 60_000)), (b"zTXt", b"a\0\0" + zlib.compress(b"b" * 99))]
    found["png-texts"] = png(rows, pixels.shape[1], 8, 2, *chunks)
    found["xpm"] = (
        b'/* XPM */\nstatic char *x[] = {\n"2 1 2 1",\n"a c #ff0000",\n"b c #00ff00",\n"ab"\n};'
    )
    found["sun"] = struct.pack(">8I", 0x59A66A95, 23, 19, 24, 1330, 1, 0, 0) + b"".join(
        row + b"\0" for row in rows
    )
    found["psd"] = (
        struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, 19, 23, 8, 3)
        + bytes(12)
        + bytes(2)
        + np.moveaxis(pixels, -1, 0).tobytes()
    )
    header = ("SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   = 2")
    header += ("NAXIS1  =                   23", "NAXIS2  =                   19", "END")
    found["fits"] = _fits_header(header) + pixels[..., 0].tobytes()
    return found


def damaged(whole, rng):
    """Return one of the samples with damage of a random kind, and the name of the kind."""
    name = str(rng.choice(sorted(whole)))
    data = bytearray(whole[name])
    size = len(data)
    head = int(rng.integers(0, min(size, 400)))
    at, length = int(rng.integers(0, size)), int(rng.integers(1, 40))
    kinds = ("flip", "header", "cut", "number", "splice", "repeat", "remove", "noise")
    kind = str(rng.choice(kinds))
    if kind == "flip":
        for place in rng.integers(0, size, rng.integers(1, 9)):
            data[place] ^= 1 << int(rng.integers(0, 8))
    elif kind == "header":
        for place in rng.integers(0, min(size, 100), rng.integers(1, 5)):
            data[place] = int(rng.integers(0, 256))
    elif kind == "cut":
        del data[at:]
    elif kind == "number":  # a lying size, count or offset
        lies = (0, 1, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
        order, wide = rng.choice(["<", ">"]), rng.choice(["H", "I"])
        lie = int(rng.choice(lies)) & (0xFFFF if wide == "H" else 0xFFFFFFFF)
        packed = struct.pack(f"{order}{wide}", lie)
        data[head : head + len(packed)] = packed
    elif kind == "splice":
        other = whole[str(rng.choice(sorted(whole)))]
        data[at:] = other[min(at, len(other)) :]
    elif kind == "repeat":
        data[at:at] = data[at : at + length] * int(rng.integers(1, 2000))
    elif kind == "remove":
        del data[head : head + length]
    else:
        data[at : at + length] = rng.bytes(length)
    return f"{name}-{kind}", bytes(data)


def _tiff(tags, data=b""):
    """Build a little-endian TIFF file; the data begin at byte 400."""
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for tag, (kind, count, value) in sorted(tags.items()):
        head += struct.pack("<HHII", tag, kind, count, value)
    return head.ljust(400, b"\0") + data


def _huge_tiff(width, height, *, bits=8, samples=1, extra=None, data=b""):
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, bits), 259: (3, 1, 1)}
    tags |= {262: (3, 1, 1), 273: (4, 1, 400), 277: (3, 1, samples), 278: (4, 1, height)}
    tags |= {279: (4, 1, len(data))}
    return _tiff(tags | (extra or {}), data)


def _chunk(kind, data, length=None):
    length = len(data) if length is None else length
    return struct.pack(">I", length) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width, height, depth, color, *chunks, data):
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [_chunk(b"IHDR", header), *chunks, _chunk(b"IDAT", data), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _saved(format, mode, side, color=0, **options):
    file = io.BytesIO()
    Image.new(mode, (side, side), color).save(file, format, **options)
    return file.getvalue()


def _zeros(size, *, gzipped=False):
    """Return so many zeros, compressed, without ever holding them."""
    engine = zlib.compressobj(1, wbits=31 if gzipped else 15)
    block = bytes(2**24)
    parts = [engine.compress(block[: min(2**24, size - x)]) for x in range(0, size, 2**24)]
    return b"".join([*parts, engine.flush()])


def bombs():
    """Return small files that ask for much memory or time, by name; each is made when called."""
    big, most = _PIXELS, 65_535
    tiff_strip = {259: (3, 1, 8)}
    found = {
        "png-rgba": lambda: _png(big, big, 8, 6, data=_zeros(big * (4 * big + 1))),
        "png-rgb16": lambda: _png(big, big, 16, 2, data=_zeros(big * (6 * big + 1))),
        "png-palette": lambda: _saved("PNG", "P", big),
        "png-1-bit": lambda: _saved("PNG", "1", big),
        "png-beyond": lambda: _png(most, most, 8, 2, data=_zeros(10**6)),
        "png-most": lambda: _png(2**31 - 1, 2**31 - 1, 1, 0, data=_zeros(10**6)),
        "png-line": lambda: _png(178_000_000, 1, 8, 0, data=_zeros(178_000_001)),
        "png-column": lambda: _png(1, 178_000_000, 1, 0, data=_zeros(2 * 178_000_000)),
        "png-more-rows": lambda: _png(9, 9, 8, 0, data=_zeros(2 * 10**9)),
        "png-profile": lambda: _png(
            9, 9, 8, 0, _chunk(b"iCCP", b"a\0\0" + _zeros(2 * 10**9)), data=_zeros(90)
        ),
        "png-texts": lambda: _png(
            9, 9, 8, 0, *[_chunk(b"zTXt", b"a\0\0" + _zeros(2**26))] * 300, data=_zeros(90)
        ),
        "png-many-texts": lambda: _png(
            9,
            9,
            8,
            0,
            *[_chunk(b"tEXt", b"a\0" + b"b" * 2**20)] * 4,
            *[_chunk(b"tEXt", b"a\0b")] * 300_000,
            data=_zeros(90),
        ),
        "png-lying-chunk": lambda: _png(
            9, 9, 8, 0, _chunk(b"tEXt", b"a\0b", 2**31 - 1), data=_zeros(90)
        ),
        "png-many-frames": lambda: _png(
            9, 9, 8, 0, _chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)), data=_zeros(90)
        ),
        "jpeg": lambda: _saved("JPEG", "RGB", big, quality=1),
        "jpeg-cmyk": lambda: _saved("JPEG", "CMYK", big, quality=1),
        "jpeg-progressive": lambda: _saved("JPEG", "RGB", 8_000, quality=1, progressive=True),
        "jpeg-beyond": lambda: _saved("JPEG", "L", 64, quality=1).replace(
            struct.pack(">HH", 64, 64), struct.pack(">HH", most, most)
        ),
        "jpeg-without-rows": lambda: _saved("JPEG", "L", 64, quality=1).replace(
            struct.pack(">HH", 64, 64), struct.pack(">HH", big, big)
        ),
        "webp": lambda: _saved("WEBP", "RGBA", 13_000, lossless=True, quality=0, method=0),
        "gif": lambda: _saved("GIF", "P", big),
        "gif-beyond": lambda: b"GIF89a" + struct.pack("<HH", most, most) + bytes(3) + b",",
        "avif": lambda: _saved("AVIF", "RGB", 8_000, quality=1, speed=10),
        "jpeg2000": lambda: _saved("JPEG2000", "RGB", 4_000),
        "ico": lambda: _ico(_saved("PNG", "RGBA", big)),
        "ico-beyond": lambda: _ico(_png(most, most, 8, 6, data=_zeros(10**6))),
        "icns": lambda: _icns(_saved("PNG", "RGBA", big)),
        "bmp-rle": lambda: _bmp(big, big, bytes([0, 1])),
        "bmp-rle-runs": lambda: _bmp(big, big, b"\xff\x00" * 10**6 + bytes([0, 1])),
        "bmp-beyond": lambda: _bmp(2**31 - 1, 2**31 - 1, b""),
        "ppm": lambda: b"P6 13000 13000 255\n" + bytes(99),
        "ppm-text": lambda: b"P3 13000 13000 255\n" + b"1 " * 10**6,
        "ppm-digits": lambda: b"P3 " + b"1" * 10**7 + b" 1 255\n1",
        "ppm-comment": lambda: b"P6 #" + b"x" * 10**7 + b"\n3 3 255\n" + bytes(27),
        "pgm-beyond": lambda: b"P5 999999999 999999999 255\n",
        "tga-rle": lambda: (
            struct.pack("<12xHHBB", big, big, 24, 0)[:2]
            + b"\x0a"
            + bytes(9)
            + struct.pack("<HHBB", big, big, 24, 0)
            + b"\xff\0\0\0" * 10**6
        ),
        "sgi": lambda: struct.pack(">HBBHHHH", 474, 1, 1, 3, big, big, 4).ljust(512, b"\0"),
        "pcx": lambda: (
            struct.pack("<BBBBHHHH", 10, 5, 1, 8, 0, 0, big, big).ljust(128, b"\0")
            + b"\xff\0" * 10**6
        ),
        "qoi": lambda: b"qoif" + struct.pack(">IIBB", big, big, 4, 0) + b"\xfd" * 3 * 10**6,
        "psd": lambda: struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, big, big, 8, 3) + bytes(13),
        "psd-layers": lambda: (
            struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, 9, 9, 8, 3)
            + bytes(8)
            + struct.pack(">IIh", 2**31, 2**31, -32768)
            + bytes(10**5)
        ),
        "fits-gzip": lambda: _fits(_zeros(10**9, gzipped=True)),
        "dds": lambda: (
            _saved("DDS", "RGBA", 8)[:12]
            + struct.pack("<II", big, big)
            + _saved("DDS", "RGBA", 8)[20:]
        ),
        "xbm": lambda: b"#define a_width 13000\n#define a_height 13000\nstatic char a[] = {0};",
        "xpm": lambda: b'/* XPM */\n"13000 13000 2 1",\n"a c #ff0000",\n"b c #00ff00",\n"ab"',
        "tiff": lambda: _huge_tiff(big, big, data=bytes(99)),
        "tiff-beyond": lambda: _huge_tiff(2**32 - 1, 2**32 - 1),
        "tiff-deflate": lambda: _huge_tiff(big, big, extra=tiff_strip, data=_zeros(big * big)),
        "tiff-64-bits": lambda: _huge_tiff(big, big, bits=64, extra={339: (3, 1, 3)}),
        "tiff-32-bits": lambda: _huge_tiff(
            big, big, bits=32, extra=tiff_strip, data=_zeros(4 * big * big)
        ),
        "tiff-inverted": lambda: _huge_tiff(
            big, big, bits=16, extra=tiff_strip | {262: (3, 1, 0)}, data=_zeros(2 * big * big)
        ),
        "tiff-samples": lambda: _huge_tiff(big, big, bits=16, samples=most),
        "tiff-samples-deep": lambda: _huge_tiff(
            1000, 1000, bits=64, samples=most, extra=tiff_strip, data=_zeros(10**7)
        ),
        "tiff-depth": lambda: _huge_tiff(
            1000, 1000, bits=64, extra=tiff_strip | {32997: (4, 1, 2**31 - 1)}, data=_zeros(10**7)
        ),
        "tiff-count": lambda: _huge_tiff(9, 9, extra={34675: (7, 2**32 - 1, 400)}),
        "tiff-loop": lambda: _huge_tiff(9, 9, data=bytes(81), extra={330: (4, 1, 8)}),
        "tiff-strips": lambda: _huge_tiff(
            9, 2**24, extra={273: (4, 2**24, 400), 278: (4, 1, 1)}, data=bytes(10**5)
        ),
        "tiff-deflate-bomb": lambda: _huge_tiff(9, 9, extra=tiff_strip, data=_zeros(2 * 10**9)),
        "tiff-inverted-bomb": lambda: _huge_tiff(
            9, 9, bits=16, extra=tiff_strip | {262: (3, 1, 0)}, data=_zeros(6 * 10**9)
        ),
        "tiff-inverted-lzma": lambda: _huge_tiff(
            9,
            9,
            bits=16,
            extra={259: (3, 1, 34925), 262: (3, 1, 0)},
            data=lzma.compress(bytes(10**9), preset=0),
        ),
        "tiff-inverted-tile": lambda: _huge_tiff(
            9,
            9,
            bits=16,
            extra={
                259: (3, 1, 8),
                262: (3, 1, 0),
                322: (4, 1, 2**20),
                323: (4, 1, 2**20),
                324: (4, 1, 400),
                325: (4, 1, 999),
            },
            data=_zeros(10**6),
        ),
        "exif-loop": lambda: _saved("PNG", "RGB", 9, exif=_looping_exif()),
        "exif-count": lambda: _saved("JPEG", "RGB", 9, exif=_lying_exif()),
        "profile-lies": lambda: _saved("PNG", "RGB", 9, icc_profile=_lying_profile()),
        "xmp-entities": lambda: _saved("PNG", "RGB", 9, pnginfo=_entities()),
        "eps-loop": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n",
        "zeros": lambda: bytes(10**7),
        "gzip": lambda: gzip.compress(bytes(10**7)),
    }
    return found


def _ico(picture):
    return (
        struct.pack("<HHH", 0, 1, 1)
        + struct.pack("<4BHHII", 0, 0, 0, 0, 1, 32, len(picture), 22)
        + picture
    )


def _icns(picture):
    body = b"ic07" + struct.pack(">I", len(picture) + 8) + picture
    return b"icns" + struct.pack(">I", len(body) + 8) + body


def _bmp(width, height, data):
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    start = 14 + len(info) + 1024
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + bytes(1024) + data


def _fits(data):
    header = ("XTENSION= 'BINTABLE'", "BITPIX  =                    8", "NAXIS   = 2")
    header += ("NAXIS1  =               13000", "NAXIS2  =               13000")
    header += ("ZIMAGE  =                    T", "ZCMPTYPE= 'GZIP_1'", "ZBITPIX = 8", "ZNAXIS = 2")
    header += ("ZNAXIS1 = 13000", "ZNAXIS2 = 13000", "ZTILE1 = 13000", "ZTILE2 = 1", "END")
    first = ("SIMPLE  =                    T", "BITPIX  = 8", "NAXIS   = 0", "END")
    return b"".join(map(_fits_header, (first, header))) + data


def _fits_header(lines):
    return "".join(line.ljust(80) for line in lines).ljust(2880).encode()


def _looping_exif():
    """Return EXIF data whose parts name each other as their parts."""
    entry = struct.pack("<HHHII", 1, 0x8769, 4, 1, 8)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + entry + struct.pack("<I", 8)


def _lying_exif():
    entries = b"".join(struct.pack("<HHII", tag, 2, 2**32 - 1, 2**31) for tag in (270, 271, 305))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 3) + entries + bytes(4)


def _lying_profile():
    """Return a profile that says it has 2^32 - 1 entries."""
    return WIDE[:128] + struct.pack(">I", 2**32 - 1) + WIDE[132:]


def _entities():
    from PIL.PngImagePlugin import PngInfo

    lines = [f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12)]
    text = f'<!DOCTYPE x [<!ENTITY a0 "lol">{"".join(lines)}]><x>&a11;</x>'
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", text)
    return info


def read(path):
    """Read a file as the command reads a content image; return its shape, or what is wrong."""
    from nst_jax.errors import InputError
    from nst_jax.io.extras import load_extras
    from nst_jax.io.images import image_note, image_shape, load_image

    try:
        shape = image_shape(path)
        image = load_image(path, size=SIDE)
        load_extras(path, profile="input")
        image_note(path)
        whole = load_image(path).shape[:2] if shape[0] * shape[1] < 10**6 else shape
    except InputError as error:
        return {"said": str(error)}
    fits = max(image.shape[:2]) == SIDE and image.shape[2:] == (3,) and whole == shape
    values = image.dtype == np.float32 and 0 <= image.min() <= image.max() <= 1
    return {"shape": image.shape, "right": bool(fits and values)}


def main(folder):
    """Read all files of a folder; a fault that is no InputError ends the process."""
    with contextlib.suppress(OSError, ValueError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (3 * MOST_MEMORY, -1))
    for path in sorted(Path(folder).iterdir()):
        print(json.dumps({"begins": path.name}), flush=True)
        forget_peak()
        began = time.monotonic()
        found, most = read(path), peak()
        found |= {"name": path.name, "seconds": time.monotonic() - began, "peak": most}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
