"""Image files and ICC profiles built from bytes, and what they are in closed form."""

import struct
import zlib

import numpy as np

# What a viewer makes of stored rows, by the orientation of EXIF.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


def png(rows, width, depth, color_type, *chunks):
    """Build a PNG of any bit depth; `rows` are the packed bytes of each row."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, len(rows), depth, color_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(kind, data)
        for kind, data in [(b"IHDR", header), *chunks, (b"IDAT", body), (b"IEND", b"")]
    )


def icc_profile(space, kind, tags):
    """Build a version 2 ICC profile with the connection space of its kind."""
    table, data = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + b"\0" * (-len(content) % 4)
    connection = b"Lab " if kind == b"prtr" else b"XYZ "
    header = struct.pack(">I4sI4s4s4s", 0, b"none", 0x02400000, kind, space, connection)
    header += struct.pack(
        ">6H4s4sI4s4sQI", 2024, 1, 1, 0, 0, 0, b"acsp", b"none", 0, b"", b"", 0, 0
    )
    header += struct.pack(">3i", 63190, 65536, 54061) + b"\0" * 48  # the illuminant D50
    size = struct.pack(">I", start + len(data))
    return size + header[4:] + struct.pack(">I", len(tags)) + table + data


def icc_curve(gamma):
    return struct.pack(">4sIIH", b"curv", 0, 1, round(gamma * 256))


def icc_xyz(values):
    return struct.pack(">4sI3i", b"XYZ ", 0, *(round(value * 65536) for value in values))


# Colorants adapted to D50: the columns of the matrices from linear RGB to XYZ.
P3 = np.array(
    [[0.51512, 0.29198, 0.1571], [0.2412, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
)
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.7141]]
)
WIDE = icc_profile(
    b"RGB ",
    b"mntr",
    {b"wtpt": icc_xyz((0.9642, 1, 0.8249))}
    | {
        name: icc_xyz(column)
        for name, column in zip([b"rXYZ", b"gXYZ", b"bXYZ"], P3.T, strict=True)
    }
    | {name: icc_curve(2) for name in (b"rTRC", b"gTRC", b"bTRC")},
)
DARK_GREY = icc_profile(
    b"GRAY", b"mntr", {b"wtpt": icc_xyz((0.9642, 1, 0.8249)), b"kTRC": icc_curve(1.75)}
)
