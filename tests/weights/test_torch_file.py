"""The reader against torch itself, against hand-built files, and against files that mean harm."""

import contextlib
import copyreg
import gc
import importlib.util
import io
import math
import mmap
import pickle
import pickletools
import struct
import tracemalloc
import warnings
import weakref
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nst_jax.errors import InputError
from nst_jax.weights.torch_file import read_state_dict

FORMATS = ["legacy", "zip"]
NUMPY_TYPES = {
    "Float": np.float32,
    "Double": np.float64,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
}

# Written by Python 2.7's cPickle, driven as torch/serialization.py and torch/tensor.py of torch
# 0.1.10 drive it: what torchvision's VGG-19 of March 2017 looks like, with two small tensors.
LEGACY_2017 = (
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
    b"\x80\x02}q\x01(U\x10protocol_versionq\x02M\xe9\x03U\ntype_sizesq\x03}q\x04(U\x03intq\x05K\x04"
    b"U\x05shortq\x06K\x02U\x04longq\x07K\x08uU\rlittle_endianq\x08\x88u."
    b"\x80\x02ccollections\nOrderedDict\nq\x01]q\x02(]q\x03(U\x11features.0.weightq\x04"
    b"ctorch._utils\n_rebuild_tensor\nq\x05((U\x07storageq\x06ctorch\nFloatStorage\nq\x07"
    b"U\x0866331360q\x08U\x03cpuq\tK\x06NtQK\x00K\x02K\x03\x86q\nK\x03K\x01\x86q\x0btq\x0cRq\re]q"
    b"\x0e(U\x0ffeatures.0.biasq\x0fh\x05((h\x06h\x07U\x0866331040q\x10h\tK\x02NtQK\x00K\x02\x85q"
    b"\x11K\x01\x85q\x12tq\x13Rq\x14ee\x85Rq\x15."
    b"\x80\x02]q\x01(U\x0866331040q\x02U\x0866331360q\x03e."
    + struct.pack("<q2f", 2, 7, 8)
    + struct.pack("<q6f", 6, 1, 2, 3, 4, 5, 6)
)


# An assembler of pickles, to write what torch.save never would.


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(values):
    return sequence(*map(number, values))


def sequence(*parts):
    return b"(" + b"".join(parts) + b"t"


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def storage(fmt, kind="Float", key="0", total=6, part=b"N", device="cpu"):
    fields = [text("storage"), named("torch", f"{kind}Storage"), text(key), text(device)]
    return sequence(*fields, number(total), *([part] if fmt == "legacy" else [])) + b"Q"


def tensor(of, offset=0, size=(2, 3), stride=(3, 1), rebuild="_rebuild_tensor_v2"):
    more = [] if rebuild == "_rebuild_tensor" else [b"\x89", ordered_dict({})]
    fields = [of, number(offset), numbers(size), numbers(stride), *more]
    return named("torch._utils", rebuild) + sequence(*fields) + b"R"


def ordered_dict(entries):
    items = b"".join(text(name) + value for name, value in entries.items())
    return named("collections", "OrderedDict") + b")R(" + items + b"u"


def pickled(*parts, protocol=2):
    return b"\x80" + bytes([protocol]) + b"".join(parts) + b"."


SIX = {"0": np.arange(6, dtype="<f4")}


def build(fmt, content, storages=SIX, *, harm=(b"",) * 5, **zip_options):
    """Make the bytes of a file; `harm` goes to the front of the legacy format's five pickles."""
    if fmt == "zip":
        return build_zip(content, storages, **zip_options)
    keys = b"](" + b"".join(map(text, storages)) + b"e"
    heads = [number(0x1950A86A20F9469CFC6C), number(1001), b"}", content, keys]
    elements = [struct.pack("<q", data.size) + data.tobytes() for data in storages.values()]
    parts = [pickled(extra, head) for extra, head in zip(harm, heads, strict=True)]
    parts[0] = pickled(heads[0], harm[0])
    return b"".join(parts + elements)


def build_zip(
    content, storages=SIX, *, compression=zipfile.ZIP_STORED, byteorder=b"little", **more
):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled(content))
        if byteorder is not None:
            archive.writestr("archive/byteorder", byteorder)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data.tobytes())
        for name, data in more.items():
            archive.writestr(f"archive/{name.replace('_dot_', '.')}", data)
    return file.getvalue()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch") / "weights.pth"


