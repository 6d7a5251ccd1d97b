# SPDX-License-Identifier: MIT
"""A running program."""

from __future__ import annotations

import errno
import inspect
import logging
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from vm._errors import InstanceStateError, LimitError, OutOfGasError, TrapError
from vm._interrupts import Finished, HostCall, Interrupt, Interrupted, OutOfGas, PageFault, Step, Trap
from vm._linker import ARGUMENT_NUMBERS, BoundHostFunction, Caller, PageHandler
from vm._memory import Memory
from vm._nursery import sandbox_error
from vm._pager import Pager
from vm._registers import Registers
from vm._restore import INLINE
from vm._sandbox import lib
from vm._snapshot import Snapshot, take_snapshot
from vm._threads import in_thread_until
from vm._types import WORD, from_registers, registers_of, resolve, to_registers
from vm.isa import REGISTERS, RETURN_TO_HOST
from vm.memory_map import align_up

if TYPE_CHECKING:
    import anyio

    from vm._limits import Limits
    from vm._machine import Machine
    from vm._module import Module
    from vm._sandbox import CData
    from vm.debug_info import Frame

_LOG = logging.getLogger("vm")

_RA = REGISTERS.index("ra")
_SP = REGISTERS.index("sp")
_A0 = REGISTERS.index("a0")

#: Operations of debug information that a failed call may take on the event loop, some milliseconds: three times what
#: the longest function of quake.polkavm has.
_LOCATING = 1 << 14


