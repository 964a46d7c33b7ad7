"""What a compiled program says of itself: its kernels, and the memory that each reads and writes.

From the text of the optimised program (`compiled.as_text()`), as GPU compilers give no cost
analysis for a device that is not there. An estimate: caches are left out, and so is what a library
call needs for itself.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

# Operations that start nothing on the device.
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "iota"}
_CALLS = {"call", "while", "conditional", "async-start", "async-done"}
_WORKSPACE = re.compile(r", [su]8\[\d*\](\{[\d:A-Z()]*\})?\)$")
_BITS = {"pred": 8, "bf16": 16, "s4": 4, "u4": 4}
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%(\S+) = (.*)$")
_OPCODE = re.compile(r"^(\(.*?\)|\S+) ([a-z][\w-]*)\((.*)$")
_ARRAY = re.compile(r"\b(pred|bf16|[a-z]+\d+\w*)\[([\d,]*)\]")
_SLICES = {"dynamic-slice", "gather", "slice"}


class Instruction(NamedTuple):
    """A line of a computation."""

    name: str
    type: str
    opcode: str
    operands: list[str]
    text: str
    is_root: bool  # whether it is the computation's result


class Kernel(NamedTuple):
    """Something that runs on the device, and how often the program runs it."""

    name: str
    opcode: str
    bytes: int  # read and written, each time
    times: int


def kernels(text: str) -> list[Kernel]:
    """Returns the kernels of a compiled program, those of its loops included.

    Args:
      text: of the optimised program. The number of rounds of a loop is the one that the compiler
        has noted beside it.

    Raises:
      ValueError: if the text has no entry computation, or a loop without a known number of rounds.
    """
    computations, entry = _parse(text)
    return list(_kernels(computations, entry, 1))


def _parse(text):
    computations, entry, current = {}, None, None
    for line in text.splitlines():
        if line and not line[0].isspace() and line.endswith("{"):
            name = re.search(r"%?([\w.-]+)", line.removeprefix("ENTRY "))[1]
            entry = name if line.startswith("ENTRY") else entry
            current = computations[name] = {}
        elif (found := _INSTRUCTION.match(line)) and current is not None:
            is_root, name, text = found.groups()
            parts = _OPCODE.match(text)
            if parts is None:
                continue
            operands = re.findall(r"%([\w.-]+)", parts[3].split("), ")[0])
            current[name] = Instruction(name, parts[1], parts[2], operands, text, bool(is_root))
    if entry is None:
        raise ValueError("the text has no ENTRY computation: pass compiled.as_text().")
    return computations, entry


def _kernels(computations, name, times) -> Iterator[Kernel]:
    body = computations[name]
    for instruction in body.values():
        if instruction.opcode in _FREE:
            continue
        if instruction.opcode in _CALLS:
            rounds = _rounds(instruction) if instruction.opcode == "while" else 1
            for called in _called(instruction):
                yield from _kernels(computations, called, times * rounds)
            continue
        yield Kernel(
            instruction.name, instruction.opcode, _bytes(computations, body, instruction), times
        )


def _called(instruction):
    """The computations that an instruction runs, but for a loop's condition."""
    names = "to_apply|body|calls|true_computation"  # of branches the first, as if it were taken
    found = re.findall(rf"\b(?:{names})=%?([\w.-]+)", instruction.text)
    if branches := re.search(r"branch_computations=\{([^}]*)\}", instruction.text):
        found += re.findall(r"[\w.-]+", branches[1])[:1]
    return found


def _rounds(instruction):
    rounds = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', instruction.text)
    if rounds is None:
        raise ValueError(f"the loop {instruction.name} has no known number of rounds.")
    return int(rounds[1])


def _bytes(computations, body, instruction):
    called = re.search(r"calls=%?([\w.-]+)", instruction.text)
    inner = computations[called[1]] if instruction.opcode == "fusion" and called else None
    total = _size(instruction.type)
    if instruction.opcode == "custom-call":  # what the library needs for itself comes last
        total = _size(_WORKSPACE.sub(")", instruction.type))
    for update in _updates(inner) if inner else []:
        total -= _size(update.type) - _size(inner[update.operands[1]].type)
    for i, name in enumerate(instruction.operands):
        if name not in body:
            continue
        whole = _size(body[name].type)
        total += whole if inner is None else min(whole, _read(inner, i, whole))
    return total


def _updates(inner):
    """The dynamic-update-slices that write a part of a fusion's results, in their place."""
    (root,) = (i for i in inner.values() if i.is_root)
    results = [inner[name] for name in root.operands] if root.opcode == "tuple" else [root]
    return [result for result in results if result.opcode == "dynamic-update-slice"]


def _read(inner, index, whole):
    """Bytes that a fusion reads of an operand: of what is only sliced or gathered, the slices."""
    parameter = next(
        i.name
        for i in inner.values()
        if i.opcode == "parameter" and i.text.split("parameter(")[1].startswith(f"{index})")
    )
    # The operand under its own name, and after what is done to each element by itself.
    users, names, new = [], set(), {parameter}
    while new:
        names |= new
        found = [i for i in inner.values() if new & set(i.operands)]
        new = {i.name for i in found if i.opcode in ("bitcast", "convert", "copy")}
        users += [i for i in found if i.name not in new]
    if not users or any(user.operands[0] not in names for user in users):
        return whole
    if all(user.opcode in _SLICES for user in users):
        return sum(_count(u.type) for u in users) * whole // max(_count(inner[parameter].type), 1)
    return 0 if all(user in _updates(inner) for user in users) else whole


def _count(type_: str) -> int:
    """Elements of an array's type."""
    return math.prod(int(d) for d in _ARRAY.search(type_)[2].split(",") if d)


def _size(type_: str) -> int:
    """Bytes of an array's type, or of all arrays of a tuple's."""
    total = 0
    for name, dims in _ARRAY.findall(type_):
        bits = _BITS.get(name) or int(re.search(r"\d+", name)[0])
        total += math.prod(int(d) for d in dims.split(",") if d) * bits // 8
    return total