@pytest.fixture
def read(tmp_path):
    def read_bytes(data):
        path = tmp_path / "weights.pth"
        path.write_bytes(data)
        return read_state_dict(path)

    return read_bytes


def refuses(read, data, match):
    """Check that the error is one line, names the file, and says what `match` says."""
    with pytest.raises(InputError, match=match) as caught:
        read(data)
    message = str(caught.value)
    assert "weights.pth" in message
    assert message.isprintable()
    assert len(message) < 500
    return message


# Files as they should be, without torch.


def test_python_2_file_of_2017(read):
    arrays = read(LEGACY_2017)
    assert list(arrays) == ["features.0.weight", "features.0.bias"]
    np.testing.assert_array_equal(arrays["features.0.weight"], [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(arrays["features.0.bias"], [7, 8])
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    assert arrays["features.0.weight"].dtype.isnative


def test_python_2_names_are_utf_8(read):
    data = LEGACY_2017.replace(b"U\x0ffeatures.0.bias", b"U\x0ffeatures.\xc3\xa9bias")
    assert list(read(data))[1] == "features.ébias"


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("kind", NUMPY_TYPES)
@pytest.mark.parametrize("rebuild", ["_rebuild_tensor", "_rebuild_tensor_v2"])
def test_hand_built_file(read, fmt, kind, rebuild):
    data = np.array([0, 1, 0, 1, 1, 0]).astype(NUMPY_TYPES[kind])
    of = storage(fmt, kind, device="cuda:0")
    content = ordered_dict({"b": tensor(of, rebuild=rebuild), "a": tensor(of, 1, (2,), (4,))})
    arrays = read(build(fmt, content, {"0": data}))
    assert list(arrays) == ["b", "a"]
    assert arrays["b"].dtype == data.dtype
    np.testing.assert_array_equal(arrays["b"], data.reshape(2, 3))
    np.testing.assert_array_equal(arrays["a"], data[[1, 5]])


@pytest.mark.parametrize("fmt", FORMATS)
def test_plain_dict_parameter_and_attributes(read, fmt):
    parameter = named("torch._utils", "_rebuild_parameter")
    parameter += sequence(tensor(storage(fmt)), b"\x88", ordered_dict({})) + b"R"
    attributes = b"}" + text("_metadata") + ordered_dict({"": b"}"}) + b"sb"
    for content in (
        b"}" + text("w") + parameter + b"s",
        ordered_dict({"w": parameter}) + attributes,
    ):
        np.testing.assert_array_equal(read(build(fmt, content))["w"], SIX["0"].reshape(2, 3))


@pytest.mark.parametrize("fmt", FORMATS)
def test_empty_state_dict(read, fmt):
    assert read(build(fmt, ordered_dict({}), {})) == {}


def test_legacy_views_of_a_storage(read):
    part = sequence(text("view"), number(2), number(3))
    content = ordered_dict({"w": tensor(storage("legacy", part=part), 1, (2,), (1,))})
    np.testing.assert_array_equal(read(build("legacy", content))["w"], [3, 4])


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]
)
@pytest.mark.parametrize("byteorder", [None, b"little", b"big"])
@pytest.mark.parametrize("kind", NUMPY_TYPES)
def test_zip_compression_and_byteorder(read, compression, byteorder, kind):
    values = np.array([0, 1, 3, 5, 7, 100]).astype(NUMPY_TYPES[kind])
    raw = np.frombuffer(values.tobytes(), f"u{values.itemsize}")
    stored = raw.astype(raw.dtype.newbyteorder(">")) if byteorder == b"big" else raw
    content = ordered_dict({"w": tensor(storage("zip", kind))})
    options = {"compression": compression, "byteorder": byteorder}
    array = read(build_zip(content, {"0": stored}, **options))["w"]
    assert array.dtype == values.dtype.newbyteorder(">" if byteorder == b"big" else "<")
    np.testing.assert_array_equal(array, values.reshape(2, 3))


def test_zip_without_checksums(read):
    # As written under torch.serialization.set_crc32_options(False).
    data = bytearray(build("zip", ordered_dict({"w": tensor(storage("zip"))})))
    for signature, place in ((b"PK\1\2", 16), (b"PK\3\4", 14)):
        for start in [i for i in range(len(data)) if data[i : i + 4] == signature]:
            data[start + place : start + place + 4] = bytes(4)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is not None
    np.testing.assert_array_equal(read(bytes(data))["w"], SIX["0"].reshape(2, 3))


