# SPDX-License-Identifier: MIT
"""Where instructions begin and end (specification, section 4), and what happens at the edges of code and memory.

Expectations here are written by hand, not taken from the reference interpreter.
"""

from __future__ import annotations

import pytest
from driver import Driver
from reference import A0, A1, A2, PAGE_SIZE, Exit, ExitKind, Program

from vm.isa import OPCODE_BY_NAME, RETURN_TO_HOST, InstructionSet

TRAP, FALLTHROUGH, JUMP, ECALLI, MOVE_REG = 0, 1, 40, 10, 100
MEMSET, LOAD_U64, BRANCH_EQ_IMM, LOAD_IMM_AND_JUMP, JUMP_INDIRECT = 2, 58, 81, 80, 50
ZEROS = [0] * 13
RW = 0x20000


def program(
    code: bytes, starts: list[int], isa: InstructionSet = InstructionSet.LATEST64, table: tuple[int, ...] = ()
) -> Program:
    bitmask = bytearray((len(code) + 7) // 8)
    for pc in starts:
        bitmask[pc >> 3] |= 1 << (pc & 7)
    return Program(isa, code, bytes(bitmask), table)


def test_opcode_numbers() -> None:
    """The numbers used in this file are those of latest64."""
    numbers = {
        "trap": TRAP,
        "fallthrough": FALLTHROUGH,
        "memset": MEMSET,
        "ecalli": ECALLI,
        "move_reg": MOVE_REG,
        "jump": JUMP,
        "jump_indirect": JUMP_INDIRECT,
        "load_u64": LOAD_U64,
        "load_imm_and_jump": LOAD_IMM_AND_JUMP,
        "branch_eq_imm": BRANCH_EQ_IMM,
    }
    assert {name: OPCODE_BY_NAME[name].numbers[InstructionSet.LATEST64] for name in numbers} == numbers


@pytest.mark.parametrize(
    ("code", "starts", "expected"),
    [
        (bytes([TRAP]), [0], [0]),  # nothing behind a trap
        (bytes([FALLTHROUGH]), [0], [0, 1]),  # but behind what falls off the end
        (bytes([FALLTHROUGH] * 3), [2], [0, 2, 3]),  # no bit at 0
        (bytes([FALLTHROUGH] * 3), [], [0]),
        (bytes([FALLTHROUGH] * 40), [0, 25], [0, 25, 40]),  # 24 argument bytes: not over-long; the last one has 14
        (bytes([FALLTHROUGH] * 40), [0, 26], [0, 25, 26, 40]),  # over-long
        (bytes([FALLTHROUGH] * 60), [0, 58], [0, 25, 58, 60]),
        (bytes([JUMP] * 60), [0, 58], [0, 58]),  # over-long, but nothing falls out of it
        (bytes([FALLTHROUGH] * 25), [0], [0, 25]),
        (bytes([FALLTHROUGH] * 26), [0], [0, 25]),  # the end is not the code's
        (bytes([0xFF] * 4), [0, 2], [0, 2]),  # invalid ones do not fall through
    ],
)
def test_instruction_starts(driver: Driver, code: bytes, starts: list[int], expected: list[int]) -> None:
    assert driver.compile(program(code, starts)).status == 0
    assert [pc for pc, _ in driver.instructions()] == expected


def test_padding_of_the_bitmask_counts_for_nothing(driver: Driver) -> None:
    hostile = Program(InstructionSet.LATEST64, bytes([FALLTHROUGH]), b"\xff")
    assert driver.compile(hostile).status == 0
    assert [pc for pc, _ in driver.instructions()] == [0, 1]
    assert driver.run(ZEROS, 0)[0].pc == 1


@pytest.mark.parametrize("gap", [24, 25, 26, 27])
def test_jump_behind_a_long_instruction(driver: Driver, gap: int) -> None:
    """A target is valid if its previous instruction starts at most 25 bytes before it and ends a block."""
    code = bytearray([FALLTHROUGH] * (gap + 3))
    code[gap : gap + 3] = bytes([ECALLI, 7, TRAP])
    jump = len(code)
    code += bytes([JUMP, 0x100 - (jump - gap)])
    assert driver.compile(program(bytes(code), [0, gap, gap + 2, jump])).status == 0
    end, _ = driver.run(ZEROS, jump)
    if gap <= 25:
        assert (end.kind, end.pc, end.number) == (ExitKind.ECALLI, gap, 7)
    else:
        assert (end.kind, end.pc) == (ExitKind.TRAP, jump)
        assert driver.run(ZEROS, 0)[0].pc == 25  # falls into the implicit trap


def test_jump_behind_an_unknown_opcode_is_invalid(driver: Driver) -> None:
    for before, valid in ((TRAP, True), (0xFF, False), (ECALLI, False)):
        assert driver.compile(program(bytes([JUMP, 3, before, TRAP]), [0, 2, 3])).status == 0
        assert driver.run(ZEROS, 0)[0].pc == (3 if valid else 0)


@pytest.mark.parametrize("opcode", [JUMP, BRANCH_EQ_IMM])
def test_jumps_back_over_every_distance(driver: Driver, opcode: int) -> None:
    """Short and long native jumps: the filler, never run, is 2 or 3 bytes of native code per instruction."""
    distances = set()
    for traps in range(50, 70):
        for moves in range(2):
            filler = bytes([TRAP] * traps) + bytes([MOVE_REG, A0]) * moves + bytes([FALLTHROUGH])
            code = bytes([TRAP, ECALLI, 7]) + filler
            offset = 1 - len(code) & 0xFF
            jump = bytes([JUMP, offset]) if opcode == JUMP else bytes([BRANCH_EQ_IMM, A0, offset])
            starts = [n for n in range(len(code)) if n != 2 and code[n - 1] != MOVE_REG]
            assert (
                driver.compile(program(code + jump + bytes([TRAP]), [*starts, len(code), len(code + jump)])).status == 0
            )
            end, _ = driver.run(ZEROS, len(code))
            assert end == Exit(ExitKind.ECALLI, 1, 7)
            offsets = dict(driver.instructions())
            distances.add(offsets[len(code)] - offsets[1])
    assert {125, 126, 127, 128, 129, 130} <= distances


def test_branch_without_a_place_behind_it_traps_even_if_not_taken(driver: Driver) -> None:
    code = bytes([TRAP, BRANCH_EQ_IMM, 0x10 | A0, 5, 0xFF])  # if a0 == 5: jump 0
    assert driver.compile(program(code, [0, 1])).status == 0
    for value in 5, 6:
        registers = [value if n == A0 else 0 for n in range(13)]
        assert driver.run(registers, 1) == (Exit(ExitKind.TRAP, 1), registers)
    assert driver.compile(program(code + bytes([TRAP]), [0, 1, 5])).status == 0
    assert [driver.run([value] * 13, 1)[0].pc for value in (5, 6)] == [0, 5]


def test_load_imm_and_jump_writes_before_it_traps(driver: Driver) -> None:
    code = bytes([LOAD_IMM_AND_JUMP, 0x10 | A1, 9, 1])
    assert driver.compile(program(code, [0])).status == 0
    end, registers = driver.run(ZEROS, 0)
    assert (end.pc, registers[A1]) == (0, 9)


def test_dynamic_jumps(driver: Driver) -> None:
    """Entry 0 of the table is good, entry 1 leads into an instruction."""
    code = bytes([TRAP, ECALLI, 3, FALLTHROUGH, JUMP_INDIRECT, A0])
    assert driver.compile(program(code, [0, 1, 3, 4], table=(1, 2))).status == 0
    ends = {address: driver.run([address if n == A0 else 0 for n in range(13)], 4)[0] for address in range(0x2000)}
    assert ends.pop(2) == Exit(ExitKind.ECALLI, 1, 3)
    assert {(end.kind, end.pc) for end in ends.values()} == {(ExitKind.TRAP, 4)}
    for address in (0x10000, 0x7FFFFFFE, 0x80000000, RETURN_TO_HOST - 2, RETURN_TO_HOST + 2, 0xFFFFFFFE, 0xFFFFFFFF):
        end, _ = driver.run([address] * 13, 4)
        assert (end.kind, end.pc) == (ExitKind.TRAP, 4)
    for address in (RETURN_TO_HOST, RETURN_TO_HOST | 5 << 32):  # modulo 2^32
        assert driver.run([address] * 13, 4)[0] == Exit(ExitKind.HALT)


@pytest.mark.parametrize("isa", [InstructionSet.LATEST32, InstructionSet.LATEST64], ids=lambda isa: isa.label)
@pytest.mark.parametrize(
    ("start", "count", "stored"),
    [
        (RW, 0, 0),
        (RW, 1, 1),
        (RW, 2 * PAGE_SIZE, 2 * PAGE_SIZE),  # exactly all there is
        (RW, 2 * PAGE_SIZE + 1, 2 * PAGE_SIZE),
        (RW + 5, 0xFFFFFFFF, 2 * PAGE_SIZE - 5),
        (RW - 1, 100, 0),  # the first byte fails
        (RW + PAGE_SIZE, 0x80000000, PAGE_SIZE),
        (0, 0, 0),  # nothing is touched
    ],
)
def test_memset(driver: Driver, isa: InstructionSet, start: int, count: int, stored: int) -> None:
    assert driver.compile(program(bytes([MEMSET, ECALLI]), [0, 1], isa)).status == 0
    driver.map(RW, 2 * PAGE_SIZE)
    high = 0 if isa is InstructionSet.LATEST32 else 0xABCD << 32  # no part of the address, nor of the count
    registers = [n * 0x1111 for n in range(13)]
    registers[A0], registers[A1], registers[A2] = high | start, 0x1234_56EE & 0xFFFF_FFFF, high | count
    end, after = driver.run(registers, 0)
    complete = stored == count
    assert (end.kind, end.pc) == ((ExitKind.ECALLI, 1) if complete else (ExitKind.TRAP, 0))
    if not complete:
        assert end.fault == start + stored
    registers[A0], registers[A2] = high + start + stored, count - stored
    assert after == registers
    memory = driver.read(RW, 2 * PAGE_SIZE)
    offset = max(start - RW, 0)
    assert memory == bytes(offset) + b"\xee" * stored + bytes(2 * PAGE_SIZE - offset - stored)


def test_memset_carries_into_the_upper_half(driver: Driver) -> None:
    """a0 counts in 64 bits although the address wraps in 32."""
    assert driver.compile(program(bytes([MEMSET, ECALLI]), [0, 1])).status == 0
    driver.map(0xFFFFF000, PAGE_SIZE)
    registers = [0xFFFFF000 if n == A0 else PAGE_SIZE if n == A2 else 0 for n in range(13)]
    end, after = driver.run(registers, 0)
    assert (end.kind, after[A0], after[A2]) == (ExitKind.ECALLI, 1 << 32, 0)
    registers[A2] += 1
    end, after = driver.run(registers, 0)  # address 0 is not mapped
    assert (end.kind, end.fault, after[A0], after[A2]) == (ExitKind.TRAP, 0, 1 << 32, 1)


def test_access_across_the_end_of_the_address_space_fails(driver: Driver) -> None:
    driver.map(0xFFFFF000, PAGE_SIZE)
    code = bytes([LOAD_U64, A0, 0xF9, ECALLI])  # 0xfffffff9
    assert driver.compile(program(code, [0, 3])).status == 0
    registers = list(range(13))
    end, after = driver.run(registers, 0)
    assert (end.kind, end.pc, after) == (ExitKind.TRAP, 0, registers)
    code = bytes([LOAD_U64, A0, 0xF8, ECALLI])
    assert driver.compile(program(code, [0, 3])).status == 0
    assert driver.run(registers, 0)[0].kind is ExitKind.ECALLI
