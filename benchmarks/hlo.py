"""Read a compiled program's text: its computations, their operations, the bytes they move."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_ARRAY = re.compile(r"\b(pred|[a-z]+\d+)\[([\d,]*)\]")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-<>]+) \(.*\{$")
_NAME = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = ")


class Operation(NamedTuple):
    """One line of a program.

    Attributes:
      name: the compiler's name of the operation.
      result: its type, such as `bf16[1,512,512,64]{3,2,1,0}`, or several in parentheses.
      kind: its opcode, such as `fusion`.
      operands: names of the operands.
      rest: the other text of the line.
    """

    name: str
    result: str
    kind: str
    operands: tuple[str, ...]
    rest: str

    @property
    def shape(self) -> str:
        """The result without its layout."""
        return re.sub(r"\{[^{}]*\}", "", self.result)

    @property
    def origin(self) -> str:
        """The last two parts of the path of the JAX operation that it was made from."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return "/".join(found[1].split("/")[-2:]) if found else ""


Program = Mapping[str, list[Operation]]


def read(text: str) -> Program:
    """Return the operations of each computation, by its name."""
    program: dict[str, list[Operation]] = {}
    lines: list[Operation] | None = None
    for line in text.splitlines():
        if head := _HEAD.match(line):
            lines = program.setdefault(head[1], [])
        elif line.startswith("}"):
            lines = None
        elif lines is not None:
            lines += operations(line)
    return program


def operations(text: str) -> Iterator[Operation]:
    """Yield the operations of a program's text, whichever computation they are in."""
    for line in text.splitlines():
        if name := _NAME.match(line):
            yield _operation(name[1], line[name.end() :])


def _operation(name: str, text: str) -> Operation:
    result, text = _upto(text, " ")
    kind, _, text = text.lstrip().partition("(")
    operands, rest = _upto("(" + text, "")
    return Operation(name, result, kind, tuple(re.findall(r"%([\w.\-]+)", operands)), rest)


def _upto(text: str, end: str) -> tuple[str, str]:
    """Split before the first `end` outside of brackets, or behind the first closed bracket."""
    depth = 0
    for i, sign in enumerate(text):
        if depth == 0 and sign == end:
            return text[:i], text[i:]
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0 and not end:
            return text[: i + 1], text[i + 1 :]
    return text, ""


def arrays(result: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the element type and the shape of each array in the text of a type."""
    for kind, shape in _ARRAY.findall(result):
        yield kind, tuple(int(side) for side in shape.split(",") if side)


def count_bytes(result: str) -> int:
    """Count the bytes of all arrays in the text of a type."""
    return sum(
        math.prod(shape) * (int(found[0]) // 8 or 1 if (found := re.search(r"\d+$", kind)) else 1)
        for kind, shape in arrays(result)
    )


def bodies(program: Program) -> list[str]:
    """Return the names of the bodies of all loops, the longest first."""
    found = [
        match[1]
        for operations in program.values()
        for operation in operations
        if operation.kind == "while" and (match := re.search(r"body=%?([\w.\-]+)", operation.rest))
    ]
    return sorted(found, key=lambda name: -len(program[name]))


def flops(operation: Operation, types: Mapping[str, str], program: Program) -> int:
    """Count the multiplications and additions of a convolution or product, also in a fusion.

    Args:
      operation: a convolution, a product, or a fusion.
      types: types of the operands by name.
      program: the program with the computations of fusions.
    """
    if called := re.search(r"calls=%?([\w.\-]+)", operation.rest):
        inner = program.get(called[1], [])
        within = {each.name: each.result for each in inner}
        return sum(flops(each, within, program) for each in inner)
    if not operation.operands or operation.operands[0] not in types:
        return 0
    _, left = next(arrays(types[operation.operands[0]]), ("", ()))
    _, out = next(arrays(operation.result), ("", ()))
    if operation.kind == "dot":
        found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", operation.rest)
        sides = [int(side) for side in found[1].split(",")] if found else []
        return 2 * math.prod(out) * math.prod(left[side] for side in sides)
    window = re.search(r"window=\{size=(\d+)x(\d+)", operation.rest)
    labels = re.search(r"dim_labels=(\w+)_", operation.rest)
    if "convolution" in operation.kind or "__cudnn$conv" in operation.rest:
        channels = left[labels[1].index("f")] if labels else 0
        taps = int(window[1]) * int(window[2]) if window else 1
        return 2 * math.prod(out) * taps * channels
    return 0
