# SPDX-License-Identifier: MIT
"""Gas for the reference interpreter: what a block costs, and when it is paid.

Written from the PVM specification (section 10). Slow and simple like `reference`: the full model is simulated cycle by
cycle, and a block is walked again each time it is entered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from reference import (
    A0,
    A1,
    A2,
    M32,
    REGISTER_COUNT,
    Exit,
    ExitKind,
    Instruction,
    Interpreter,
    Memory,
    MemoryAccessError,
    Program,
)

from vm.isa import MAX_SKIP, OPCODE_BY_NUMBER, Format, InstructionSet

INT32_MAX: Final = 0x7FFF_FFFF

# --- Blocks -----------------------------------------------------------------------------------------------------------


def ends_block(i: Instruction) -> bool:
    return i.opcode is None or i.opcode.ends_block


def block(program: Program, start: int) -> list[Instruction]:
    """The instructions from `start` to the first terminator, inclusive."""
    found = [program.decode(start)]
    while not ends_block(found[-1]):
        found.append(program.decode(found[-1].next))
    return found


def block_start(program: Program, pc: int) -> int | None:
    """Start of the block that holds the instruction at `pc`, by walking back (end of section 8)."""
    if not program.has_bit(pc):
        return None
    while pc > 0:
        nearest = max(pc - MAX_SKIP - 1, 0)
        previous = next((n for n in range(pc - 1, nearest - 1, -1) if program.has_bit(n)), None)
        if previous is None:
            return None
        if ends_block(program.decode(previous)):
            break
        pc = previous
    return pc


# --- The full pipeline model (section 10.2) ---------------------------------------------------------------------------


@dataclass
class Need:
    """What an instruction needs; units are those beside the ALUs."""

    latency: int
    slots: int
    alus: int = 1
    unit: str = ""


@dataclass(eq=False)
class Entry:
    """An entry of the reorder buffer."""

    need: Need
    remaining: int
    waits_for: list[Entry]
    state: str = "decoding"


def _operands(i: Instruction) -> tuple[int | None, tuple[int, ...]]:
    """The register written, and those read."""
    assert i.opcode is not None
    name = i.opcode.name
    match i.opcode.format:
        case Format.REG_REG_REG:
            return i.d, (i.a, i.b)
        case Format.REG_REG:
            return i.d, (i.a,)
        case Format.REG_REG_IMM:
            return (None, (i.a, i.b)) if name.startswith("store") else (i.a, (i.b,))
        case Format.REG_REG_OFFSET:
            return None, (i.a, i.b)
        case Format.REG_REG_IMM_IMM:
            return None, (i.b,)
        case Format.REG_IMM | Format.REG_IMM64:
            return (i.a, ()) if name.startswith("load") else (None, (i.a,))
        case Format.REG_IMM_IMM:
            return None, (i.a,)
        case Format.REG_IMM_OFFSET:
            return None, () if name == "load_imm_and_jump" else (i.a,)
        case _:
            return None, ()


def _branch_latency(program: Program, i: Instruction) -> int:
    unlikely = [
        number for number, opcode in OPCODE_BY_NUMBER[program.isa].items() if opcode.name in ("trap", "unlikely")
    ]
    cheap = any(pc >= len(program.code) or program.code[pc] in unlikely for pc in (i.next, i.target))
    return 1 if cheap else 20


def _need(program: Program, i: Instruction, load_latency: int) -> Need:
    """The table of section 10.2, row by row."""
    if i.opcode is None:
        return Need(2, 1, 0)
    name = i.opcode.name
    destination, sources = _operands(i)
    n = int(destination not in sources)
    n_first = int(not sources or destination != sources[0])
    b = int(program.isa is not InstructionSet.LATEST32)
    narrow = b if name.endswith("_32") else 0
    if name in ("trap", "fallthrough"):
        return Need(2, 1, 0)
    if name == "unlikely":
        return Need(40, 1, 0)
    if name in ("ecalli", "memset", "sbrk"):
        return Need(100, 4)
    if name in ("jump", "load_imm_and_jump"):
        return Need(15, 1, 0)
    if name in ("jump_indirect", "load_imm_and_jump_indirect"):
        return Need(22, 1, 0)
    if name.startswith("branch"):
        return Need(_branch_latency(program, i), 1)
    if name in ("load_imm", "load_imm64"):
        return Need(1, 2 if name == "load_imm64" else 1, 0)
    if name.startswith("load"):
        return Need(load_latency, 1, 1, "load")
    if name.startswith("store"):
        return Need(25, 1, 1, "store")
    if name.startswith(("div", "rem")):
        return Need(60, 4, 1, "div")
    if name.startswith("mul_upper"):
        return Need(6 if name == "mul_upper_signed_unsigned" else 4, 4, 1, "mul")
    if name.startswith("mul"):
        return Need(4, 2 + n, 1, "mul") if name.endswith("_32") else Need(3, 1 + n, 1, "mul")
    if name.startswith("negate_and_add"):
        return Need(3, 4) if name.endswith("_32") else Need(2, 3)
    if name in ("and_inverted", "or_inverted"):
        return Need(2, 3)
    if name == "xnor":
        return Need(2, 2 + n)
    if name.startswith(("maximum", "minimum")):
        return Need(3, 2 + n)
    if name.startswith("cmov"):
        return Need(2, 3 if name.endswith("imm") else 2)
    if name.startswith("set_"):
        return Need(3, 3)
    if "_imm_alt_" in name:
        return Need(2, 4) if name.endswith("_32") else Need(1, 3)
    if name.startswith(("shift", "rotate")) and "_imm_" not in name:
        return Need(1 + narrow, 2 + n_first + narrow)
    if name.startswith("count_trailing"):
        return Need(2, 1, 2)
    if name.startswith(("count", "sign_extend", "zero_extend")):
        return Need(1, 1)
    assert name.startswith(("and", "or", "xor", "add", "sub", "shift", "rotate", "reverse_byte")), name
    return Need(1 + narrow, 1 + n + narrow)


@dataclass
class Core:
    slots: int = 4
    alus: int = 4
    units: dict[str, int] = field(default_factory=lambda: {"load": 4, "store": 4, "mul": 1, "div": 1, "": 1 << 30})
    buffer: list[Entry] = field(default_factory=list)  # oldest first
    writers: dict[int, Entry] = field(default_factory=dict)
    cycles: int = 0

    def tick(self) -> None:
        while self.buffer and self.buffer[0].state == "executed":
            del self.buffer[0]
        for _ in range(5):
            ready = (e for e in self.buffer if e.state == "waiting" and not e.waits_for and self.has_room_for(e.need))
            entry = next(ready, None)
            if entry is None:
                break
            self.alus -= entry.need.alus
            self.units[entry.need.unit] -= 1
            entry.state = "executing"
        for entry in [e for e in self.buffer if e.state == "executing"]:
            entry.remaining -= 1
            if entry.remaining == 0:
                self.alus += entry.need.alus
                self.units[entry.need.unit] += 1
                self.writers = {register: e for register, e in self.writers.items() if e is not entry}
                for other in self.buffer:
                    other.waits_for = [e for e in other.waits_for if e is not entry]
            elif entry.remaining < 0:
                entry.state = "executed"
        for entry in self.buffer:
            if entry.state == "decoding":
                entry.state = "waiting"
        self.slots = 4
        self.cycles += 1

    def has_room_for(self, need: Need) -> bool:
        return self.alus >= need.alus and self.units[need.unit] > 0

    def tick_until(self, most: int) -> None:
        self.tick()
        while len(self.buffer) > most:
            self.tick()

    def dispatch(self, program: Program, i: Instruction, load_latency: int) -> None:
        renames = i.opcode is not None and i.opcode.name == "move_reg"
        need = Need(0, 1, 0) if renames else _need(program, i, load_latency)
        if self.slots < need.slots or len(self.buffer) == 32:
            self.tick_until(31)
        self.slots -= need.slots
        if renames:
            writer = self.writers.get(i.a)
            self.writers.pop(i.d, None)
            if writer is not None:
                self.writers[i.d] = writer
            return
        destination, sources = (None, ()) if i.opcode is None else _operands(i)
        entry = Entry(need, need.latency, [self.writers[s] for s in sources if s in self.writers])
        self.buffer.append(entry)
        if destination is not None:
            self.writers[destination] = entry


# --- Models -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CostModel:
    """`full_latency` is that of loads under the full model; None means the table, by opcode name or "invalid"."""

    full_latency: int | None = None
    table: dict[str, int] = field(default_factory=dict)

    def cost(self, program: Program, start: int) -> int:
        instructions = block(program, start)
        if self.full_latency is None:
            names = (i.opcode.name if i.opcode is not None else "invalid" for i in instructions)
            return min(sum(self.table.get(name, 1) for name in names), INT32_MAX)
        core = Core()
        for i in instructions:
            core.dispatch(program, i, self.full_latency)
        core.tick_until(0)
        return max(1, core.cycles - 3)


NAIVE: Final = CostModel()


@dataclass
class Metering:
    """How gas is paid; `gas` is what is left."""

    gas: int
    asynchronous: bool = False
    per_instruction: bool = False
    model: CostModel = NAIVE


class MeteredInterpreter(Interpreter):
    """The reference interpreter with gas and step tracing."""

    def __init__(
        self,
        program: Program,
        memory: Memory,
        registers: Sequence[int] = (0,) * REGISTER_COUNT,
        metering: Metering | None = None,
        *,
        step_tracing: bool = False,
    ) -> None:
        super().__init__(program, memory, registers)
        self.metering = metering
        self.step_tracing = step_tracing
        self._due = False  # the block at `next_pc` is not paid for
        self._stepped = False  # the instruction at `next_pc` was announced
        self._paid = False  # so was its own gas taken
        self._costs: dict[int, int] = {}

    def _cost(self, start: int) -> int:
        assert self.metering is not None
        if start not in self._costs:
            self._costs[start] = self.metering.model.cost(self.program, start)
        return self._costs[start]

    def _pay(self, amount: int) -> bool:
        m = self.metering
        assert m is not None
        if m.gas < amount and not m.asynchronous:
            return False
        m.gas -= amount
        return m.gas >= 0

    def _not_enough(self, pc: int) -> Exit:
        assert self.metering is not None
        return Exit(ExitKind.NOT_ENOUGH_GAS, None if self.metering.asynchronous else pc)

    def enter(self, pc: int) -> Exit | None:
        """Have the host set the next pc; the exit if that goes wrong."""
        start = block_start(self.program, pc)
        self.next_pc = pc
        self._due = self._stepped = self._paid = False
        if start is None:
            return Exit(ExitKind.TRAP, pc)
        self._due = start == pc
        m = self.metering
        if not self._due and m is not None and not m.per_instruction and not self._pay(self._cost(start)):
            return self._not_enough(pc)
        return None

    def run_on(self, max_steps: int = 1_000_000) -> Exit:
        """Go on at `next_pc`."""
        for _ in range(max_steps):
            i = self.program.decode(self.next_pc)
            if self.step_tracing and not self._stepped:
                self._stepped = True
                return Exit(ExitKind.STEP, i.pc)
            m = self.metering
            if m is not None and not self._paid:
                amount = 1 if m.per_instruction else self._cost(i.pc) if self._due else 0
                if not self._pay(amount):
                    self._stepped = True
                    return self._not_enough(i.pc)
            self._due, self._stepped, self._paid = False, True, True
            end = self._execute(i)
            if end is not None:
                return end
        return Exit(ExitKind.STEPS, self.next_pc)

    def _execute(self, i: Instruction) -> Exit | None:
        if i.opcode is not None and i.opcode.name == "memset" and self.metering is not None:
            end = self._memset_metered(i)
            if end is None:
                self._arrive(i, i.next)
            return end
        end = super().run(i.pc, 1)
        if end.kind is ExitKind.STEPS:
            self._arrive(i, self.next_pc)
            return None
        if end.kind in (ExitKind.ECALLI, ExitKind.SBRK):
            self._arrive(i, i.next)
        elif end.kind is ExitKind.TRAP:
            self.next_pc = i.pc  # for another try
        return end

    def _arrive(self, i: Instruction, pc: int) -> None:
        self.next_pc = pc
        self._due = ends_block(i)
        self._stepped = self._paid = False

    def _memset_metered(self, i: Instruction) -> Exit | None:
        m = self.metering
        assert m is not None
        byte = bytes([self.get(A1) & 0xFF])
        self.put(A2, self.get(A2) & M32)
        while self.get(A2):
            if m.gas == 0:
                return self._not_enough(i.pc)
            try:
                self.memory.store(self.get(A0) & M32, byte)
            except MemoryAccessError as fault:
                return Exit(ExitKind.TRAP, i.pc, fault=fault.address)
            m.gas -= 1
            self.put(A0, self.get(A0) + 1)
            self.put(A2, self.get(A2) - 1)
        return None
