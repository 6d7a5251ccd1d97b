# SPDX-License-Identifier: MIT
"""The optimizations, one at a time, on a few blocks of IR."""

from __future__ import annotations

import random

import pytest

from vm.isa import InstructionSet
from vm.toolchain._dead_code import remove_dead_code
from vm.toolchain._evaluate import Evaluator, branch_conditions
from vm.toolchain._fold import CodeAddress, Folder, Values
from vm.toolchain._inline import inline_tiny_functions
from vm.toolchain._ir import (
    CALL,
    CALL_INDIRECT,
    CODE_ADDRESS,
    ECALLI,
    INVERTED,
    JUMP,
    JUMP_INDIRECT,
    LOAD_IMM,
    LOAD_IMM64,
    MOVE,
    NOWHERE,
    SCRATCH,
    TRAP,
    UNLIKELY,
    Block,
    End,
    Instruction,
    Positions,
    op,
)
from vm.toolchain._jumps import JumpSimplifier, remove_unreachable
from vm.toolchain._liveness import KNOWN_SHIFT, Liveness
from vm.toolchain._optimize import optimize_blocks
from vm.toolchain._spills import assign_scratch_registers
from vm.toolchain._unlikely import mark_unlikely

RA, SP, T0, T1, T2, S0, S1, A0, A1, A2, A3, A4, A5 = range(13)
RET: End = (JUMP_INDIRECT, RA, 0, NOWHERE, NOWHERE, 0)
STOP: End = (TRAP, 0, 0, NOWHERE, NOWHERE, 0)


def make(name: str | int, x: int = 0, y: int = 0, z: int = 0, position: int = 0) -> Instruction:
    return (op(name) if isinstance(name, str) else name, x, y, z, position)


def to(target: int) -> End:
    return (JUMP, 0, 0, target, NOWHERE, 0)


def when(name: str, x: int, y: int, target: int, following: int) -> End:
    return (op(name), x, y, target, following, 0)


def program(*parts: tuple[list[Instruction], End]) -> list[Block | None]:
    """Blocks of these bodies and ends; the first one is exported."""
    blocks: list[Block | None] = []
    for number, (body, end) in enumerate(parts):
        block = Block(number, 2 * number)
        block.body, block.end = body, end
        block.exported = number == 0
        blocks.append(block)
    return blocks


def block_of(blocks: list[Block | None], number: int = 0) -> Block:
    block = blocks[number]
    assert block is not None
    return block


def fold(
    *body: Instruction, end: End = RET, known: dict[int, int | CodeAddress] | None = None, width: int = 64
) -> tuple[list[Instruction], End]:
    block = Block(0, 0)
    block.body, block.end = list(body), end
    values: Values = [None] * 13
    for register, value in (known or {}).items():
        values[register] = value
    Folder(width).fold(block, values)
    return block.body, block.end


# --- Folding ----------------------------------------------------------------------------------------------------------

