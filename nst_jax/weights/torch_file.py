"""Read torch's state-dict files without torch, and without running anything that they hold.

torch.save has written two formats, specified only by torch/serialization.py:

- Legacy, before torch 1.6; torchvision's VGG-19 of 2017 is such a file. Five pickles in a row (a
  magic number, a version, facts about the machine, the saved object, a list of storage keys), then
  for each key its storage: the number of elements as an int64 and the elements, little-endian.
- Zip, since then. The object's pickle is NAME/data.pkl, and each storage a member NAME/data/KEY,
  uncompressed, in the byte order that NAME/byteorder names (little-endian without it).

A pickle is a program that may call any function of Python. This module interprets a few
harmless instructions, as torch does for weights_only=True, and treats a function as a mere name.
A pickle.Unpickler with its own find_class is not enough: five bytes make Python 3.11 to 3.13 fill
64 GiB (LONG_BINPUT), a deeply nested tuple as a key overflows the stack, which kills the process,
and BUILD sets attributes of whatever find_class returns.
"""

import io
import mmap
import os
import pickletools
import struct
import zipfile
from collections.abc import Iterable
from typing import IO, Any, Literal, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from nst_jax.errors import InputError

_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
_VERSION = 1001
_DTYPES = {
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}
_FUNCTIONS = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
}
_BYTEORDERS: dict[bytes, Literal["<", ">"]] = {b"little": "<", b"big": ">"}
# How many items a pickle's instruction takes from the stack; None: all down to the last mark.
_TAKES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": None}
_TAKES |= {"APPEND": 1, "APPENDS": None, "SETITEM": 2, "SETITEMS": None}
_TAKES |= {"STACK_GLOBAL": 2, "REDUCE": 2, "BUILD": 1, "BINPERSID": 1}
_NOT_RUN = "which is not part of a state dict; it was not run"
_ADVICE = "save it anew with torch.save(model.state_dict(), FILE)"


class _Fault(Exception):  # noqa: N818 - InputError is the error; this lacks the path
    """What is wrong with a file, as the rest of a sentence that begins with its path."""


class _Storage(NamedTuple):
    """A flat array that tensors share, or a part of one; units are elements."""

    key: str
    dtype: np.dtype[Any]
    total: int  # of the whole array, as it is in the file
    start: int
    length: int


class _Tensor(NamedTuple):
    """A view of a storage; units are elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a file that torch.save wrote from a state dict, in either of its formats.

    Args:
      path: of a file that holds a flat mapping of names to dense tensors or parameters, of torch's
        types float64, float32, float16, bfloat16, int64, int32, int16, int8, uint8 or bool.

    Returns:
      The arrays by name, in the file's order, with the shapes, strides and types that they had in
      torch. They are read-only views of the file, which is mapped and not copied into memory: do
      not change the file while they live. Arrays of a legacy file may be unaligned, and arrays of a
      big-endian file have big-endian types.

    Raises:
      InputError: if there is no such file, or it is of another kind, truncated or altered. Altered
        numbers alone go unnoticed, as no checksum is reliable. Nothing in the file is ever run.
    """
    name = os.fspath(path)
    if not os.path.isfile(path):
        raise InputError(f"{name}: {'this is a folder' if os.path.isdir(path) else 'no such file'}")
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise InputError(f"{name} is empty; get it again, or {_ADVICE}")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            return _read_zip(file, mapped) if mapped[:4] == b"PK\3\4" else _read_legacy(mapped)
        except _Fault as fault:
            raise InputError(f"{name} {fault}") from None
        except Exception as error:  # altered bytes make the parsers raise almost anything
            reason = f"is truncated or altered ({type(error).__name__})"
            raise InputError(f"{name} {reason}; get it again, or {_ADVICE}") from error