def mapping_of(array):
    while not isinstance(array, mmap.mmap):
        array = array.obj if isinstance(array, memoryview) else array.base
    return array


@pytest.mark.parametrize("fmt", FORMATS)
def test_arrays_are_read_only_views_of_the_mapped_file(scratch, fmt):
    data = np.zeros(1 << 23, "<f4")
    data[-1] = 1
    content = ordered_dict({"w": tensor(storage(fmt, total=data.size), 0, data.shape, (1,))})
    scratch.write_bytes(build(fmt, content, {"0": data}))
    read_state_dict(scratch)  # so that nothing is measured but the reading
    tracemalloc.start()
    arrays = read_state_dict(scratch)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < data.nbytes / 100
    assert not arrays["w"].flags.owndata
    assert not arrays["w"].flags.writeable
    gc.disable()  # the mapping must go with the last array, not at the next collection
    try:
        mapping = weakref.ref(mapping_of(arrays["w"]))
        scratch.unlink()
        assert arrays["w"][-1] == 1
        del arrays
        assert mapping() is None
    finally:
        gc.enable()


# Files that mean harm.


def code(module, name, argument):
    """Pickles that call a function in all the ways that there are."""
    found, argument = named(module, name), text(argument)
    return {
        "REDUCE": found + argument + b"\x85R",
        "STACK_GLOBAL": text(module) + text(name) + b"\x93" + argument + b"\x85R",
        "INST": b"(" + argument + f"i{module}\n{name}\n".encode(),
        "OBJ": b"(" + found + argument + b"o",
    }


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("way", ["REDUCE", "STACK_GLOBAL", "INST", "OBJ"])
@pytest.mark.parametrize(
    "function", ["os.system", "posix.system", "builtins.eval", "builtins.exec", "__builtin__.eval"]
)
def test_code_is_not_run(read, tmp_path, fmt, function, way):
    marker = tmp_path / "marker"
    module, name = function.split(".")
    argument = f"touch {marker}" if name == "system" else f"open({str(marker)!r}, 'w').close()"
    harm = code(module, name, argument)[way]
    pickle.loads(pickled(harm))
    assert marker.exists(), "the pickle is harmless, so this would test nothing"
    marker.unlink()
    entry = ordered_dict({"w": tensor(storage(fmt)), "x": harm})
    attribute = ordered_dict({"w": tensor(storage(fmt))}) + b"}" + text("a") + harm + b"sb"
    for content in (harm, entry, attribute):
        message = refuses(read, build(fmt, content), "not part of a state dict; it was not run")
        assert module in message
        assert name in message
        assert not marker.exists()


@pytest.mark.parametrize("place", range(5))
def test_code_is_not_run_in_any_pickle_of_a_legacy_file(read, tmp_path, place):
    marker = tmp_path / "marker"
    harm = [b""] * 5
    harm[place] = code("os", "system", f"touch {marker}")["REDUCE"] + b"0"  # 0: POP
    data = build("legacy", ordered_dict({"w": tensor(storage("legacy"))}), harm=harm)
    message = refuses(read, data, "holds os.system, which is not part of a state dict")
    assert message.endswith("; it was not run")
    assert not marker.exists()


def test_extension_registry_is_not_asked(read, monkeypatch, tmp_path):
    marker = tmp_path / "marker"
    monkeypatch.setitem(copyreg._inverted_registry, 240, ("os", "system"))
    harm = b"\x82\xf0" + text(f"touch {marker}") + b"\x85R"
    pickle.loads(pickled(harm))  # which also fills the cache that find_class never sees
    assert marker.exists()
    marker.unlink()
    for instruction in (b"\x82\xf0", b"\x83\xf0\0", b"\x84\xf0\0\0\0"):
        content = harm.replace(b"\x82\xf0", instruction)
        refuses(read, build("zip", content), r"pickle instruction EXT\d 240, .* not run")
    assert not marker.exists()
    copyreg._extension_cache.pop(240)


STATE = b"}" + text("__class__") + text("x") + b"s"


