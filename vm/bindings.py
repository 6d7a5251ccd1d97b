# SPDX-License-Identifier: MIT
"""What the modules stand on that ``pvm bindings`` writes: types of a guest's at calls, and in its memory.

`module_source` writes such a module; all else here is called by one.
"""

from __future__ import annotations

import inspect
import struct
from collections.abc import Awaitable, Callable, Hashable
from types import TracebackType
from typing import Any, ClassVar, Final, Literal, Self, TypeAlias, overload

from vm._errors import VMError
from vm._instance import Instance
from vm._limits import Limits
from vm._linker import Caller, HostFunction, Linker
from vm._memory import Memory
from vm._module import Module
from vm._types import WORD, IntType, i32, i64, resolve, to_registers, u32, u64
from vm.program import BytesLike, ProgramBlob

#: Of what generated modules expect of this one.
VERSION: Final = 1

#: Name, letter of `struct`, offset in bytes and, for an array, number of elements of each field of a structure.
Layout: TypeAlias = tuple[tuple[str, str, int, int | None], ...]

Whole: TypeAlias = Literal["b", "B", "h", "H", "i", "I", "q", "Q", "P"]
Fraction: TypeAlias = Literal["f", "d"]

_BITS: Final = {"b": 8, "B": 8, "h": 16, "H": 16, "i": 32, "I": 32, "q": 64, "Q": 64, "P": 32}
# How a value lies in registers. Small ones are extended to 32 bits by their sign, and 32 bits always by theirs, as the
# calling convention has it. Not so addresses: that of the stack, which a call begins with, is not extended either.
_REGISTERS: Final[dict[str, Any]] = {
    **dict.fromkeys("bhi", i32),
    **dict.fromkeys("BHI?f", u32),
    "q": i64,
    **dict.fromkeys("Qd", u64),
    "P": int,
}

#: What people call the types.
TYPE_NAMES: Final = {
    **{letter: f"{'i' if letter.islower() else 'u'}{bits}" for letter, bits in _BITS.items()},
    "P": "address",
    "?": "bool",
    "f": "f32",
    "d": "f64",
    "v": "void",
}


class BindingsError(VMError):
    """The bindings were made for another program, or for another version of this package."""


def module_source(blob: ProgramBlob) -> str:
    """A Python module with typed bindings for the program, the same text for the same program.

    Raises `vm.ProgramParseError` if its signatures are damaged, `BindingsError` if it has more exports or
    structures than a module should have.
    """
    from vm._bindings_source import write_module  # here, because generated modules do not need it

    return write_module(blob)


def require(version: int) -> None:
    """Raises `BindingsError` if this package has no bindings of that `version`."""
    if version != VERSION:
        raise BindingsError(f"the bindings are of version {version}, not {VERSION}: run 'pvm bindings' again")


class Program:
    """An instance of one program, with its exports for methods; closes it when it is left as a context manager.

    Raises `BindingsError` for an instance of any other program than the one with the hash `SHA256`.
    """

    #: Of the blob, in hexadecimal.
    SHA256: ClassVar[str]

    __slots__ = ("instance",)

    def __init__(self, instance: Instance) -> None:
        self._check(instance.module)
        #: What the methods call.
        self.instance = instance

    @property
    def memory(self) -> Memory:
        """The guest's memory."""
        return self.instance.memory

    async def aclose(self) -> None:
        """Closes the instance. May be called again."""
        await self.instance.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    @classmethod
    def _check(cls, module: Module) -> None:
        if module.sha256 != cls.SHA256:
            raise BindingsError(
                f"the bindings are for the program with SHA-256 {cls.SHA256}, the module has {module.sha256}: "
                "run 'pvm bindings' again"
            )

    @classmethod
    async def _instantiate(cls, module: Module, linker: Linker, limits: Limits | None, tenant: Hashable) -> Self:
        cls._check(module)
        return cls(await linker.instantiate(module, limits=limits, tenant=tenant))


# --- Calls ------------------------------------------------------------------------------------------------------------


@overload
async def call(instance: Instance, export: str, parameters: str, result: Whole, *arguments: object) -> int: ...
@overload
async def call(instance: Instance, export: str, parameters: str, result: Fraction, *arguments: object) -> float: ...
@overload
async def call(instance: Instance, export: str, parameters: str, result: Literal["?"], *arguments: object) -> bool: ...
@overload
async def call(instance: Instance, export: str, parameters: str, result: Literal["v"], *arguments: object) -> None: ...


async def call(
    instance: Instance, export: str, parameters: str, result: str, *arguments: object
) -> int | float | bool | None:
    """`Instance.call` with types, a letter each: `vm.signatures`. Raises what that does.

    TypeError for an argument that is no such value, OverflowError for one out of range.
    """
    bits = instance.module.isa.word_bits
    words: list[int] = []
    for number, (letter, argument) in enumerate(zip(parameters, arguments, strict=True), 1):
        what = f"argument {number} of {export!r}"
        words += to_registers(_kind(letter), bits, _encode(letter, argument, what), what)
    value = await instance.call(export, *words, returns=_REGISTERS.get(result, int))
    return None if result == "v" else _decode(result, value)