def _read_legacy(mapped: mmap.mmap) -> dict[str, np.ndarray]:
    if _MAGIC not in mapped[:32]:
        tar = mapped[257:262] == b"ustar"
        what = "is in the tar format of the first torch" if tar else "was not written by torch.save"
        raise _Fault(f"{what}; {_ADVICE}")
    storages: dict[str, _Storage] = {}
    _, version, _, content, keys = (_unpickle(mapped, storages) for _ in range(5))
    if version != _VERSION or not isinstance(keys, list):
        raise _Fault(f"is of another version of torch's format than {_VERSION}; {_ADVICE}")
    whole, position, data = np.frombuffer(mapped, np.uint8), mapped.tell(), {}
    for key in keys:
        storage = storages[_text(key)]
        (total,) = struct.unpack_from("<q", mapped, position)
        if total != storage.total:
            raise _Fault(f"is altered: a storage has {total} elements, not {storage.total}")
        start, position = position + 8, position + 8 + total * storage.dtype.itemsize
        data[storage.key] = whole[start:position]
    return _arrays(content, storages, data, "<")


def _read_zip(file: IO[bytes], mapped: mmap.mmap) -> dict[str, np.ndarray]:
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    folder = names[0].partition("/")[0]
    if f"{folder}/constants.pkl" in names:
        raise _Fault(f"is a TorchScript archive, which holds code; {_ADVICE}")
    if f"{folder}/data.pkl" not in names:
        raise _Fault(f"is a zip archive, but not one of torch.save; {_ADVICE}")
    name, byteorder = f"{folder}/byteorder", b"little"
    if name in names:
        byteorder = _member(archive, name, mapped).tobytes()
    pickled = _member(archive, f"{folder}/data.pkl", mapped).tobytes()
    storages: dict[str, _Storage] = {}
    content = _unpickle(io.BytesIO(pickled), storages)
    data = {key: _member(archive, f"{folder}/data/{key}", mapped) for key in storages}
    return _arrays(content, storages, data, _BYTEORDERS[byteorder])


def _member(archive: zipfile.ZipFile, name: str, mapped: mmap.mmap) -> NDArray[np.uint8]:
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:  # 1: encrypted
        return np.frombuffer(archive.read(entry), np.uint8)
    # zipfile would copy, and would insist on checksums that torch may leave out.
    signature, *lengths = struct.unpack_from("<4s22xHH", mapped, entry.header_offset)
    start = entry.header_offset + 30 + sum(lengths)
    if signature != b"PK\3\4":
        raise _Fault("is altered: its table of contents names a wrong place; get it again")
    return np.frombuffer(mapped, np.uint8)[start : start + entry.file_size]


def _arrays(
    content: object,
    storages: dict[str, _Storage],
    data: dict[str, NDArray[np.uint8]],
    byteorder: Literal["<", ">"],
) -> dict[str, np.ndarray]:
    """Check all lengths and positions that the file gives, and build the arrays."""
    if not isinstance(content, dict):
        raise _Fault(f"holds an object of type {_kind(content)}, not a state dict; {_ADVICE}")
    for key, storage in storages.items():
        wanted, actual = storage.total * storage.dtype.itemsize, data[key].size
        if actual < wanted:
            raise _Fault(f"is truncated: a storage has {actual} bytes of {wanted}; get it again")
    arrays = {}
    for name, tensor in content.items():
        if not isinstance(tensor, _Tensor):
            what = f"holds {_shown(name)} of type {_kind(tensor)}"
            raise _Fault(f"{what}, but a state dict holds only tensors; {_ADVICE}")
        storage, offset, size, stride = tensor
        end = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if 0 in size:
            end = offset
        if min((offset, *size, *stride)) < 0 or end > storage.length:
            raise _Fault(f"is altered: {_shown(name)} reaches beyond its storage; get it again")
        arrays[name] = np.ndarray(
            size,
            storage.dtype.newbyteorder(byteorder),
            buffer=data[storage.key],
            offset=(storage.start + offset) * storage.dtype.itemsize,
            strides=[step * storage.dtype.itemsize for step in stride],
        )
    return arrays


