# SPDX-License-Identifier: MIT
"""All that keeps a guest of the generic sandbox in is its native code: every instruction of it is looked at here.

Another program's disassembler (objdump) reads the code of random programs, and of real ones.
"""

from __future__ import annotations

import itertools
import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from guests import build
from programs import opcodes_of, single_steps, soup, structured

import vm

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])

#: The page with vmctx: the only offsets from the GS base outside of guest memory (native/sandbox/generic.h).
VMCTX = range(2**64 - 0x10000, 2**64 - 0x10000 + 0x1000)

#: Nothing that the recompiler emits is outside of this, whatever the program.
MNEMONICS = {
    *("add", "sub", "and", "or", "xor", "neg", "not", "cmp", "test", "imul", "mul", "div", "idiv", "lea", "bswap"),
    *("mov", "movabs", "movs", "movz", "movslq", "cmov", "set", "cltd", "cqto", "andn", "popcnt", "lzcnt", "tzcnt"),
    *("shl", "shr", "sar", "rol", "ror", "shlx", "shrx", "sarx", "rorx", "rep stos", "jmp", "j", "ud2"),
}
#: No instruction is longer (Intel SDM volume 2, 2.3.11), and each byte of this is one of its own.
ROOM = b"\x90" * 15
_MEMORY = re.compile(r"%gs:(?P<disp>-?0x[0-9a-f]+)?(?:\((?P<registers>[^)]*)\))?$")
_REGISTER_32 = re.compile(r"%(?:e[a-z]{2}|r\d+d)$")
_CONDITIONS = "(?:a|ae|b|be|e|ne|g|ge|l|le)"


def mnemonic(text: str) -> str:
    """Its name without operand sizes and conditions."""
    for name in ("cmov", "set", "j"):
        if re.fullmatch(name + _CONDITIONS, text):
            return name
    if re.fullmatch(r"mov[sz][bw][wlq]", text):
        return text[:4]
    if text not in MNEMONICS and text[-1] in "bwlq" and text[:-1] in MNEMONICS:
        return text[:-1]
    return text


def operands(text: str) -> list[str]:
    return [part for part in re.split(r",(?![^(]*\))", text) if part]


def complain(name: str, arguments: list[str], before: list[str]) -> str:
    """What is wrong with an instruction; `before` are the three in front of it."""
    if mnemonic(name) not in MNEMONICS:
        return "unknown instruction"
    if any(re.search(r"%(r|e)?spl?\b", argument) for argument in arguments):
        return "touches the stack pointer"
    if name == "rep stos":
        # at the GS base plus an offset of 32 bits
        added = re.fullmatch(r"add %gs:0x([0-9a-f]+),%rdi", before[2])
        right = before[1] == "mov %edi,%edi" and added is not None and int(added[1], 16) in VMCTX
        return "" if right and arguments == ["%al", "%es:(%rdi)"] else "rep stos at another address"
    if name == "jmp" and arguments[0].startswith("*"):
        if arguments == ["*(%r15,%rcx,8)"]:  # the jump table: rcx was written with 32 bits
            table = re.fullmatch(r"lea 0x[0-9a-f]+\(%rip\),%r15", before[2])
            # what may come between them is the return address
            between = re.fullmatch(r"(mov|movabs) \$0x[0-9a-f]+,%r?[a-z0-9]+|xor .*", before[1])
            index = re.fullmatch(r"(mov|lea) .*,%ecx", before[0 if between else 1])
            return "" if table and index else "jumps through another table"
        arguments = [arguments[0].removeprefix("*")]
    if name == "lea":
        return ""
    for argument in arguments:
        if "(" not in argument and ":" not in argument:
            continue
        found = _MEMORY.fullmatch(argument)
        if found is None:
            return "reaches memory without the GS base"
        registers = [register for register in (found["registers"] or "").split(",") if register]
        disp = int(found["disp"] or "0", 16)
        if registers in (["%eiz", "1"], []) or registers[:1] == ["%eiz"]:
            wide = not registers
            if wide and not 0 <= disp < 1 << 31 and disp not in VMCTX:
                return "reaches beyond guest memory and vmctx"
        elif len(registers) != 1 or not _REGISTER_32.fullmatch(registers[0]):
            return "has an address of more than 32 bits"
    return ""