K = {A5: 10}


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        (make("add_64", A0, A1, A5), make("add_imm_64", A0, A1, 10)),
        (make("add_64", A0, A5, A1), make("add_imm_64", A0, A1, 10)),
        (make("sub_64", A0, A1, A5), make("add_imm_64", A0, A1, -10)),
        (make("sub_64", A0, A5, A1), make("negate_and_add_imm_64", A0, A1, 10)),
        (make("mul_64", A0, A1, A5), make("mul_imm_64", A0, A1, 10)),
        (make("shift_logical_left_64", A0, A5, A1), make("shift_logical_left_imm_alt_64", A0, A1, 10)),
        (make("rotate_left_32", A0, A1, A5), make("rotate_right_imm_32", A0, A1, 22)),
        (make("set_less_than_signed", A0, A1, A5), make("set_less_than_signed_imm", A0, A1, 10)),
        (make("set_less_than_unsigned", A0, A5, A1), make("set_greater_than_unsigned_imm", A0, A1, 10)),
        (make("cmov_if_zero", A0, A5, A1), make("cmov_if_zero_imm", A0, A1, 10)),
        (make("xor", A0, A5, A5), make(LOAD_IMM, A0, 0)),
        (make("add_imm_64", A0, A5, 5), make(LOAD_IMM, A0, 15)),
        (make("shift_logical_left_imm_64", A0, A5, 40), make(LOAD_IMM64, A0, 10 << 40)),
        (make("load_indirect_u8", A0, A5, 6), make("load_u8", A0, 16)),
        (make("store_indirect_u32", A1, A5, 6), make("store_u32", A1, 16)),
        (make("store_indirect_u32", A5, A1, 6), make("store_imm_indirect_u32", A1, 6, 10)),
        (make("store_indirect_u64", A5, A5, 6), make("store_imm_u64", 16, 10)),
        (make("store_u16", A5, 64), make("store_imm_u16", 64, 10)),
        (make("store_imm_indirect_u8", A5, 6, 1), make("store_imm_u8", 16, 1)),
        (make("div_unsigned_64", A0, A1, A5), make("div_unsigned_64", A0, A1, A5)),
    ],
)
def test_constants_become_immediates(instruction: Instruction, expected: Instruction) -> None:
    assert fold(instruction, known=K)[0] == [expected]


def test_stores_of_bytes_are_short() -> None:
    assert fold(make("store_indirect_u8", A0, A1, 0), known={A0: 0xFF})[0] == [make("store_imm_indirect_u8", A1, 0, -1)]
    wide = make("store_indirect_u64", A0, A1, 0)
    assert fold(wide, known={A0: 1 << 40})[0] == [wide]


def test_multiplications_by_powers_of_two() -> None:
    assert fold(make("mul_imm_64", A0, A1, 8))[0] == [make("shift_logical_left_imm_64", A0, A1, 3)]
    assert fold(make("mul_64", A0, A1, A2), known={A2: 0})[0] == [make(LOAD_IMM, A0, 0)]
    assert fold(make("mul_imm_64", A0, A1, -8))[0] == [make("mul_imm_64", A0, A1, -8)]


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (48, make("shift_logical_right_imm_64", A0, A0, 48), make("zero_extend_16", A0, A1)),
        (56, make("shift_logical_right_imm_64", A0, A0, 56), make("and_imm", A0, A1, 255)),
        (48, make("shift_arithmetic_right_imm_64", A0, A0, 48), make("sign_extend_16", A0, A1)),
        (56, make("shift_arithmetic_right_imm_64", A0, A0, 56), make("sign_extend_8", A0, A1)),
        (32, make("shift_arithmetic_right_imm_64", A0, A0, 32), make("add_imm_32", A0, A1, 0)),
        (32, make("shift_logical_right_imm_64", A0, A0, 32), None),
        (32, make("shift_logical_right_imm_64", A0, A0, 31), None),
    ],
)
def test_pairs_of_shifts(left: int, right: Instruction, expected: Instruction | None) -> None:
    first = make("shift_logical_left_imm_64", A0, A1, left)
    assert fold(first, right)[0] == [first, right if expected is None else expected]
    changed = make("add_imm_64", A1, A1, 1)
    assert fold(first, changed, right)[0] == [first, changed, right]


def test_sums_go_into_addresses() -> None:
    body, _ = fold(make("add_imm_64", A1, A0, 100), make("load_indirect_u8", A2, A1, 5))
    assert body[1] == make("load_indirect_u8", A2, A0, 105)
    body, _ = fold(make("add_imm_64", A1, A0, 100), make("add_imm_64", A0, A0, 1), make("load_indirect_u8", A2, A1, 5))
    assert body[2] == make("load_indirect_u8", A2, A1, 5)
    far = fold(make("add_imm_64", A1, A0, 2**31 - 1), make("load_indirect_u8", A2, A1, 5))
    assert far[0][1] == make("load_indirect_u8", A2, A1, 5)