def _unpickle(file: mmap.mmap | io.BytesIO, storages: dict[str, _Storage]) -> object:
    """Interpret the pickle at the file's position; add its storages to `storages`."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    arg: Any
    for opcode, arg, _ in pickletools.genops(file):  # type: ignore[arg-type]
        if opcode.name in _TAKES:
            count = _TAKES[opcode.name]
            start = marks.pop() if count is None else len(stack) - count
            items, stack[start:] = stack[start:], []
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                break
            case "MARK":
                marks.append(len(stack))
            case "NONE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT":
                stack.append(arg)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                stack.append(arg)
            case "BINSTRING" | "SHORT_BINSTRING":  # of Python 2; genops reads them as Latin-1
                stack.append(arg.encode("latin-1").decode("utf-8"))
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3" | "TUPLE":
                stack.append(tuple(items))
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND" | "APPENDS":
                stack[-1].extend(items)
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM" | "SETITEMS":
                _update(stack[-1], zip(items[::2], items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                memo[len(memo) if arg is None else arg] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "GLOBAL" | "STACK_GLOBAL":
                name = ".".join(arg.split(" ") if opcode.name == "GLOBAL" else items)
                if name not in _FUNCTIONS and name not in _DTYPES:
                    raise _Fault(f"holds {_shown(name)}, {_NOT_RUN}")
                stack.append(name)
            case "REDUCE":
                stack.append(_call(*items))
            case "BUILD" if isinstance(stack[-1], dict):
                pass  # attributes such as _metadata, of no use here
            case "BINPERSID":
                storage = _storage(*items)
                if storages.setdefault(storage.key, storage)[:3] != storage[:3]:
                    raise _Fault("is altered: a storage has two types or lengths; get it again")
                stack.append(storage)
            case other:
                shown = other if arg is None else f"{other} {_shown(arg)}"
                raise _Fault(f"holds the pickle instruction {shown}, {_NOT_RUN}")
    return stack.pop()


def _call(function: object, args: object) -> object:
    """Return what the function with this name would return."""
    match function, args:
        case "collections.OrderedDict", ():
            return {}
        case "collections.OrderedDict", (list(items),):  # by Python 2
            return _update({}, items)
        case (
            "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2",
            (_Storage() as storage, int(offset), tuple(size), tuple(stride), *more),
        ) if all(isinstance(n, int) for n in size + stride) and not any(more[2:]):
            # `more`: requires_grad, hooks, and flags such as a pending negation.
            return _Tensor(storage, offset, size, stride)
        case "torch._utils._rebuild_parameter", (_Tensor() as tensor, *_):
            return tensor
    raise _Fault(f"holds a call of {_shown(function)} that makes no plain tensor; {_ADVICE}")


def _storage(reference: object) -> _Storage:
    """Read a persistent id: "storage", type, key, device, length and, in legacy files, the part."""
    match reference:
        case ("storage", str(kind), str(key), _, int(total), *part) if kind in _DTYPES:
            match part:
                case [] | [None] if total >= 0:
                    return _Storage(key, _DTYPES[kind], total, 0, total)
                case [(_, int(start), int(length))] if 0 <= start <= start + length <= total:
                    return _Storage(key, _DTYPES[kind], total, start, length)
    raise _Fault("is altered: it refers to a storage in an unknown way; get it again")


def _update(mapping: Any, items: Iterable[Any]) -> Any:
    for key, value in items:
        mapping[_text(key)] = value
    return mapping


def _text(key: object) -> str:
    if not isinstance(key, str):  # the hash of a deeply nested tuple would crash Python
        raise _Fault(f"holds a mapping with a key of type {_kind(key)}, not a name; {_ADVICE}")
    return key


def _kind(value: object) -> str:
    return type(value).__name__.strip("_").lower()


def _shown(value: object) -> str:
    """Return a text of the file as one short line."""
    text = str(value) if isinstance(value, str | int) else _kind(value)
    return f"{text if text.isprintable() else ascii(text):.100}"
