"""ICC profiles built from bytes, whose colors are known in closed form."""

import struct

import numpy as np


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