def define(linker: Linker, name: str, function: Callable[..., Any], parameters: str, result: str) -> None:
    """`Linker.define` for a function that takes the `Caller` and values of these types, and returns one or awaits it.

    Raises ValueError if the name is taken.
    """
    what = f"the result of host function {name!r}"

    def encode(value: object) -> int | None:
        # what it returns for void, the linker complains about
        return value if result == "v" else _encode(result, value, what)  # type: ignore[return-value]

    async def wait(value: Awaitable[object]) -> int | None:
        return encode(await value)

    def start(caller: Caller, *words: int) -> object:
        value = function(caller, *map(_decode, parameters, words))
        return wait(value) if inspect.isawaitable(value) else encode(value)

    returned = None if result == "v" else _kind(result)
    linker._add(HostFunction(name, start, tuple(map(_kind, parameters)), returned, False))


def _kind(letter: str) -> IntType:
    return resolve(_REGISTERS[letter]) or WORD


def _encode(letter: str, value: object, what: str) -> int:
    """The number that stands for `value` in registers."""
    value = _checked(letter, value, what)
    return int.from_bytes(struct.pack(f"<{letter}", value), "little") if letter in "fd" else int(value)


def _decode(letter: str, number: int) -> int | float | bool:
    """The value that the number stands for; of registers, what is above a value's own bits means nothing."""
    if letter == "?":
        return bool(number & 0xFF)
    if letter in "fd":
        size = struct.calcsize(f"<{letter}")
        value: float = struct.unpack(f"<{letter}", number.to_bytes(size, "little"))[0]
        return value
    bits = _BITS[letter]
    number &= (1 << bits) - 1
    return number - (1 << bits) if letter.islower() and number >> (bits - 1) else number


def _checked(letter: str, value: object, what: str) -> int | float:
    """`value`, if its type has it. Raises TypeError and OverflowError."""
    if letter in "fd":
        if not isinstance(value, int | float):
            raise TypeError(f"{what} must be a float, not {type(value).__name__}")
        try:
            number = float(value)
            struct.pack(f"<{letter}", number)
        except OverflowError:
            raise OverflowError(f"{what} is more than {TYPE_NAMES[letter]} can be") from None
        return number
    if not isinstance(value, int):
        raise TypeError(f"{what} must be {'a bool' if letter == '?' else 'an int'}, not {type(value).__name__}")
    if letter == "?":
        return bool(value)
    bits = _BITS[letter]
    low, high = (-1 << (bits - 1), (1 << (bits - 1)) - 1) if letter.islower() else (0, (1 << bits) - 1)
    if not low <= value <= high:
        raise OverflowError(f"{what} is {value}, not from {low} to {high} ({TYPE_NAMES[letter]})")
    return value


# --- Memory -----------------------------------------------------------------------------------------------------------


class Structure:
    """Base of the dataclasses that stand for a guest's structures."""

    __slots__ = ()

    #: Bytes of the structure, padding included.
    SIZE: ClassVar[int]
    LAYOUT: ClassVar[Layout]

    def pack(self) -> bytes:
        """The structure's bytes; zeros where there is no field, and behind an array of bytes that is too short.

        Raises TypeError and OverflowError for what is no value of a field, ValueError for an array of the wrong length.
        """
        data = bytearray(self.SIZE)
        for name, letter, offset, count in self.LAYOUT:
            what, value = f"{type(self).__name__}.{name}", getattr(self, name)
            if count is None:
                struct.pack_into(f"<{letter}", data, offset, _checked(letter, value, what))
            elif letter == "B":
                text = bytes(memoryview(value))
                if len(text) > count:
                    raise ValueError(f"{what} has {len(text)} bytes, more than {count}")
                data[offset : offset + len(text)] = text
            else:
                values = [_checked(letter, element, f"an element of {what}") for element in value]
                if len(values) != count:
                    raise ValueError(f"{what} has {len(values)} elements, not {count}")
                struct.pack_into(f"<{count}{letter}", data, offset, *values)
        return bytes(data)

    @classmethod
    def unpack(cls, data: BytesLike) -> Self:
        """The structure that `data` holds. Raises ValueError if that is not `SIZE` bytes."""
        if len(data) != cls.SIZE:
            raise ValueError(f"{cls.__name__} has {cls.SIZE} bytes, not {len(data)}")
        values: dict[str, object] = {}
        for name, letter, offset, count in cls.LAYOUT:
            if count is None:
                values[name] = struct.unpack_from(f"<{letter}", data, offset)[0]
            elif letter == "B":
                values[name] = bytes(data[offset : offset + count])
            else:
                values[name] = struct.unpack_from(f"<{count}{letter}", data, offset)
        return cls(**values)

    @classmethod
    def read(cls, memory: Memory, address: int) -> Self:
        """The structure at `address` of a guest's memory. Raises as `Memory.read`."""
        return cls.unpack(memory.read(address, cls.SIZE))

    def write(self, memory: Memory, address: int) -> None:
        """Copies the structure to `address` of a guest's memory. Raises as `pack` and `Memory.write`."""
        memory.write(address, self.pack())