@pytest.mark.parametrize(
    "content",
    [
        named("torch._utils", "_rebuild_tensor_v2") + STATE + b"b",
        named("torch._utils", "_rebuild_tensor_v2") + b"N" + STATE + b"\x86b",
        named("torch", "FloatStorage") + STATE + b"b",
        named("collections", "OrderedDict") + STATE + b"b",
        named("collections", "OrderedDict") + b")\x81",
        b"(" + named("collections", "OrderedDict") + b"o",
        b"(icollections\nOrderedDict\n",
        storage("zip") + STATE + b"b",
        tensor(storage("zip")) + STATE + b"b",
        b"]" + STATE + b"b",
        named("torch", "FloatStorage") + b")R",
        text("torch.FloatStorage") + b")R",
        tensor(storage("zip")) + b")R",
        b"}" + b")R",
        tensor(storage("zip")) + text("x") + b"Ns",
        tensor(storage("zip")) + b"Na",
        text("abc") + b"Na",
        b"]" + text("x") + b"Ns",
        b"}Na",
    ],
)
def test_nothing_but_mappings_and_lists_can_be_changed(read, content):
    # As an attribute, where nobody looks at what comes of it: only the change itself can fail.
    whole = ordered_dict({"w": tensor(storage("zip"))}) + b"}" + text("a") + content + b"sb"
    refuses(read, build("zip", whole), "altered|pickle instruction|makes no plain tensor")


def test_pickle_that_exhausts_memory(read):
    tracemalloc.start()
    try:
        data = build("zip", b"Nr\xff\xff\xff\x0f0" + ordered_dict({"w": tensor(storage("zip"))}))
        with contextlib.suppress(InputError):  # Python's Unpickler takes 4 GiB
            read(data)
        huge = [b"\x8e", b"\x8d", b"\x96", b"\x8b"]  # BINBYTES8, BINUNICODE8, BYTEARRAY8, LONG4
        for instruction in huge:
            size = struct.pack("<i", 2**31 - 1) if instruction == b"\x8b" else bytes(5) + b"\1\0\0"
            refuses(read, build("zip", instruction + size), "weights.pth")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


DEEP = b")" + b"\x85" * 200_000  # Python 3.11 to 3.13 crash when they hash this


def test_pickle_that_would_crash_python(read):
    refuses(read, build("zip", b"}" + DEEP + b"Ns"), "a key of type tuple")
    refuses(
        read, build("legacy", b"}", harm=[b""] * 4 + [b"](" + DEEP + b"e."]), "a key of type tuple"
    )
    key = sequence(text("storage"), named("torch", "FloatStorage"), DEEP, text("cpu"), b"K\1")
    refuses(read, build("zip", key + b"Q"), "refers to a storage in an unknown way")


def test_pickle_whose_text_would_be_endless(read):
    # Forty lists, each twice in the next: 2 ** 40 items if anybody wrote them out.
    nested = b"]\x94" + b"".join(
        b"](h" + bytes([i]) + b"h" + bytes([i]) + b"e\x94" for i in range(40)
    )
    refuses(read, build("zip", nested), "holds an object of type list")
    refuses(read, build("zip", nested + text("x") + b"\x93"), "weights.pth")
    refuses(read, build("zip", nested + b")R"), "weights.pth")
    refuses(read, build("zip", b"}" + nested + b"Ns"), "weights.pth")


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (1, (2, 3), (3, 1)),
        (0, (2, 4), (3, 1)),
        (0, (2, 3), (4, 1)),
        (0, (7,), (1,)),
        (6, (), ()),
        (7, (0,), (1,)),
        (-1, (2, 3), (3, 1)),
        (5, (6,), (-1,)),
        (0, (-1,), (1,)),
        (0, (-2, -3), (3, 1)),
        (0, (2,), (2**62,)),
        (0, (2**62,), (1,)),
        (0, (2**64 + 6,), (1,)),
        (2**62, (1,), (1,)),
        (2**64, (1,), (1,)),
        (-(2**62), (2,), (2**62,)),
        (0, (2**40, 2**40), (0, 0)),
        (0, (1,) * 65, (1,) * 65),
        (0, (2, 3), (3,)),
        (0, (6,), (3, 1)),
    ],
)
def test_tensor_beyond_its_storage(read, fmt, offset, size, stride):
    content = ordered_dict({"w": tensor(storage(fmt), offset, size, stride)})
    refuses(read, build(fmt, content), "altered")


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(
    ("offset", "size", "stride", "expected"),
    [
        (5, (), (), 5),
        (6, (0,), (1,), []),
        (0, (0, 2**40), (2**40, 1), np.empty((0, 2**40))),
        (5, (1, 1), (2**40, 7), [[5]]),
        (2, (4,), (0,), [2, 2, 2, 2]),
        (1, (2, 2), (1, 3), [[1, 4], [2, 5]]),
    ],
)
def test_tensor_at_the_bounds_of_its_storage(read, fmt, offset, size, stride, expected):
    content = ordered_dict({"w": tensor(storage(fmt), offset, size, stride)})
    np.testing.assert_array_equal(read(build(fmt, content))["w"], expected, strict=False)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("total", [7, 5, 2**40, 2**61 + 6, 2**64, -1, -(2**61)])