def spread(module: vm.Module, every: int) -> tuple[bytes, list[int]]:
    """The native code, or one guest instruction in so many, with room behind each, and where they begin in it.

    A jump that turned out to lead nowhere has a ud2 written over its beginning: what is left of it is never executed,
    and would make no sense to a disassembler, which has found its way again behind the room.
    """
    code = module.native_code()
    offsets = {module.native_offset(pc) for pc in range(len(module.blob.code) + 1)} - {None}
    bounds = sorted({0, len(code), *(offset for offset in offsets if offset is not None)})
    pieces, places, size = [], [], 0
    for begin, end in itertools.islice(itertools.pairwise(bounds), 0, None, every):
        places.append(size)
        pieces.append(code[begin:end] + ROOM)
        size += len(pieces[-1])
    return b"".join(pieces), places


def check(modules: Iterable[vm.Module], path: Path, seen: Counter[str], every: int = 1) -> None:
    code, begins = bytearray(), set()
    for module in modules:
        more, places = spread(module, every)
        begins.update(len(code) + place for place in places)
        code += more
    path.write_bytes(code)
    command = ["objdump", "-D", "-b", "binary", "-m", "i386:x86-64", "--no-show-raw-insn", path]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    before, dead = ["", "", ""], False
    found = re.findall(r"^ *([0-9a-f]+):\t(.*)$", listing, re.MULTILINE)
    assert begins <= {int(place, 16) for place, _ in found}
    for place, line in found:
        dead = dead and int(place, 16) not in begins
        text = re.sub(r"\s+", " ", line.split("#")[0].strip()).removeprefix("addr32 ")
        name, _, rest = text.partition(" ")
        if dead or name == "nop":
            continue
        dead = name == "ud2"
        if name == "rep":
            second, _, rest = rest.partition(" ")
            name = f"rep {second}"
        complaint = complain(name, operands(rest), before)
        assert not complaint, f"{complaint}: {before} {text}"
        seen[mnemonic(name)] += 1
        before = [*before[1:], f"{name} {rest}"]


@pytest.fixture(scope="module", autouse=True)
def objdump() -> None:
    if shutil.which("objdump") is None:
        pytest.skip("no objdump (binutils)")


def blob_of(rng: random.Random) -> vm.ProgramBlob:
    isa = rng.choice(list(vm.InstructionSet))
    program = rng.choice(
        (
            lambda: structured(isa, rng, rng.randrange(1, 60)),
            lambda: single_steps(isa, rng, rng.sample(opcodes_of(isa), 20), 1),
            lambda: soup(isa, rng, rng.randrange(1, 200)),
        )
    )()
    return vm.ProgramBlob.build(
        isa=isa,
        code=program.code,
        bitmask=program.bitmask,
        jump_table=[pc & 0xFFFF_FFFF for pc in program.jump_table],
    )


async def test_random_programs(tmp_path: Path) -> None:
    rng = random.Random("generic")
    seen: Counter[str] = Counter()
    modules = []
    async with vm.Engine(vm.Config(sandbox="generic", module_cache_size=0)) as engine:
        for _ in range(300):
            config = vm.ModuleConfig(
                gas_metering=rng.choice((None, "sync", "async")),
                step_tracing=rng.random() < 0.1,
                legacy_sbrk=rng.random() < 0.5,
            )
            modules.append(await engine.compile(blob_of(rng), config))
    check(modules, tmp_path / "code", seen)
    # nothing of the list is there in vain
    assert set(seen) == MNEMONICS


@pytest.mark.parametrize("metering", [None, "sync"])
async def test_a_real_program(metering: object, shared: Path, tmp_path: Path) -> None:
    path = shared / "programs/doom.polkavm"
    config = vm.ModuleConfig(page_size=0x4000, gas_metering=metering)  # type: ignore[arg-type]
    async with vm.Engine(vm.Config(sandbox="generic")) as engine:
        check([await engine.compile(path, config)], tmp_path / "code", Counter(), every=20)


async def test_code_for_a_process_would_not_do(tmp_path: Path) -> None:
    """Of which nothing is wrong where it belongs."""
    async with vm.Engine() as engine:
        module = await engine.compile(build("pub @main:\na0 = u8 [a0]\nret"))
        with pytest.raises(AssertionError, match="without the GS base"):
            check([module], tmp_path / "code", Counter())
