# SPDX-License-Identifier: MIT
"""Host functions: what a guest can ask of its host."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

from vm._errors import LinkError
from vm._pager import Pager
from vm._snapshot import Snapshot
from vm._types import IntType, from_registers, registers_of, resolve, to_registers
from vm.isa import ARGUMENT_REGISTERS, REGISTERS

if TYPE_CHECKING:
    from vm._instance import Instance
    from vm._interrupts import PageFault
    from vm._limits import Limits
    from vm._memory import Memory
    from vm._module import Module
    from vm._sandbox import CData

P = ParamSpec("P")
R = TypeVar("R")
#: Calls with the guest that faulted and the fault; awaited if it returns an awaitable.
PageHandler: TypeAlias = "Callable[[Caller, PageFault], object]"
H = TypeVar("H", bound="PageHandler | Pager")

#: Register numbers of the arguments, in order; results come back in the first two.
ARGUMENT_NUMBERS = tuple(REGISTERS.index(name) for name in ARGUMENT_REGISTERS)
_A0 = ARGUMENT_NUMBERS[0]


class Caller:
    """The first argument of every host function: who calls."""

    __slots__ = ("instance",)

    def __init__(self, instance: Instance) -> None:
        #: The calling instance, stopped in the host call.
        self.instance = instance

    @property
    def memory(self) -> Memory:
        """The calling guest's memory."""
        return self.instance.memory


@dataclass(frozen=True, slots=True)
class HostFunction:
    """A Python function with its guest signature."""

    name: str
    function: Callable[..., Any]
    parameters: tuple[IntType, ...]
    #: None: the function returns None and no register changes.
    result: IntType | None
    #: Whether the function may return None although it has a result type (it is not annotated).
    optional: bool

    def bind(self, word_bits: int) -> BoundHostFunction:
        """The function for a machine of that word size.

        Raises TypeError if its arguments need more registers than there are.
        """
        slots: list[tuple[IntType, tuple[int, ...]]] = []
        used = 0
        for kind in self.parameters:
            count = registers_of(kind, word_bits)
            slots.append((kind, ARGUMENT_NUMBERS[used : used + count]))
            used += count
        if used > len(ARGUMENT_NUMBERS):
            raise TypeError(
                f"host function {self.name!r} takes {used} argument registers, and there are {len(ARGUMENT_NUMBERS)}"
            )
        return BoundHostFunction(self, word_bits, tuple(slots))


@dataclass(frozen=True, slots=True)
class BoundHostFunction:
    """A host function that knows which registers its arguments are in."""

    definition: HostFunction
    word_bits: int
    slots: tuple[tuple[IntType, tuple[int, ...]], ...]
    #: Register and mask of each argument, if that is all there is to them: unsigned, in one register each.
    _plain: tuple[tuple[int, int], ...] | None = field(init=False)
    #: Results below it, and not negative, are in a0 as they are.
    _plain_below: int = field(init=False)

    def __post_init__(self) -> None:
        bits = self.word_bits
        kinds = [(kind.for_word(bits), numbers) for kind, numbers in self.slots]
        plain = tuple((numbers[0], (1 << kind.bits) - 1) for kind, numbers in kinds)
        simple = all(len(numbers) == 1 and not kind.signed for kind, numbers in kinds)
        object.__setattr__(self, "_plain", plain if simple else None)
        result = self.definition.result
        # what has its highest bit set is extended by it, or out of range
        below = 0 if result is None or result.bits > bits else 1 << (result.for_word(bits).bits - 1)
        object.__setattr__(self, "_plain_below", below)

    def start(self, caller: Caller, registers: CData) -> Any:
        """Calls the function with arguments from `registers`; the result may be awaitable."""
        if self._plain is not None:
            return self.definition.function(caller, *[registers[number] & mask for number, mask in self._plain])
        bits = self.word_bits
        arguments = [from_registers(kind, bits, tuple(registers[n] for n in numbers)) for kind, numbers in self.slots]
        return self.definition.function(caller, *arguments)

    def finish(self, value: Any, registers: CData) -> None:
        """Puts the function's result into `registers`. Raises TypeError or OverflowError if it is none."""
        if type(value) is int and 0 <= value < self._plain_below:
            registers[_A0] = value
            return
        kind = self.definition.result
        what = f"the result of host function {self.definition.name!r}"
        if value is None and self.definition.optional:
            return
        if kind is None:
            if value is not None:
                raise TypeError(f"{what} is {value!r}, but it is annotated to return None")
            return
        for number, word in zip(ARGUMENT_NUMBERS, to_registers(kind, self.word_bits, value, what), strict=False):
            registers[number] = word


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function) and not isinstance(function, type):
        function = type(function).__call__  # an object that can be called
    return typing.get_type_hints(function, include_extras=True)