def test_a_sum_can_be_said_by_a_copy_of_its_base() -> None:
    body, _ = fold(make(MOVE, A1, A0), make("add_imm_64", A0, A0, 100), make("load_indirect_u8", A2, A0, 0))
    assert body[2] == make("load_indirect_u8", A2, A1, 100)


def test_copies_are_read_where_they_come_from() -> None:
    body, end = fold(make(MOVE, A1, A0), make("add_64", A2, A1, A1), end=when("branch_eq", A1, A2, 1, 2))
    assert body[1] == make("add_64", A2, A0, A0)
    assert end == when("branch_eq", A0, A2, 1, 2)
    back = fold(make(MOVE, A1, A0), make(MOVE, A0, A1))
    assert back[0] == [make(MOVE, A1, A0)]


def test_needless_sign_extensions() -> None:
    load = make("load_indirect_i32", A0, A1, 0)
    assert fold(load, make("add_imm_32", A0, A0, 0))[0] == [load]
    wide = make("load_indirect_u32", A0, A1, 0)
    assert len(fold(wide, make("add_imm_32", A0, A0, 0))[0]) == 2


def test_constants_that_are_there_already() -> None:
    assert fold(make(LOAD_IMM, A0, 5), make(LOAD_IMM, A0, 5), known={A1: 1})[0] == [make(LOAD_IMM, A0, 5)]


def test_host_calls_change_registers() -> None:
    host_call = make(ECALLI, 0, 2)
    body, _ = fold(host_call, make("add_64", A2, A0, S0), known={A0: 1, S0: 2})
    assert body == [host_call, make("add_imm_64", A2, A0, 2)]


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (when("branch_less_signed", A0, A5, 1, 2), when("branch_less_signed_imm", A0, 10, 1, 2)),
        (when("branch_less_signed", A5, A0, 1, 2), when("branch_greater_signed_imm", A0, 10, 1, 2)),
        (when("branch_eq_imm", A5, 10, 1, 2), to(1)),
        (when("branch_less_unsigned", A5, A4, 1, 2), to(1)),
        (when("branch_less_signed", A5, A4, 1, 2), to(2)),
        ((JUMP_INDIRECT, A3, 0, NOWHERE, NOWHERE, 0), to(7)),
        ((CALL_INDIRECT, RA, A3, NOWHERE, 2, 0), (CALL, RA, 0, 7, 2, 0)),
    ],
)
def test_ends(end: End, expected: End) -> None:
    assert fold(end=end, known={A5: 10, A4: -1, A3: CodeAddress(7)})[1] == expected


def test_conditional_moves_that_are_decided() -> None:
    for name, moves in (("cmov_if_zero", False), ("cmov_if_not_zero", True)):
        assert fold(make(name, A0, A1, A5), known=K)[0] == ([make(MOVE, A0, A1)] if moves else [])
        assert fold(make(f"{name}_imm", A0, A5, 3), known=K)[0] == ([make(LOAD_IMM, A0, 3)] if moves else [])


def test_constants_through_the_program() -> None:
    blocks = program(
        ([make(LOAD_IMM, S0, 1), make(LOAD_IMM, S1, 2)], when("branch_eq_imm", A0, 0, 1, 2)),
        ([make(LOAD_IMM, S1, 3)], to(3)),
        ([], to(3)),
        ([], when("branch_not_eq_imm", A1, 0, 1, 4)),
        ([], (CALL, RA, 0, 5, 6, 0)),
        ([], RET),
        ([], RET),
    )
    states = Folder(64).constants_at_starts(blocks)
    found = [None if state is None else {r: v for r, v in enumerate(state) if v is not None} for state in states]
    assert found == [{}, {S0: 1}, {S0: 1, S1: 2}, {S0: 1}, {S0: 1}, {RA: CodeAddress(6), S0: 1}, {}]


# --- Evaluation -------------------------------------------------------------------------------------------------------


