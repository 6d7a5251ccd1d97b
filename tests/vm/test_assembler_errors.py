# SPDX-License-Identifier: MIT
"""The text assembler: every error, with its line and text."""

from __future__ import annotations

import pytest

from vm._asm_statements import OPERATORS
from vm._errors import AssemblyError
from vm.assembler import assemble
from vm.isa import InstructionSet
from vm.program import MAX_IMPORTS

ISA = InstructionSet.LATEST64

WRONG = [
    ("bogus", "not a statement"),
    ("trap // no trailing comments", "not a statement"),
    ("Trap", "not a statement"),
    ("jump", "not a statement"),
    ("jump a0", "'a0' is not a memory operand"),
    ("jump [5]", "needs a register as its base"),
    ("jump [x]", "'x' is not a 32-bit number"),
    ("jump [a0 + x]", "'x' is not a 32-bit number"),
    ("jump [a0 + a1]", "'a1' is not a 32-bit number"),
    ("jump [x + 4]", "'x' is not a register"),
    ("jump [a0", "is not a memory operand"),
    ("jump @", "label has no name"),
    ("jump @nowhere", "there is no label @nowhere"),
    ("jump @l %width", "invalid condition|expected 'if'"),
    ("jump @l %width 0", "%width must be from 1 to 4 bytes"),
    ("jump @l %width 5", "%width must be from 1 to 4 bytes"),
    ("jump @l %width x", "%width must be from 1 to 4 bytes"),
    ("jump [a0] %width 1", "%width is for jumps to a label"),
    ("a0 = @l %width 1", "%width is for jumps to a label"),
    ("nop %width 1", "%width is for jumps to a label"),
    ("bogus %width 1", "not a statement"),
    (".bytes", "one or more pairs of hexadecimal digits"),
    (".bytes 1", "one or more pairs of hexadecimal digits"),
    (".bytes 0x11", "one or more pairs of hexadecimal digits"),
    (".gap", "one or more pairs of hexadecimal digits"),
    (".bogus 11", "not a statement"),
    (".", "not a statement"),
    ("%import = name", "a symbol is text in double quotes"),
    ('%import = "ü"', "a symbol is text in double quotes"),
    ('%import = "a', "a symbol is text in double quotes"),
    (r'%import = "\q"', "a symbol is text in double quotes"),
    (r'%import = "\x4"', "a symbol is text in double quotes"),
    ('%import = "a"b"', "a symbol is text in double quotes"),
    ('%export = "a"', "a symbol is text in double quotes"),
    ("%export = a 5", "a symbol is text in double quotes"),
    ('%export = "a" x', "@label or a decimal code offset"),
    ('%export = "a" @', "@label or a decimal code offset"),
    ('%export = "a" -1', "@label or a decimal code offset"),
    ('%export = "a" 4294967296', "@label or a decimal code offset"),
    ('%export = "a" @nowhere', "there is no label @nowhere"),
    ("%jump_table = 5 x", "@label or a decimal code offset"),
    ("%jump_table = @nowhere", "there is no label @nowhere"),
    ("jump @nowhere if a0 == a1", "there is no label @nowhere"),
    ("jump @l unless a0 == a1", "expected 'if' after '@l'"),
    ("jump @l if", "invalid condition"),
    ("jump @l if a0==a1", "invalid condition"),
    ("jump @l if a0 = a1", "invalid condition"),
    ("jump @l if a0 < a1", "invalid condition"),
    ("jump @l if a0 == a1 a2", "invalid condition"),
    ("jump @l if 1 == 2", "one of the operands must be a register"),
    ("jump @l if a0 == x", "'x' is not a 32-bit number"),
    ("jump @l if x == a0", "'x' is not a 32-bit number"),
    ("jump @l if x == y", "'x' is not a 32-bit number"),
    ("jump @l if a0 == 0x100000000", "'0x100000000' is not a 32-bit number"),
    ("jump @l if a0 == 4294967296", "is not a 32-bit number"),
    ("jump @l if a0 == -2147483649", "is not a 32-bit number"),
    ("ecalli", "not a statement"),
    ("ecalli -1", "'-1' is not the decimal number"),
    ("ecalli 0x10", "'0x10' is not the decimal number"),
    ("ecalli 4294967296", "is not the decimal number"),
    ("ecalli ٣", "is not the decimal number"),
    ("tmp = x, a0 = 5, jump [tmp]", "'x' is not a register"),
    ("tmp = a0, x = 5, jump [tmp]", "'x' is not a register"),
    ("tmp = a0, a0 = x, jump [tmp]", "'x' is not a 32-bit number"),
    ("tmp = a0, a0 = 5, jump [a0]", "neither a register nor memory"),
    ("a0 = 5, jump [a0 + 4]", r"write 'tmp = a0, a0 = 5, jump \[tmp \+ 4\]'"),
    ("a0 = 0xdeadbeef, jump [a1]", "64-bit immediate"),
    ("a0 = x, jump [a1]", "neither a register nor a number"),
    ("a0 = 5, jump @nowhere", "there is no label @nowhere"),
    ("a0 = 5, jump [5]", "needs a register as its base"),
    ("a0 = @nowhere", "there is no label @nowhere"),
    ("a0 = @", "label has no name"),
    ("a0 = ", "is not a value"),
    ("= a0", "neither a register nor memory"),
    ("a6 = a0", "'a6' is neither a register nor memory"),
    ("r13 = a0", "'r13' is neither a register nor memory"),
    ("i64 a0 = a1", "neither a register nor memory"),
    ("a0 = a6", "'a6' is not a value"),
    ("a0 = -0x5", "'-0x5' is not a value"),
    ("a0 = 0x", "is not a value"),
    ("a0 = 0b2", "is not a value"),
    ("a0 = 1_000", "is not a value"),
    ("a0 = 18446744073709551616", "is out of range"),
    ("a0 = 0x10000000000000000", "is out of range"),
    ("a0 = -2147483649", "is out of range"),
    ("a0 = i64 -2147483649", "is not a 64-bit number in range"),
    ("a0 = i64 a1", "'i64 a1' is not a 64-bit number in range"),
    ("a0 = a1 + i64 5", "is not a value"),
    ("a0 = " + "9" * 100_000, "is not a value"),
    ("a0 = a1 if a2 == 1", "compares with 0 only"),
    ("a0 = a1 if x == 0", "'x' is not a register"),
    ("a0 = x if a2 == 0", "'x' is not a 32-bit number"),
    ("a0 = a1 if a2 <u 0", "is not a value"),
    ("a0 = frob a1", "is not a value"),
    ("a0 = clz x", "'x' is not a register"),
    ("a0 = ~(a1 ^ x)", "'x' is not a register"),
    ("a0 = ~(a1 & a2)", "is not a value"),
    ("a0 = maxs(a1, 5)", "'5' is not a register"),
    ("a0 = maxs(a1)", "is not a value"),
    ("a0 = maxx(a1, a2)", "is not a value"),
    ("a0 = 1 + 2", "one of the operands must be a register"),
    ("a0 = a1 + x", "'x' is neither a register nor a number"),
    ("a0 = x + a1", "'x' is neither a register nor a number"),
    ("a0 = x + y", "'x' is neither a register nor a number"),
    ("a0 = a1 + 0xffffffff", "64-bit immediate"),
    ("a0 = a1 ? a2", "is not a value"),
    ("a0 = a1 +", "is not a value"),
    ("a0 = u8 [a1 - 4]", "is not a memory operand"),
    ("a0 = u8 [0x100000000]", "is not a 32-bit number"),
    ("a0 = u128 [a1]", "is not a value"),
    ("u8 [a0] = 256", "'256' is not a u8: it must be from 0 to 255"),
    ("u8 [4] = -1", "'-1' is not a u8"),
    ("u16 [a0] = 65536", "is not a u16"),
    ("u16 [4] = 0xffffffffffffffff", "is not a u16"),
    ("u32 [a0] = 0xdeadbeef", "64-bit immediate"),
    ("u32 [a0] = x", "neither a register nor a number"),
    ("u32 a0 = 5", "neither a register nor memory"),
    ("i8 [a0] = 5", "neither a register nor memory"),
    ("[a0..a0 + a2] = u8 a0", "neither a register nor memory"),
    ("%isa = riscv", "unknown instruction set; there are revive_v1, latest32, latest64, jam_v1"),
    ("%isa", "a directive looks like"),
    ("%bogus = 1", "unknown directive %bogus"),
    ("%ro_data_size = -1", "ro_data_size must be a decimal number from 0 to 4294967295"),
    ("%rw_data_size = 4294967296", "rw_data_size must be"),
    ("%stack_size = 0x10", "stack_size must be"),
    ("%stack_size = " + "9" * 100_000, "stack_size must be"),
    ("%ro_data = 123", "pairs of hexadecimal digits"),
    ("%rw_data = zz", "pairs of hexadecimal digits"),
    ("@x", "a label looks like"),
    ("@x: y", "a label looks like"),
    ("@x: %fallthrough", "a label looks like"),
    ("pub @x", "a label looks like"),
    ("pub x:", "not a statement"),
    ("@:", "label has no name"),
    ("@l:", "duplicate label, first defined in line 1"),
    ("pub @\ud800:", "encodable as UTF-8"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[text[:40] for text, _ in WRONG])
def test_wrong_line(text: str, message: str) -> None:
    with pytest.raises(AssemblyError, match=message) as caught:
        assemble(f"@l:\ntrap\n   {text}\t\ntrap", ISA)
    error = caught.value
    assert (error.line, error.text) == (3, text.strip())
    assert str(error).startswith(f"line 3: {error.what}")
    assert len(str(error)) < 500


@pytest.mark.parametrize("symbol", [s for s, o in OPERATORS.items() if "{}" not in o.reg_reg])
def test_operators_without_an_i32_form(symbol: str) -> None:
    with pytest.raises(AssemblyError, match="has no i32 form"):
        assemble(f"i32 a0 = a1 {symbol} a2", ISA)


@pytest.mark.parametrize("symbol", [s for s, o in OPERATORS.items() if o.reg_imm is None])
@pytest.mark.parametrize("operands", ["a1 {} 5", "5 {} a1"])
def test_operators_without_immediates(symbol: str, operands: str) -> None:
    with pytest.raises(AssemblyError, match="takes no immediate"):
        assemble("a0 = " + operands.format(symbol), ISA)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("trap\n@end:", 2),
        ("nop\n@end:", 2),
        ("trap\npub @end:\n\n// nothing", 2),
        ("nop\npub @end: %no_fallthrough", 2),
        ("@alone:", None),
        ("%ro_data_size = 1\n%ro_data = 0102\ntrap", 2),
        ("trap\n.gap 00", 2),
        ("@a:\n.gap 00\ntrap", 2),
        ('%export = "a" @end\nnop\n@end: %no_fallthrough', 3),
        ("\n".join(['%import = ""'] * (MAX_IMPORTS + 1) + ["trap"]), None),
    ],
)
def test_wrong_as_a_whole(text: str, line: int | None) -> None:
    with pytest.raises(AssemblyError) as caught:
        assemble(text, ISA)
    assert caught.value.line == line


@pytest.mark.parametrize("text", ["", "\n\n", "// nothing", "%stack_size = 4096"])
def test_no_code(text: str) -> None:
    with pytest.raises(AssemblyError, match="there is no code"):
        assemble(text, ISA)


def test_no_instruction_set() -> None:
    with pytest.raises(AssemblyError, match="no instruction set") as caught:
        assemble("trap")
    assert caught.value.line is None
