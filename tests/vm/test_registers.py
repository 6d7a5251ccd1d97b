# SPDX-License-Identifier: MIT
"""Registers by name and number, from the host and the guest."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import pytest
from guests import LATEST32, LATEST64, build

import vm
from vm.isa import REGISTERS

#: Adds to every register its number.
ADD = "pub @main:\n" + "\n".join(f"r{n} = r{n} + {n}" for n in range(13)) + "\necalli 0\ntrap"


async def test_names_and_numbers(engine: vm.Engine) -> None:
    async with await (await engine.compile(build(ADD))).instantiate() as instance:
        registers = instance.registers
        assert isinstance(registers, MutableMapping)
        assert list(registers) == list(REGISTERS)
        assert len(registers) == 13
        for number, name in enumerate(REGISTERS):
            registers[name] = 100 + number
            assert registers[number] == 100 + number
            registers[number] = 200 + number
            assert registers[name] == 200 + number
        assert dict(registers) == {name: 200 + number for number, name in enumerate(REGISTERS)}
        assert "a0" in registers
        assert "x" not in registers
        assert registers.get("x", 5) == 5
        registers.update(a0=1, a1=2)
        assert (registers["a0"], registers["a1"]) == (1, 2)
        assert repr(registers).startswith("<Registers ra=0xc8, sp=0xc9, ")


async def test_the_guest_sees_them_and_the_host_gets_them_back(engine: vm.Engine) -> None:
    async with await (await engine.compile(build(ADD))).instantiate() as instance:
        for n in range(13):
            instance.registers[n] = n << 40
        instance.next_program_counter = 0
        assert await instance.run() == vm.HostCall(0)
        assert list(instance.registers.values()) == [(n << 40) + n for n in range(13)]


@pytest.mark.parametrize("key", ["x0", "A0", "", "pc", 13, -1, 2**64], ids=repr)
async def test_unknown_registers(engine: vm.Engine, key: Any) -> None:
    async with await (await engine.compile(build("ret"))).instantiate() as instance:
        with pytest.raises(KeyError):
            instance.registers[key]
        with pytest.raises(KeyError):
            instance.registers[key] = 1


@pytest.mark.parametrize("key", [None, 1.5, b"a0", ("a0",)], ids=repr)
async def test_keys_of_the_wrong_type(engine: vm.Engine, key: Any) -> None:
    async with await (await engine.compile(build("ret"))).instantiate() as instance:
        with pytest.raises((TypeError, KeyError)):
            instance.registers[key]


@pytest.mark.parametrize(("isa", "bits"), [(LATEST64, 64), (LATEST32, 32), (vm.InstructionSet.JAM_V1, 64)])
async def test_values(engine: vm.Engine, isa: vm.InstructionSet, bits: int) -> None:
    async with await (await engine.compile(build("ret", isa))).instantiate() as instance:
        registers = instance.registers
        for value in (0, 1, 2**bits - 1, 2 ** (bits - 1)):
            registers["s1"] = value
            assert registers["s1"] == value
        for value in (-1, -(2 ** (bits - 1))):
            registers["s1"] = value
            assert registers["s1"] == value + 2**bits
        registers["s1"] = 5
        for value in (2**bits, -(2 ** (bits - 1)) - 1):
            with pytest.raises(OverflowError, match="register s1"):
                registers["s1"] = value
        for wrong in ("1", 1.0, None, b"\0"):
            with pytest.raises(TypeError, match="register s1 must be an int"):
                registers["s1"] = wrong  # type: ignore[assignment]
        assert registers["s1"] == 5


async def test_they_cannot_be_deleted(engine: vm.Engine) -> None:
    async with await (await engine.compile(build("ret"))).instantiate() as instance:
        for delete in (lambda: instance.registers.pop("a0"), instance.registers.clear, instance.registers.popitem):
            with pytest.raises(TypeError, match="cannot be deleted"):
                delete()
        with pytest.raises(TypeError):
            del instance.registers["a0"]


async def test_32_bit_registers_are_32_bits_wide(engine: vm.Engine) -> None:
    """Results of 32-bit arithmetic are seen as their low half, whatever the machine keeps above."""
    blob = build("pub @main:\ni32 a0 = a0 + 1\na1 = -1\nret", LATEST32)
    async with await (await engine.compile(blob)).instantiate() as instance:
        assert await instance.call("main", 0x7FFF_FFFF) == 0x8000_0000
        assert instance.registers["a1"] == 0xFFFF_FFFF