def test_storage_of_another_length_than_the_file_says(read, fmt, total):
    content = ordered_dict({"w": tensor(storage(fmt, total=total), 0, (1,), (1,))})
    data = build(fmt, content)
    if fmt == "zip" and total == 5:  # a member may be longer
        assert read(data)["w"] == [0]
    else:
        refuses(read, data, "altered|truncated")
    if total < 0:
        unused = ordered_dict({}) + b"}" + text("a") + storage(fmt, total=total) + b"sb"
        refuses(read, build(fmt, unused), "refers to a storage in an unknown way")


@pytest.mark.parametrize("total", [7, 2**40, 2**62 + 6, -1, -6])
def test_legacy_storage_beyond_the_file(read, total):
    data = build(
        "legacy", ordered_dict({"w": tensor(storage("legacy", total=total), 0, (0,), (1,))})
    )
    end = SIX["0"].nbytes
    assert data[-end - 8 : -end] == struct.pack("<q", 6)
    refuses(read, data[: -end - 8] + struct.pack("<q", total) + data[-end:], "altered|truncated")


@pytest.mark.parametrize("part", [(0, 7), (6, 1), (7, 0), (-1, 2), (2, -1), (0, 2**62), (7, -1)])
def test_legacy_view_beyond_its_storage(read, part):
    view = sequence(text("view"), *map(number, part))
    content = ordered_dict({"w": tensor(storage("legacy", part=view), 0, (0,), (1,))})
    refuses(read, build("legacy", content), "refers to a storage in an unknown way")


def test_legacy_tensor_beyond_its_view(read):
    view = sequence(text("view"), number(1), number(3))
    content = ordered_dict({"w": tensor(storage("legacy", part=view), 0, (4,), (1,))})
    refuses(read, build("legacy", content), "w reaches beyond its storage")


@pytest.mark.parametrize("fmt", FORMATS)
def test_storage_that_is_not_there(read, fmt):
    content = ordered_dict({"w": tensor(storage(fmt, key="1"))})
    refuses(read, build(fmt, content), "altered")


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("other", [{"kind": "Double"}, {"total": 3}])
def test_storage_of_two_types_or_lengths(read, fmt, other):
    one = {"size": (1,), "stride": (1,)}
    entries = {"a": tensor(storage(fmt), **one), "b": tensor(storage(fmt, **other), **one)}
    refuses(read, build(fmt, ordered_dict(entries)), "two types or lengths")


@pytest.mark.parametrize(
    "reference",
    [
        sequence(text("module"), named("torch", "FloatStorage"), text("0"), text("cpu"), number(6)),
        sequence(text("storage"), text("torch.ComplexStorage"), text("0"), text("cpu"), number(6)),
        sequence(text("storage"), b"N", text("0"), text("cpu"), number(6)),
        sequence(
            text("storage"), named("torch", "FloatStorage"), number(0), text("cpu"), number(6)
        ),
        sequence(text("storage"), named("torch", "FloatStorage"), text("0"), text("cpu"), b"N"),
        sequence(text("storage")),
        text("0"),
        b"N",
    ],
)
def test_strange_reference_to_a_storage(read, reference):
    refuses(read, build("zip", reference + b"Q"), "refers to a storage in an unknown way")