def test_immediate_forms_evaluate_as_the_register_forms() -> None:
    rng = random.Random(1)
    for width in (32, 64):
        evaluator = Evaluator(width)
        low, high = -(1 << width - 1), (1 << width - 1) - 1
        for function in (*evaluator.binary.values(), *evaluator.with_imm.values()):
            for _ in range(50):
                a, b = (rng.choice((low, -1, 0, 1, high, rng.randint(low, high))) for _ in range(2))
                assert low <= function(a, b) <= high


def test_inverted_conditions() -> None:
    rng = random.Random(2)
    conditions = branch_conditions(64)
    assert set(conditions) == set(INVERTED)
    for number, condition in conditions.items():
        for _ in range(50):
            a, b = (rng.choice((-(2**63), -1, 0, 1, 2**63 - 1)) for _ in range(2))
            assert bool(condition(a, b)) != bool(conditions[INVERTED[number]](a, b))


# --- Dead code --------------------------------------------------------------------------------------------------------


def test_dead_code() -> None:
    kept = [make("load_indirect_u8", A2, A0, 0), make("add_imm_64", A0, A0, 1)]
    blocks = program(([make(MOVE, A0, A1), make("add_imm_64", A0, S0, 5), *kept], RET))
    remove_dead_code(blocks)
    assert block_of(blocks).body == [make("add_imm_64", A0, S0, 5), *kept]


@pytest.mark.parametrize(
    ("access", "end", "expected"),
    [
        (make("load_indirect_u8", A0, A0, 4), RET, make("load_indirect_u8", A0, A0, 104)),
        (make("load_indirect_u8", A1, A0, 4), STOP, make("load_indirect_u8", A1, A0, 104)),
        (make("store_indirect_u8", A1, A0, 4), STOP, make("store_indirect_u8", A1, A0, 104)),
        (make("load_indirect_u8", A1, A0, 4), RET, None),
        (make("store_indirect_u8", A0, A0, 4), STOP, None),
        (make("load_indirect_u8", A0, A0, 2**31 - 1), STOP, None),
    ],
)
def test_sums_go_into_the_next_access(access: Instruction, end: End, expected: Instruction | None) -> None:
    addition = make("add_imm_64", A0, A0, 100)
    blocks = program(([addition, access], end))
    remove_dead_code(blocks)
    assert block_of(blocks).body == ([addition, access] if expected is None else [expected])


def test_computed_values_survive_returns_and_constants_do_not() -> None:
    blocks = program(([make(MOVE, A5, A1), make(LOAD_IMM, A4, 7), make(LOAD_IMM, A0, 1)], RET))
    remove_dead_code(blocks)
    assert block_of(blocks).body == [make(MOVE, A5, A1), make(LOAD_IMM, A0, 1)]


def test_constants_that_a_caller_reads_survive() -> None:
    blocks = program(
        ([], (CALL, RA, 0, 1, 2, 0)),
        ([make(LOAD_IMM, A4, 7)], RET),
        ([make(MOVE, A0, A4)], RET),
    )
    remove_dead_code(blocks)
    assert block_of(blocks, 1).body == [make(LOAD_IMM, A4, 7)]


def test_constants_that_function_pointers_read_survive() -> None:
    blocks = program(
        ([make(LOAD_IMM, A4, 7), make(LOAD_IMM, A5, 7)], (JUMP_INDIRECT, T1, 0, NOWHERE, NOWHERE, 0)),
        ([make(MOVE, A0, A4)], RET),
    )
    block_of(blocks, 1).taken = True
    remove_dead_code(blocks)
    assert block_of(blocks).body == [make(LOAD_IMM, A4, 7)]


def test_host_calls_read_their_arguments() -> None:
    arguments = [make(LOAD_IMM, register, 1) for register in (A0, A1, A2)]
    blocks = program(([*arguments, make(ECALLI, 0, 2)], STOP))
    remove_dead_code(blocks)
    assert block_of(blocks).body == [*arguments[:2], make(ECALLI, 0, 2)]