def _signature(name: str, function: Callable[..., Any]) -> HostFunction:
    if not callable(function):
        raise TypeError(f"host function {name!r} is not callable: {function!r}")
    try:
        hints = _annotations(function)
    except Exception as error:  # annotations are code: they can raise anything
        raise TypeError(
            f"host function {name!r}: cannot resolve its annotations ({error}); they must name module globals"
        ) from error
    kinds = inspect.Parameter
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind not in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD):
        raise TypeError(f"host function {name!r} must take the vm.Caller as its first parameter")
    types = []
    for parameter in parameters[1:]:
        if parameter.kind not in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD):
            raise TypeError(f"host function {name!r}: parameter {parameter.name!r} must be positional")
        kind = resolve(hints.get(parameter.name, int))
        if kind is None:
            raise TypeError(f"host function {name!r}: parameter {parameter.name!r} cannot be None")
        types.append(kind)
    result = resolve(hints.get("return", int))
    return HostFunction(name, function, tuple(types), result, "return" not in hints)


class Linker:
    """Host functions by import name. One linker can serve any number of modules."""

    def __init__(self) -> None:
        self._functions: dict[str, HostFunction] = {}
        self._page_handler: PageHandler | Pager | None = None

    def function(self, name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Decorator: defines the import `name`; the function itself is returned unchanged.

        The function takes the `Caller`, then one parameter per guest argument, annotated with ``int``, `u32`,
        `i32`, `u64` or `i64` (none means ``int``), and is ``def`` or ``async def``. Its return annotation says what
        goes into a0 (``None``: nothing; no annotation: an ``int``, or nothing if None is returned).

        Raises TypeError for a signature that no guest can call, ValueError if the name is taken.
        """

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            self.define(name, function)
            return function

        return decorate

    def define(self, name: str, function: Callable[..., Any | Awaitable[Any]]) -> None:
        """As `function`, without the decorator."""
        self._add(_signature(name, function))

    def _add(self, definition: HostFunction) -> None:
        if definition.name in self._functions:
            raise ValueError(f"host function {definition.name!r} is defined already")
        self._functions[definition.name] = definition

    @property
    def names(self) -> frozenset[str]:
        """The names of all that is defined."""
        return frozenset(self._functions)

    def on_page_fault(self, handler: H) -> H:
        """Has `handler` serve the page faults of modules with dynamic paging; usable as a decorator.

        A `ZeroPager` or a `FilePager`, which does so in C, also under `Instance.run`; or a function, ``def`` or ``async
        def``, that `Instance.call` calls with the `Caller` and the `PageFault`. It puts the page there
        (`Memory.write`, `Memory.zero`), or takes its protection away (`Memory.unprotect`); what it returns means
        nothing. If the guest would fault again at the same page, `call` raises `TrapError`; what the function raises
        reaches the caller of `call` unchanged.

        Returns `handler`. Raises TypeError for what cannot be called, ValueError if there is a handler already.
        """
        if not isinstance(handler, Pager) and not callable(handler):
            raise TypeError(f"a page fault handler is a function or a pager, not {handler!r}")
        if isinstance(handler, type):
            raise TypeError(f"{handler.__name__} is a class: give an instance of it")
        if self._page_handler is not None:
            raise ValueError("page faults have a handler already")
        self._page_handler = handler
        return handler

    @property
    def serves_page_faults(self) -> bool:
        """Whether `on_page_fault` was used."""
        return self._page_handler is not None

    async def instantiate(
        self, source: Module | Snapshot, *, limits: Limits | None = None, tenant: Hashable = None
    ) -> Instance:
        """A new instance of a module, or of a snapshot, whose imports are served by this linker.

        Takes and raises what `Module.instantiate` and `Snapshot.instantiate` do, and `LinkError` that names every
        import without a function.
        """
        functions = self._resolve(source.module if isinstance(source, Snapshot) else source)
        instance = await source.instantiate(limits=limits, tenant=tenant)
        instance._link(functions, self._page_handler)
        return instance

    def _resolve(self, module: Module) -> tuple[BoundHostFunction, ...]:
        missing: list[str] = []
        bound: list[BoundHostFunction] = []
        for index, symbol in enumerate(module.blob.imports):
            name = f"<invalid import {index}>" if symbol is None else symbol.decode("utf-8", "backslashreplace")
            function = self._functions.get(name)
            if function is None:
                missing.append(name)
            else:
                bound.append(function.bind(module.isa.word_bits))
        if missing:
            raise LinkError(tuple(missing))
        return tuple(bound)