@pytest.mark.parametrize(
    "arguments",
    [
        sequence(storage("zip"), number(0), numbers((6,)), numbers((1,)), b"\x89", b"}", STATE),
        sequence(storage("zip"), number(0), numbers((6,))),
        sequence(storage("zip"), b"N", numbers((6,)), numbers((1,))),
        sequence(storage("zip"), number(0), sequence(b"N"), numbers((1,))),
        sequence(storage("zip"), number(0), text("6"), text("1")),
        sequence(b"N", number(0), numbers((6,)), numbers((1,))),
        b"N",
    ],
)
def test_tensor_of_another_kind(read, arguments):
    content = named("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"
    refuses(
        read, build("zip", ordered_dict({"w": content})), "_rebuild_tensor_v2 that makes no plain"
    )


# Things that are something else.


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "is empty"),
        (b"import os\nos.system('true')\n" * 100, "was not written by torch.save"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(300), "was not written by torch.save"),
        (pickle.dumps({"w": 1}), "was not written by torch.save"),
        (bytes(257) + b"ustar\x0000" + bytes(300), "tar format of the first torch"),
        (b"PK\5\6" + bytes(18), "was not written by torch.save"),
        (b"PK\3\4" + bytes(100), "is truncated or altered"),
    ],
)
def test_file_of_another_kind(read, data, match):
    refuses(read, data, match)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match=r"missing\.pth: no such file"):
        read_state_dict(tmp_path / "missing.pth")
    with pytest.raises(InputError, match="this is a folder"):
        read_state_dict(str(tmp_path))


def test_legacy_file_of_another_version(read):
    for other in (1000, 1002, 2**70):
        refuses(read, LEGACY_2017.replace(b"M\xe9\x03.", number(other) + b"."), "another version")


def test_archives_of_another_kind(read, scratch):
    more = {"constants_dot_pkl": b"", "code/__torch___dot_py": b""}
    refuses(read, build_zip(ordered_dict({}), {}, **more), "is a TorchScript archive")
    np.savez(scratch.with_suffix(".npz"), w=np.zeros(3))
    data = scratch.with_suffix(".npz").read_bytes()
    refuses(read, data, "a zip archive, but not one of torch.save")
    refuses(read, build_zip(ordered_dict({}), {}, byteorder=b"middle"), "altered")
    misplaced = bytearray(build_zip(ordered_dict({}), {}))
    misplaced[misplaced.index(b"PK\1\2") + 42] += 1  # where data.pkl is
    refuses(read, bytes(misplaced), "its table of contents names a wrong place")
    encrypted = bytearray(build_zip(ordered_dict({}), {}))
    encrypted[encrypted.index(b"PK\1\2") + 8] |= 1
    refuses(read, bytes(encrypted), "altered")


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"](" + tensor(storage("FMT")) + b"e", "holds an object of type list, not a state dict"),
        (tensor(storage("FMT")), "holds an object of type tensor, not a state dict"),
        (storage("FMT"), "holds an object of type storage, not a state dict"),
        (b"N", "holds an object of type nonetype, not a state dict"),
        (
            ordered_dict({"w": tensor(storage("FMT")), "epoch": b"K\5"}),
            "holds epoch of type int, but",
        ),
        (ordered_dict({"lr": b"G" + bytes(8)}), "holds lr of type float, but"),
        (ordered_dict({"state_dict": ordered_dict({})}), "holds state_dict of type dict, but"),
        (ordered_dict({"a\nb": b"N"}), r"holds 'a\\nb' of type nonetype, but"),
        (ordered_dict({"n" * 9999: b"N"}), "holds n{100} of type nonetype, but"),
        (b"}K\0Ns", "a key of type int"),
        (named("my.models", "Net") + b")\x81", "holds my.models.Net, which is not part"),
        (named("torch._utils", "_rebuild_sparse_tensor"), "holds torch._utils._rebuild_sparse"),
        (named("torch", "ComplexFloatStorage"), "holds torch.ComplexFloatStorage, which"),
    ],
)
def test_object_of_another_kind(read, fmt, content, match):
    storages = SIX if storage("FMT") in content else {}
    content = content.replace(storage("FMT"), storage(fmt))
    refuses(read, build(fmt, content, storages), match)


# Files that are cut off or altered.


@pytest.fixture(scope="module", params=FORMATS)
def small_file(request):
    storages = {"0": np.arange(6, dtype="<f4"), "1": np.arange(2, dtype="<i8")}
    parameter = sequence(
        tensor(storage(request.param, "Long", "1", 2), 0, (2,), (1,)), b"\x88", b"}"
    )
    entries = {
        "weight": tensor(storage(request.param)),
        "count": named("torch._utils", "_rebuild_parameter") + parameter + b"R",
    }
    return build(request.param, ordered_dict(entries), storages)