def test_a_call_whose_return_address_nobody_reads_is_a_jump() -> None:
    blocks = program(([], (CALL, RA, 0, 1, 2, 0)), ([], STOP), ([], RET))
    remove_dead_code(blocks)
    assert block_of(blocks).end == to(1)


def test_liveness_around_a_loop() -> None:
    blocks = program(
        ([make(LOAD_IMM, A1, 0)], to(1)),
        ([make("add_64", A1, A1, A0)], when("branch_not_eq_imm", A1, 100, 1, 2)),
        ([], STOP),
    )
    starts = Liveness(blocks).starts
    assert [start & 0xFFFF for start in starts[:3]] == [1 << A0, 1 << A0 | 1 << A1, 0]
    assert [start >> KNOWN_SHIFT for start in starts[:3]] == [1 << A0, 1 << A0 | 1 << A1, 0]


# --- Jumps ------------------------------------------------------------------------------------------------------------


def test_jumps_are_threaded_and_blocks_joined() -> None:
    blocks = program(
        ([make(MOVE, A0, A1)], to(1)),
        ([], to(2)),
        ([make(MOVE, A1, A2)], to(3)),
        ([make(MOVE, A2, A3), make(MOVE, A3, A4), make(MOVE, A4, A5)], RET),
    )
    JumpSimplifier(blocks).run()
    assert [block is None for block in blocks] == [False, True, True, True]
    assert len(block_of(blocks).body) == 5
    assert block_of(blocks).end == RET


def test_endless_loops_of_empty_blocks() -> None:
    blocks = program(([], to(1)), ([], to(2)), ([], to(1)))
    JumpSimplifier(blocks).run()
    assert block_of(blocks).end[0] == JUMP


def test_branches_both_of_whose_ways_are_one() -> None:
    blocks = program(
        ([], when("branch_eq_imm", A0, 0, 1, 2)), ([], to(3)), ([], to(3)), ([make(MOVE, A0, A1)] * 3, RET)
    )
    JumpSimplifier(blocks).run()
    assert block_of(blocks).end == RET


def test_short_ends_are_copied() -> None:
    blocks = program(
        ([], when("branch_eq_imm", A0, 0, 1, 2)),
        ([make(MOVE, A0, A1)], to(3)),
        ([make(MOVE, A0, A2)] * 2, to(3)),
        ([], RET),
    )
    JumpSimplifier(blocks).run()
    assert block_of(blocks, 1).end == block_of(blocks, 2).end == RET


@pytest.mark.parametrize(
    ("end", "move", "expected"),
    [
        (when("branch_eq_imm", A0, 0, 2, 1), make(MOVE, A1, A2), make("cmov_if_not_zero", A1, A2, A0)),
        (when("branch_not_eq_imm", A0, 0, 2, 1), make(LOAD_IMM, A1, 5), make("cmov_if_zero_imm", A1, A0, 5)),
        (when("branch_eq_imm", A0, 0, 1, 2), make(MOVE, A1, A2), make("cmov_if_zero", A1, A2, A0)),
        (when("branch_eq_imm", A0, 1, 2, 1), make(MOVE, A1, A2), None),
        (when("branch_eq_imm", A0, 0, 2, 1), make("load_indirect_u8", A1, A2, 0), None),
    ],
)
def test_conditional_moves(end: End, move: Instruction, expected: Instruction | None) -> None:
    rest = [make("add_imm_64", A3, A3, 1)] * 4
    blocks = program(([], end), ([move], to(2)), (rest, RET))
    JumpSimplifier(blocks).run()
    if expected is None:
        assert block_of(blocks).end == end
    else:
        assert block_of(blocks).body == [expected, *rest]


def test_unreachable_blocks() -> None:
    blocks = program(([make(CODE_ADDRESS, A0, 2)], RET), ([], RET), ([], RET), ([], RET))
    block_of(blocks, 3).taken = True
    remove_unreachable(blocks)
    assert [block is None for block in blocks] == [False, True, False, False]


