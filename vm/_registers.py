# SPDX-License-Identifier: MIT
"""Guest registers, seen from the host."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Final

from vm._types import WORD, to_registers
from vm.isa import REGISTERS

if TYPE_CHECKING:
    from vm._instance import Instance

_NUMBERS: Final = {name: number for number, name in enumerate(REGISTERS)}


class Registers(MutableMapping[str | int, int]):
    """The 13 registers of one instance, by name (``"a0"``) or number (``7``); iteration gives the names.

    Values are unsigned machine words; negative ones may be assigned. Usable while the guest is stopped
    (InstanceStateError). Registers cannot be deleted.
    """

    __slots__ = ("_instance",)

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    @staticmethod
    def _number(key: str | int) -> int:
        if isinstance(key, str):
            number = _NUMBERS.get(key)
            if number is None:
                raise KeyError(key)
            return number
        if not 0 <= key < len(REGISTERS):
            raise KeyError(key)
        return key

    def __getitem__(self, key: str | int) -> int:
        return int(self._instance._stopped_machine().guest.regs[self._number(key)])

    def __setitem__(self, key: str | int, value: int) -> None:
        number = self._number(key)
        (word,) = to_registers(WORD, self._instance.module.isa.word_bits, value, f"register {REGISTERS[number]}")
        self._instance._stopped_machine().guest.regs[number] = word

    def __delitem__(self, key: str | int) -> None:
        raise TypeError("registers cannot be deleted")

    def __iter__(self) -> Iterator[str]:
        return iter(REGISTERS)

    def __len__(self) -> int:
        return len(REGISTERS)

    def __repr__(self) -> str:
        return f"<Registers {', '.join(f'{name}={value:#x}' for name, value in self.items())}>"