def outcome(path, data):
    """Read and touch all elements that there are; an error other than InputError fails the test."""
    path.write_bytes(data)
    try:
        arrays = read_state_dict(path)
    except InputError:
        return None
    for array in arrays.values():
        if array.size:
            assert len(array[(0,) * array.ndim].tobytes()) == array.itemsize
            assert len(array[(-1,) * array.ndim].tobytes()) == array.itemsize
    return arrays


def test_truncated_anywhere(small_file, scratch):
    assert list(outcome(scratch, small_file)) == ["weight", "count"]
    for length in range(len(small_file)):
        assert outcome(scratch, small_file[:length]) is None, length


def test_truncated_2017_file(scratch):
    for length in range(len(LEGACY_2017)):
        assert outcome(scratch, LEGACY_2017[:length]) is None, length


def test_altered_anywhere(small_file, scratch):
    outcomes = []
    for place in range(len(small_file)):
        data = bytearray(small_file)
        data[place] ^= 1 << place % 8
        outcomes.append(outcome(scratch, bytes(data)))
    assert None in outcomes
    assert any(outcomes)


@settings(max_examples=200, deadline=None, database=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.none() | st.tuples(st.integers(0, 10**6), st.integers(0, 20)),
)
def test_altered_at_random(small_file, scratch, changes, cut):
    data = bytearray(small_file)
    for place, value in changes:
        data[place % len(data)] = value
    if cut is not None:
        start, length = cut[0] % len(data), cut[1]
        del data[start : start + length]
    outcome(scratch, bytes(data))


@settings(max_examples=200, deadline=None, database=None)
@given(
    pieces=st.lists(
        st.sampled_from([opcode.code.encode("latin-1") for opcode in pickletools.opcodes])
        | st.sampled_from([b"N", b"(", b"}", b"](", text("w"), number(0), numbers((2, 3))])
        | st.sampled_from([tensor(storage("zip")), storage("zip"), ordered_dict({})])
        | st.binary(max_size=3),
        max_size=20,
    )
)
def test_random_pickle(scratch, pieces):
    outcome(scratch, build("zip", b"".join(pieces)))


# Against torch.


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def save(torch, content, path, fmt, **options):
    torch.save(content, path, _use_new_zipfile_serialization=fmt == "zip", **options)