# --- Inlining, hints, scratch registers -------------------------------------------------------------------------------


def test_inlining() -> None:
    positions = Positions()
    blocks = program(
        ([make(MOVE, A0, A1)], (CALL, RA, 0, 1, 2, 50)), ([make(ECALLI, 4, 1, position=60)], RET), ([], STOP)
    )
    inline_tiny_functions(blocks, positions)
    copied = block_of(blocks).body[2]
    assert block_of(blocks).body[:2] == [make(MOVE, A0, A1), make(CODE_ADDRESS, RA, 2, position=50)]
    assert copied[:4] == (ECALLI, 4, 1, 0)
    assert positions.addresses(copied[4]) == (50, 60)
    assert block_of(blocks).end == (JUMP, 0, 0, 2, NOWHERE, 50)


@pytest.mark.parametrize(
    ("body", "end"),
    [
        ([make(MOVE, A0, A1)] * 6, RET),
        ([make(MOVE, A0, RA)], RET),
        ([make(MOVE, RA, A0)], RET),
        ([make(MOVE, A0, A1)], (JUMP_INDIRECT, T0, 0, NOWHERE, NOWHERE, 0)),
        ([make(MOVE, A0, A1)], to(2)),
    ],
)
def test_what_is_not_inlined(body: list[Instruction], end: End) -> None:
    call: End = (CALL, RA, 0, 1, 2, 0)
    blocks = program(([], call), (body, end), ([], STOP))
    inline_tiny_functions(blocks, Positions())
    assert block_of(blocks).end == call


def test_hints() -> None:
    cold = [make(MOVE, A0, A1)]
    blocks = program(
        ([], when("branch_eq_imm", A0, 0, 1, 2)),
        (list(cold), (CALL, RA, 0, 3, 4, 0)),
        ([], when("branch_eq_imm", A0, 1, 4, 3)),
        ([], RET),
        ([], STOP),
    )
    mark_unlikely(blocks)
    assert block_of(blocks, 1).body == [make(UNLIKELY, position=2), *cold]
    assert block_of(blocks, 4).body == []


def test_hints_are_for_those_who_know_them() -> None:
    parts = ([], when("branch_eq_imm", A0, 0, 1, 2)), ([make("sbrk", A0, A0)], STOP), ([], RET)
    for isa, expected in ((InstructionSet.LATEST64, 1), (InstructionSet.REVIVE_V1, 0)):
        blocks = program(*((list(body), end) for body, end in parts))
        optimize_blocks(blocks, isa, Positions())
        assert sum(i[0] == UNLIKELY for block in blocks if block for i in block.body) == expected


def test_scratch_registers_take_dead_ones() -> None:
    first, second = SCRATCH
    group = [make("add_64", first, A0, A1), make("add_64", second, first, A1), make(MOVE, A0, second)]
    blocks = program((group, STOP))
    assign_scratch_registers(blocks, 0x30000, is64=True)
    body = block_of(blocks).body
    assert len(body) == 3
    used = {register for instruction in body for register in instruction[1:4]}
    assert not used & set(SCRATCH)
    assert SP not in used


def test_scratch_registers_save_live_ones() -> None:
    first, second = SCRATCH
    group = [make("add_64", first, A0, A1), make("add_64", second, first, A1), make(MOVE, A0, second)]
    blocks = program((group, RET))
    assign_scratch_registers(blocks, 0x30000, is64=True)
    body = block_of(blocks).body
    names = [instruction[0] for instruction in body]
    assert names == [op("store_u64")] * 2 + [op("add_64")] * 2 + [MOVE] + [op("load_u64")] * 2
    saved = {(instruction[1], instruction[2]) for instruction in body[:2]}
    assert saved == {(instruction[1], instruction[2]) for instruction in body[-2:]}
    assert {address for _, address in saved} == {0x30000, 0x30008}
