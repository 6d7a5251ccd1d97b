# SPDX-License-Identifier: MIT
"""Where the reference implementation errs, the specification counts: each known case, named, in both backends.

The cases are those that the specification and the measurements of the design list; "the reference" is polkavm 0.35.
"""

from __future__ import annotations

from typing import Any

import pytest
from guests import build

import vm
from vm.isa import OPCODE_BY_NAME, REGISTERS

LATEST64 = vm.InstructionSet.LATEST64
M64 = 2**64 - 1


def byte(name: str, isa: vm.InstructionSet = LATEST64) -> int:
    return OPCODE_BY_NAME[name].numbers[isa]


def program(code: bytes, starts: set[int], isa: vm.InstructionSet = LATEST64, **fields: Any) -> vm.ProgramBlob:
    bitmask = bytearray((len(code) + 7) // 8)
    for pc in starts:
        bitmask[pc >> 3] |= 1 << (pc & 7)
    return vm.ProgramBlob(isa=isa, code=code, bitmask=bytes(bitmask), **fields)


def trapped_at(end: vm.Interrupt) -> int | None:
    assert isinstance(end, vm.Trap)
    return end.pc


@pytest.fixture(params=["recompiler", "interpreter"])
def config(request: pytest.FixtureRequest) -> vm.Config:
    return vm.Config(backend=request.param)


async def test_register_numbers_above_twelve_are_twelve(config: vm.Config) -> None:
    """Its recompiler takes them for others (specification, head)."""
    for nibble in (13, 14, 15):
        # a0 = a5 + 1; a5 = a0; then the end of the code
        code = bytes([byte("add_imm_64"), 7 | nibble << 4, 1, byte("move_reg"), nibble | 7 << 4])
        async with vm.Engine(config) as engine:
            module = await engine.compile(program(code, {0, 3}))
            async with await module.instantiate() as instance:
                instance.registers.update({name: 100 + n for n, name in enumerate(REGISTERS)})
                instance.next_program_counter = 0
                assert isinstance(await instance.run(), vm.Trap)
                expected = {name: 100 + n for n, name in enumerate(REGISTERS)}
                expected["a0"] = expected["a5"] = expected["a5"] + 1
                assert dict(instance.registers) == expected


def _branch(own_last: int, behind: int, target: int) -> vm.ProgramBlob:
    """A block of one branch; `own_last` is its last byte, `behind` and `target` the opcodes where it can lead."""
    code = bytes([byte("branch_eq"), 0x87, own_last, behind, byte("fallthrough"), target])
    # the block that the branch leads to begins behind a fallthrough
    offset = 5
    assert own_last in (offset, 0)
    return program(code, {0, 3, 4, 5})


async def _branch_cost(config: vm.Config, blob: vm.ProgramBlob) -> int:
    """What the branch at 0 costs with the full model: announced, and charged."""
    settings = vm.ModuleConfig(gas_metering="sync", cost_model=vm.CostModel.full(vm.MemoryLatency.L1_HIT))
    async with vm.Engine(config) as engine:
        module = await engine.compile(blob, settings)
        cost = module.gas_cost(0)
        assert cost is not None
        async with await module.instantiate() as instance:
            instance.gas = cost
            instance.registers.update({"a0": 1, "a1": 2})
            instance.next_program_counter = 0
            end = await instance.run()
            assert end == vm.OutOfGas(3)
            assert instance.gas == 0
        return cost


async def test_a_branch_is_cheap_by_the_opcodes_it_leads_to(config: vm.Config) -> None:
    """Its recompiler looks at a byte too early: the branch's own last one (specification, section 8)."""
    trap, unlikely, other = byte("trap"), byte("unlikely"), byte("fallthrough")
    dear = await _branch_cost(config, _branch(5, other, other))
    for behind, target in ((trap, other), (other, trap), (other, unlikely)):
        assert await _branch_cost(config, _branch(5, behind, target)) == dear - 19
    # a last byte of 0 is no opcode, though it looks like trap: here the branch leads to itself
    assert await _branch_cost(config, _branch(0, other, other)) == dear


@pytest.mark.parametrize("length", [1, 2**31 - 1, 2**31, 2**32 - 1])
async def test_a_memset_that_gas_does_not_pay_for(config: vm.Config, length: int) -> None:
    """Its recompiler panics on some (specification, head)."""
    blob = build("%rw_data_size = 4096\npub @fill:\n    [a0..a0 + a2] = u8 a1\n    ret\n")
    async with vm.Engine(config) as engine:
        module = await engine.compile(blob, vm.ModuleConfig(gas_metering="sync"))
        start = module.memory_map.rw_address
        async with await module.instantiate() as instance:
            block = module.gas_cost(module.exports["fill"])
            assert block is not None
            instance.gas = block
            instance.prepare_call("fill", start, 0x55, length)
            end = await instance.run()
            assert isinstance(end, vm.OutOfGas)
            assert (instance.gas, instance.registers["a0"], instance.registers["a2"]) == (0, start, length)
            instance.gas = 1
            again = await instance.run()
            assert instance.registers["a0"] == start + 1
            assert instance.memory.read(start, 2) == b"\x55\0"
            assert again == (vm.Finished() if length == 1 else end)


async def test_a_jump_table_of_long_entries_with_zero_bytes(config: vm.Config) -> None:
    """Its writer sizes entries up to their first zero byte: 0x10000 would take none (specification, section 3)."""
    target = 0x10000
    code = bytearray(bytes([byte("fallthrough")]) * target)
    code += bytes([byte("trap")])
    code[:3] = [byte("jump_indirect"), 0x07, byte("fallthrough")]
    starts = {0, *range(2, target + 1)}
    table = vm.ProgramBlob.build(
        isa=LATEST64, code=bytes(code), bitmask=program(bytes(code), starts).bitmask, jump_table=[target]
    )
    assert table.jump_table_entry_size == 3
    blob = vm.ProgramBlob.parse(table.to_bytes())
    assert blob == table
    async with vm.Engine(config) as engine, await (await engine.compile(blob)).instantiate() as instance:
        instance.registers["a0"] = 2
        instance.next_program_counter = 0
        assert trapped_at(await instance.run()) == target


async def test_an_instruction_of_25_bytes_near_the_end(config: vm.Config) -> None:
    """Its two decoders disagree in the last 32 bytes, with the next start 25 bytes on and pc % 8 == 7 (section 4).

    24 bytes of arguments are the most: the next start is that of the next instruction, no gap lies between.
    """
    pc = 7
    code = bytearray([byte("fallthrough")] * pc + [byte("load_imm"), 7, 42] + [0] * 22 + [byte("load_imm"), 8, 43])
    blob = program(bytes(code), {*range(pc), pc, pc + 25})
    async with vm.Engine(config) as engine, await (await engine.compile(blob)).instantiate() as instance:
        instance.next_program_counter = pc
        assert trapped_at(await instance.run()) == len(code)
        assert (instance.registers["a0"], instance.registers["a1"]) == (42, 43)


async def test_jam_programs_may_hold_invalid_instructions(config: vm.Config) -> None:
    """Its interpreter refuses jam_v1 programs that hold one, its recompiler does not (section 4)."""
    isa = vm.InstructionSet.JAM_V1
    code = bytes([byte("load_imm", isa), 7, 42, byte("fallthrough", isa), 0xFF])
    async with vm.Engine(config) as engine:
        module = await engine.compile(program(code, {0, 3, 4}, isa))
        async with await module.instantiate() as instance:
            instance.next_program_counter = 0
            assert trapped_at(await instance.run()) == 4
            assert instance.registers["a0"] == 42


@pytest.mark.parametrize("first", range(0xF1, 0xF8))
def test_bits_that_a_long_varint_loses(first: int) -> None:
    """It would add them to the value (specification, section 2)."""
    good = build("pub @nothing:\n    ret\n").to_bytes()
    head, rest = good[:13], good[13:]
    # the length of the first section, once in one byte and once in five
    section, length, payload = rest[0], rest[1], rest[2:]
    assert length < 0x80

    def with_length(*encoded: int) -> bytes:
        body = bytes([section, *encoded, *length.to_bytes(4, "little")]) + payload
        return head[:5] + (13 + len(body)).to_bytes(8, "little") + body

    assert vm.ProgramBlob.parse(with_length(0xF0)) == vm.ProgramBlob.parse(good)
    with pytest.raises(vm.ProgramParseError, match="varint"):
        vm.ProgramBlob.parse(with_length(first))


async def test_sbrk_of_old_programs(config: vm.Config) -> None:
    """Opcode 101 of version 0: it calls invalid what its own Quake example holds (section 6)."""
    sbrk = OPCODE_BY_NAME["sbrk"].numbers[LATEST64]
    code = bytes([sbrk, 0x87])  # a0 = sbrk(a1)
    blob = program(code, {0}, vm.InstructionSet.REVIVE_V1, rw_data_size=1)
    for legacy in (False, True):
        async with vm.Engine(config) as engine:
            module = await engine.compile(blob, vm.ModuleConfig(legacy_sbrk=legacy))
            async with await module.instantiate() as instance:
                instance.registers.update({"a0": M64, "a1": 4096})
                instance.next_program_counter = 0
                assert trapped_at(await instance.run()) == (2 if legacy else 0)
                grown = module.memory_map.heap_base + 4096
                assert instance.registers["a0"] == (grown if legacy else M64)