def check_like_torch(torch, path, weights_only=True):
    """Check that the file reads as torch reads it, to the bit."""
    arrays = read_state_dict(path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")
        tensors = torch.load(path, weights_only=weights_only)
    assert list(arrays) == list(tensors)
    for name, array in arrays.items():
        expected = tensors[name].detach()
        assert array.dtype.name == str(expected.dtype).removeprefix("torch.")
        assert array.shape == expected.shape
        assert [step // array.itemsize for step in array.strides] == list(expected.stride())
        raw = expected.contiguous().flatten().view(torch.uint8).numpy()
        np.testing.assert_array_equal(np.frombuffer(array.tobytes(), np.uint8), raw)
        assert isinstance(mapping_of(array), mmap.mmap)
    return arrays


def random_tensor(torch, dtype, *shape):
    """All patterns of bits, NaNs included."""
    if dtype is torch.bool:
        return torch.rand(shape) < 0.5
    size = math.prod(shape) * dtype.itemsize
    return torch.randint(0, 256, (size,), dtype=torch.uint8).view(dtype).reshape(shape)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("kind", NUMPY_TYPES)
def test_like_torch(torch, scratch, fmt, kind):
    torch.manual_seed(0)
    dtype = getattr(torch, np.dtype(NUMPY_TYPES[kind]).name)
    base = random_tensor(torch, dtype, 4, 5, 6)
    state = OrderedDict(
        zulu=random_tensor(torch, dtype, 3, 4),
        scalar=random_tensor(torch, dtype),
        empty=random_tensor(torch, dtype, 0),
        empty_matrix=random_tensor(torch, dtype, 3, 0, 2),
        empty_end=base.flatten()[120:],
        base=base,
        transposed=base.transpose(0, 2),
        strided=base[1::2, :, ::3],
        row=base[2, 3],
        expanded=base[:1].expand(7, 5, 6),
        images=random_tensor(torch, dtype, 1, 3, 4, 5).to(memory_format=torch.channels_last),
        alpha=torch.nn.Parameter(random_tensor(torch, dtype, 2, 2), requires_grad=False),
    )
    if dtype.is_floating_point:
        state["parameter"] = torch.nn.Parameter(random_tensor(torch, dtype, 2, 3))
    save(torch, state, scratch, fmt)
    arrays = check_like_torch(torch, scratch)
    assert np.shares_memory(arrays["base"], arrays["row"])
    assert next(iter(arrays)) == "zulu"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("fmt", FORMATS)
def test_like_torch_under_all_pickle_protocols(torch, scratch, fmt, protocol):
    state = {f"layers.{i}.weight": torch.randn(2, 3) for i in range(300)}  # memo beyond one byte
    state["é" * 200] = torch.nn.Parameter(torch.randn(2))
    save(torch, state, scratch, fmt, pickle_protocol=protocol)
    check_like_torch(torch, scratch, weights_only=protocol < 4)  # which then knows no protocol 4


@pytest.mark.parametrize("fmt", FORMATS)
def test_state_dict_of_a_module(torch, scratch, fmt):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state = module.state_dict()
    assert state._metadata
    save(torch, state, scratch, fmt)
    assert check_like_torch(torch, scratch)["1.num_batches_tracked"].shape == ()


def test_like_torch_without_checksums(torch, scratch):
    torch.serialization.set_crc32_options(False)
    try:
        save(torch, {"w": torch.arange(6.0)}, scratch, "zip")
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(scratch) as archive:
        assert archive.testzip() is not None
    check_like_torch(torch, scratch)


def test_like_torch_on_hand_built_files(torch, scratch):
    scratch.write_bytes(LEGACY_2017)
    check_like_torch(torch, scratch)
    for fmt in FORMATS:
        scratch.write_bytes(
            build(fmt, ordered_dict({"w": tensor(storage(fmt), 1, (2, 2), (1, 3))}))
        )
        with contextlib.suppress(RuntimeError):  # torch wants the format_version of newer zips
            check_like_torch(torch, scratch)


@pytest.mark.parametrize("fmt", FORMATS)
def test_objects_of_torch_that_are_no_state_dict(torch, scratch, tmp_path, fmt):
    module = torch.nn.Linear(2, 2)
    lazy = torch.zeros(2, dtype=torch.complex64).conj().imag
    assert lazy.is_neg()
    path = tmp_path / "weights.pth"
    for content, match in (
        (module, "holds torch.nn.modules.linear.Linear, which is not part of a state dict"),
        ({"state_dict": module.state_dict(), "epoch": 1}, "holds state_dict of type dict"),
        ({**module.state_dict(), "epoch": 1}, "holds epoch of type int"),
        (list(module.parameters()), "holds an object of type list"),
        (torch.zeros(2), "holds an object of type tensor"),
        ({"state": {}, "param_groups": [{"lr": 0.1}]}, "holds state of type dict"),
        ({"w": torch.zeros(2, dtype=torch.complex64)}, "torch.ComplexFloatStorage"),
        ({"w": torch.zeros(2).to_sparse()}, "_rebuild_sparse_tensor"),
        ({"w": lazy}, "makes no plain tensor"),
        ({"w": np.zeros(2)}, r"holds numpy\."),
    ):
        save(torch, content, path, fmt)
        refuses(lambda _: read_state_dict(path), None, match)


def test_torchscript(torch, tmp_path):
    path = tmp_path / "weights.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    refuses(lambda _: read_state_dict(path), None, "is a TorchScript archive")


@contextlib.contextmanager
def torchvision_models(torch):
    """Import torchvision, which beside a CPU-only torch lacks operators that nobody needs here."""
    library = None
    try:
        import torchvision.models as models
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision.models as models
    yield models
    del library  # with it the operators go


@pytest.mark.slow
@pytest.mark.parametrize("fmt", FORMATS)
def test_vgg19_of_torchvision(torch, scratch, fmt):
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("needs torchvision")
    with torchvision_models(torch) as models:
        state = models.vgg19(weights=None, init_weights=False).state_dict()
    save(torch, state, scratch, fmt)
    try:
        assert scratch.stat().st_size > 574_000_000
        arrays = check_like_torch(torch, scratch)
        assert len(arrays) == 38
        assert arrays["classifier.0.weight"].shape == (4096, 25088)
    finally:
        scratch.unlink()