class Instance:
    """One guest in a process of its own; made by `Linker.instantiate` or `Module.instantiate`.

    It is stopped, except while `run` (or `call`, which runs) is awaited: registers, memory and program counter can
    then be read and written. Cancelling `run` stops the guest where it is, within milliseconds, and another `run` goes
    on there. Cancelling `call` does the same, or cancels the host function that is awaited; the instance is ready for
    another call.

    An async context manager: leaving it closes the instance.
    """

    def __init__(self, module: Module, machine: Machine, limits: Limits, held: int | None = None) -> None:
        if limits.gas is not None:
            machine.guest.gas = limits.gas
        if limits.memory is not None:
            _limit_memory(machine, limits.memory)
        self._machine: Machine | None = machine
        self._engine = module._engine
        self._limits = limits
        self._execution = module._engine._execution(machine, limits, paged=module.config.dynamic_paging, held=held)
        self._functions: tuple[BoundHostFunction, ...] | None = None
        self._page_handler: PageHandler | None = None
        self._calling = False
        # done when the snapshot is there that a thread is taking
        self._copying: anyio.Event | None = None
        self._caller = Caller(self)
        self._bits = module.isa.word_bits
        # called once, when the instance is closed
        self._closing: list[Callable[[], None]] = []
        #: The compiled program.
        self.module = module
        #: Guest memory.
        self.memory = Memory(self)
        #: Guest registers.
        self.registers = Registers(self)

    def _link(self, functions: tuple[BoundHostFunction, ...], page_handler: PageHandler | Pager | None) -> None:
        self._functions = functions
        if not isinstance(page_handler, Pager):
            self._page_handler = page_handler
        elif self.module.config.dynamic_paging:
            for memory in self._stopped_machine().memories:
                lib.sandbox_memory_set_pager(memory, page_handler._handle)

    # --- state ---

    def _open_machine(self) -> Machine:
        if self._machine is None:
            raise InstanceStateError("the instance is closed")
        return self._machine

    def _stopped_machine(self) -> Machine:
        machine = self._open_machine()
        if self._execution.running:
            raise InstanceStateError("the instance is running")
        if self._copying is not None:
            raise InstanceStateError("a snapshot of the instance is being taken")
        return machine

    @property
    def pid(self) -> int:
        """Process id of the sandbox, as this process sees it."""
        return self._open_machine().pid

    @property
    def program_counter(self) -> int | None:
        """Code offset of the instruction that the guest stopped at; None after it finished or before it ran."""
        guest = self._stopped_machine().guest
        return int(guest.pc) if guest.has_pc else None

    @property
    def next_program_counter(self) -> int | None:
        """Code offset at which `run` goes on; None if it cannot. Any instruction's offset may be assigned."""
        guest = self._stopped_machine().guest
        return int(guest.next_pc) if guest.has_next_pc else None

    @next_program_counter.setter
    def next_program_counter(self, pc: int) -> None:
        if not 0 <= pc < 1 << 32:
            raise ValueError(f"program counter {pc} is not from 0 to 2^32-1")
        guest = self._stopped_machine().guest
        guest.next_pc = pc
        guest.has_next_pc = guest.entering = 1
        self._execution.forget()

    @property
    def gas(self) -> int:
        """Gas left, from 0 (below it only after running out with async metering) to 2^63-1; 0 at first.

        Means nothing without metering (`ModuleConfig.gas_metering`).
        """
        return int(self._stopped_machine().guest.gas)

    @gas.setter
    def gas(self, gas: int) -> None:
        if not 0 <= gas < 1 << 63:
            raise ValueError(f"gas {gas} is not from 0 to 2^63-1")
        self._stopped_machine().guest.gas = gas

    @property
    def accessible_aux_size(self) -> int:
        """Bytes of auxiliary data that guest and host can reach, from its start; all of it at first.

        May be assigned up to the module's auxiliary data (`MemoryMap.aux_accessible`), and is rounded up to pages; the
        guest traps beyond it, and what was cut off reads as zeros when it comes back. Raises ValueError for a size
        that is negative or too large, `InstanceStateError` while the guest runs or after it is closed.
        """
        return int(lib.sandbox_memory_aux_size(self._stopped_machine().memories[0]))

    @accessible_aux_size.setter
    def accessible_aux_size(self, size: int) -> None:
        layout = self.module.memory_map
        if not 0 <= size <= layout.aux_accessible:
            raise ValueError(f"{size} bytes of auxiliary data: the module has {layout.aux_accessible}")
        for memory in self._stopped_machine().memories:
            error = lib.sandbox_memory_set_aux_size(memory, align_up(size, layout.page_size))
            if error < 0:
                raise sandbox_error(error, "resizing auxiliary data (ftruncate, madvise)")

    def clear_registers(self) -> None:
        """Sets all registers to 0."""
        self._stopped_machine().guest.regs = [0] * len(REGISTERS)

    async def snapshot(self) -> Snapshot:
        """Registers, memory and program counter as they are, to start others from (`Snapshot.instantiate`).

        The guest goes on as if nothing had been. It has to be stopped: before its first call, after one, at any
        interrupt (a trapped one cannot go on, and neither can its copies), also in a host function that it has called.
        What `run` has not told yet because it was cancelled, the copies' `run` tells. Limits, host functions and pagers
        are not part of it.

        Raises `InstanceStateError` if the instance is closed or running, `SandboxDiedError` if its process is dead or
        was killed, OSError if there is no memory for it.
        """
        machine = self._stopped_machine()
        if not machine.usable:
            raise machine.death()
        held = self._execution.held
        if held == lib.SANDBOX_OVER_LIMIT:
            held = lib.SANDBOX_TRAP  # the copies may have other limits, but cannot go on either

        def take() -> CData:
            return take_snapshot(machine.memories[0], machine.guest)

        layout = self.module.memory_map
        accessible = layout.stack_accessible + layout.rw_accessible + layout.aux_accessible + self.memory.heap_size
        # memory of this process is looked at page by page, files where they have any
        size = int(lib.sandbox_memory_resident(machine.memories[0])) or accessible
        if size <= INLINE:
            return Snapshot(self.module, take(), held)
        import anyio  # here, because nothing else needs it, and it takes long

        self._copying = copying = anyio.Event()
        try:
            return Snapshot(self.module, await in_thread_until(take), held)
        finally:
            self._copying = None
            copying.set()

    # --- running ---

    def prepare_call(self, export: str | int, *args: int) -> None:
        """Sets all registers for a call (specification, section 8): the next `run` enters `export`.

        `export` is a name or a code offset. Each argument is a machine word (a negative one is allowed). Raises
        KeyError for an unknown export, TypeError for too many arguments, OverflowError for one that does not fit.
        """
        machine = self._stopped_machine()
        pc = self._export(export)
        bits = self._bits
        if len(args) > len(ARGUMENT_NUMBERS):
            raise TypeError(f"{len(args)} arguments: there are {len(ARGUMENT_NUMBERS)} argument registers")
        registers = [0] * len(REGISTERS)
        registers[_RA] = RETURN_TO_HOST
        registers[_SP] = self.module.memory_map.stack_high
        for i, value in enumerate(args):
            is_word = type(value) is int and value >> bits == 0  # as most are; the others take longer
            word = value if is_word else to_registers(WORD, bits, value, f"argument {i + 1}")[0]
            registers[ARGUMENT_NUMBERS[i]] = word
        guest = machine.guest
        guest.regs = registers
        guest.next_pc = pc
        guest.has_next_pc = guest.entering = 1
        self._execution.forget()

    def _export(self, export: str | int) -> int:
        if isinstance(export, int):
            return export
        pc = self.module.exports.get(export)
        if pc is None:
            names = ", ".join(list(self.module.exports)[:20]) or "none"
            raise KeyError(f"no export {export!r}; the program's exports: {names}")
        return pc

    async def run(self) -> Interrupt:
        """Lets the guest go on until it stops again, and says why it did.

        After `Finished`, `Trap` and, with async metering, `OutOfGas` there is nothing to go on with until
        `prepare_call` or an assignment to `next_program_counter`. If it is cancelled the guest stops where it is, and
        the next `run` goes on there, or returns what the guest stopped with by itself at the same moment. With
        `crosscheck` that is not possible: cancelled, it ends the guest for good.

        Raises `InstanceStateError` if the instance is closed, running or has nothing to run; `LimitError` if the guest
        reached a limit, after one of time it goes on with the next `run`; `SandboxDiedError` if the process dies,
        breaks the rules of its sandbox, or does not stop when it has to (`interrupt`); OSError if a `FilePager` cannot
        read its file: the guest can then be run again.
        """
        try:
            if self._limits.wall is None:
                return await self._run()
            return await self._execution.within(self._limits.wall, self._run)
        except LimitError as error:
            raise self._located(error) from None

    async def _run(self) -> Interrupt:
        machine = self._stopped_machine()
        event = await self._execution.run()
        self._check_not_closed()
        return self._interrupt(machine, event)

    def _check_not_closed(self) -> None:
        if self._machine is None:
            raise InstanceStateError("the instance was closed while it ran")

    def _located(self, error: LimitError, export: str | None = None) -> LimitError:
        """The error with the place where the guest is."""
        guest = self._machine.guest if self._machine is not None else None
        pc = int(guest.pc) if guest is not None and guest.has_pc else None
        return LimitError(error.which, error.limit, pc=pc, export=export, frames=self._frames(pc))

    async def interrupt(self) -> bool:
        """Stops the guest wherever it is, within milliseconds: the pending `run` returns `Interrupted`, and another one
        goes on there.

        Returns whether that is what `run` returned. It is not, and nothing happens, if the guest does not run (any
        more), or stops by itself at the same moment. All who interrupt one run get the same answer. A guest that goes
        on for 0.1 seconds, or whose process gets no processor for a second, is killed, and its `run` raises.

        Raises `InstanceStateError` if the instance is closed or being called: `call` has nobody to tell; use `run`,
        or cancel the call.
        """
        self._open_machine()
        if self._calling:
            raise InstanceStateError("the instance is being called: interrupt goes with run")
        return await self._execution.interrupt()

    def _interrupt(self, machine: Machine, event: int) -> Interrupt:
        guest = machine.guest
        if event == lib.SANDBOX_HOST_CALL:
            self._engine._counters.host_calls += 1
            return HostCall(int(guest.host_call))
        if event == lib.SANDBOX_FINISHED:
            return Finished()
        if event == lib.SANDBOX_TRAP:
            return Trap(int(guest.pc), int(guest.signal))
        if event == lib.SANDBOX_STEP:
            return Step(int(guest.pc))
        if event == lib.SANDBOX_OUT_OF_GAS:
            return OutOfGas(int(guest.pc) if guest.has_pc else None)
        if event == lib.SANDBOX_PAGE_FAULT:
            self._engine._counters.page_faults += 1
            fault = PageFault(int(guest.fault_address), self.module.config.page_size, bool(guest.fault_write))
            if guest.fault_errno:
                raise OSError(int(guest.fault_errno), f"reading the page at {fault.address:#x} of a guest's memory")
            return fault
        if event == lib.SANDBOX_INTERRUPTED:
            guest.pc, guest.has_pc = guest.next_pc, 1
            return Interrupted(int(guest.pc))
        if event == lib.SANDBOX_OVER_LIMIT:
            assert self._limits.memory is not None
            raise LimitError("memory", self._limits.memory)
        if event == lib.SANDBOX_FORGED:
            self._engine._counters.offended += 1
            machine.kill()
            error = machine.death()
            error.args = (f"sandbox process {machine.pid} broke the rules of its shared page and was killed",)
            _LOG.warning("%s", str(error))  # a record that is kept must not keep the error's frames
            raise error
        raise machine.death()

    async def call(self, export: str | int, *args: int, returns: Any = int) -> int:
        """Calls an export and serves its host calls until it returns; gives what is in a0.

        `returns` says how to read the result: ``int`` (the default: the unsigned machine word), `u32`, `i32`,
        `u64` or `i64`. Arguments are as in `prepare_call`.

        Raises `TrapError` if the guest traps, also on a host call that is no import and on a page fault that nobody
        serves; `OutOfGasError` if it cannot pay; `LimitError` at a limit, all with a backtrace if the program has debug
        information; whatever a host function or page fault handler raises, unchanged; and what `prepare_call` and `run`
        raise.
        """
        kind = resolve(returns)
        if kind is None:
            raise TypeError("returns must be an integer type")
        if self._calling:
            raise InstanceStateError("the instance is being called already")
        self.prepare_call(export, *args)
        self._calling = True
        try:
            if self._limits.wall is None:
                await self._finish(export)
            else:
                await self._execution.within(self._limits.wall, self._finish, export)
        except LimitError as error:
            raise self._located(error, str(export)) from None
        finally:
            self._calling = False
        registers = self._stopped_machine().guest.regs
        bits = self._bits
        if kind is WORD:  # as most are
            return int(registers[_A0]) & ((1 << bits) - 1)
        words = tuple(registers[number] for number in ARGUMENT_NUMBERS[: registers_of(kind, bits)])
        return from_registers(kind, bits, words)

    async def _finish(self, export: str | int) -> None:
        """Runs the guest and serves its host calls until it returns."""
        machine = self._stopped_machine()
        while True:
            event = await self._execution.run()
            self._check_not_closed()
            # these two are most: they need no object that tells of them
            if event == lib.SANDBOX_FINISHED:
                return
            if event == lib.SANDBOX_HOST_CALL:
                self._engine._counters.host_calls += 1
                guest = machine.guest
                function = self._host_function(guest.host_call, export)
                result = function.start(self._caller, guest.regs)
                if result is not None and not isinstance(result, int) and inspect.isawaitable(result):
                    result = await result
                function.finish(result, self._stopped_machine().guest.regs)  # it may have closed the instance
                continue
            interrupt = self._interrupt(machine, event)
            if isinstance(interrupt, PageFault):
                await self._page_in(interrupt, export)
            elif isinstance(interrupt, Trap):
                raise TrapError(pc=interrupt.pc, export=str(export), frames=self._frames(interrupt.pc))
            elif isinstance(interrupt, OutOfGas):
                raise OutOfGasError(pc=interrupt.pc, export=str(export), frames=self._frames(interrupt.pc))
            self._stopped_machine()

    def _host_function(self, index: int, export: str | int) -> BoundHostFunction:
        functions = self._functions or ()
        if index < len(functions):
            return functions[index]
        pc = self.program_counter
        reason = f"host call {index}, which no host function serves"
        raise TrapError(pc=pc, export=str(export), reason=reason, frames=self._frames(pc))

    async def _page_in(self, fault: PageFault, export: str | int) -> None:
        """Has the linker's handler serve a page fault."""
        pc = self.program_counter
        missing = "which nobody serves (Linker.on_page_fault)"
        if self._page_handler is not None:
            result = self._page_handler(self._caller, fault)
            if result is not None and inspect.isawaitable(result):
                await result
            machine = self._stopped_machine()
            if machine.guest.entering:  # it sent the guest elsewhere
                return
            missing = "which its handler left as it was"
            if lib.sandbox_memory_fault(machine.memories[0], fault.address, fault.size, fault.is_write) < 0:
                return
        elif fault.is_write and self.memory.is_accessible(fault.address, fault.size):
            missing = "of a protected page"
        reason = f"page fault at {fault.address:#x} ({'write' if fault.is_write else 'read'}), {missing}"
        raise TrapError(pc=pc, export=str(export), reason=reason, frames=self._frames(pc))

    def _frames(self, pc: int | None) -> tuple[Frame, ...]:
        """Where in the source `pc` is; nothing that the program says there raises, or takes long."""
        return () if pc is None else self.module.debug_info.locate(pc, budget=_LOCATING)

    # --- the end ---

    async def aclose(self) -> None:
        """Ends the guest; its process is reused or killed. May be called again, and while the guest runs."""
        machine, self._machine = self._machine, None
        while self._closing:
            self._closing.pop()()
        if machine is not None:
            running = self._execution.running
            self._execution.close()
            if self._copying is not None:
                await self._copying.wait()
            await self._engine._release(self.module, machine, reusable=not running)

    async def __aenter__(self) -> Instance:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        machine = getattr(self, "_machine", None)
        if machine is not None and not machine.dead:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self._execution.close()
            machine.kill()

    def __repr__(self) -> str:
        if self._machine is None:
            return "<Instance closed>"
        state = "dead" if self._machine.dead else self._execution.state
        return f"<Instance in process {self._machine.pid}, {state}>"


def _limit_memory(machine: Machine, size: int) -> None:
    for memory in machine.memories:
        error = lib.sandbox_memory_set_limit(memory, size)
        if error == -errno.ENOMEM:
            raise LimitError("memory", size)
        if error < 0:
            raise sandbox_error(error, "limiting guest memory (ftruncate)")
