# SPDX-License-Identifier: MIT
"""Guests that run twice, recompiled in a process and interpreted in this one, and are compared at every stop.

The worker is the guest that its host sees. The interpreted one follows: it goes on from where the host left the worker
at a stop, executes until it stops itself, and has to be where the worker is then, in all that a program can observe.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Hashable
from typing import TYPE_CHECKING, Final, cast

from vm._errors import CrosscheckError, InstanceStateError, VMError
from vm._interpreted import TURN, Interpreted
from vm._linux import LinuxHome
from vm._nursery import sandbox_error
from vm._sandbox import ffi, lib
from vm._threads import in_thread
from vm.isa import REGISTERS

if TYPE_CHECKING:
    from vm._config import Config
    from vm._machine import Machine
    from vm._module import Module
    from vm._sandbox import CData
    from vm._snapshot import Snapshot
    from vm._statistics import Counters
    from vm._waiter import Waiter
    from vm._worker import Worker

#: Memory of which more is resident (bytes) is compared off the event loop's thread.
_COMPARE_INLINE: Final = 1 << 20

#: Instructions that no processor gets through in a nanosecond, a byte of a memset counted as one: 64 bytes a cycle at
#: 6 GHz. An interpreter that is further than the worker can have come is somewhere else.
_FASTEST: Final = 400

#: What the guest's program does, by the names of the interrupts. Any other event is the end of the worker.
_EVENTS: Final = {
    lib.SANDBOX_FINISHED: "Finished",
    lib.SANDBOX_HOST_CALL: "HostCall",
    lib.SANDBOX_TRAP: "Trap",
    lib.SANDBOX_STEP: "Step",
    lib.SANDBOX_OUT_OF_GAS: "OutOfGas",
    lib.SANDBOX_PAGE_FAULT: "PageFault",
    lib.SANDBOX_OVER_LIMIT: "LimitError",
}


class Crosschecked:
    """One guest in a worker, and the same guest in the interpreter."""

    __slots__ = (
        "__weakref__",
        "_comparing",
        "_difference",
        "_event",
        "_module",
        "_reference",
        "_since",
        "_started",
        "_stepped",
        "guest",
        "interpreted",
        "memories",
        "worker",
    )

    def __init__(self, module: Module, worker: Worker, interpreted: Interpreted) -> None:
        self._module = module
        self.worker = worker
        self.interpreted = interpreted
        self.guest = worker.guest
        self.memories = (*worker.memories, *interpreted.memories)
        # the last event of either
        self._event: int = lib.SANDBOX_BUSY
        self._reference: int = lib.SANDBOX_BUSY
        # where both went on, when (nanoseconds), and whether that was before an instruction that was traced
        self._since = 0
        self._started = 0
        self._stepped = False
        # what was found; not the exception, whose traceback would keep all this alive
        self._difference = ""
        self._comparing: asyncio.Task[int] | None = None

    @property
    def pid(self) -> int:
        return self.worker.pid

    @property
    def dead(self) -> bool:
        return self.worker.dead or self.interpreted.dead

    @property
    def usable(self) -> bool:
        return self.worker.usable and not self.interpreted.dead

    def resume(self, spin_ns: int, worker_spin: int) -> int:
        if self.interpreted.dead:
            self._event = lib.SANDBOX_DIED
            return lib.SANDBOX_BUSY  # it was killed: `wait` sees it die
        ours, theirs = self.guest, self.interpreted.guest
        self._since = ours.next_pc
        self._stepped = self._event == lib.SANDBOX_STEP and not ours.entering
        # what the host can have set since they were equal
        theirs.regs = list(ours.regs)
        theirs.gas = ours.gas
        theirs.next_pc, theirs.has_next_pc, theirs.entering = ours.next_pc, ours.has_next_pc, ours.entering

        self._started = time.monotonic_ns()
        self._reference = lib.SANDBOX_BUSY
        self._event = self.worker.resume(spin_ns, worker_spin)
        if self._event not in _EVENTS:
            return self._event
        self._reference = self.interpreted.resume(0, 0)
        if self._reference == lib.SANDBOX_BUSY or self._has_much_memory():
            return lib.SANDBOX_BUSY
        self._compare_states()
        difference = ffi.new("struct sandbox_difference *")
        self._judge(self._compare_memory(difference), difference)
        return self._event

    async def wait(self) -> int:
        # One after the other: the interpreter takes most of the time, and has nothing to follow if the worker dies.
        if self._event == lib.SANDBOX_BUSY:
            self._event = await self.worker.wait()
        if self._event in _EVENTS:
            await self._follow()
        if self.interpreted.dead:
            await self.worker.gone()
        if self.worker.dead:
            return lib.SANDBOX_DIED
        if self._event in _EVENTS:
            self._compare_states()
            difference = ffi.new("struct sandbox_difference *")
            self._comparing = asyncio.create_task(in_thread(Crosschecked._compare_memory, self, difference))
            self._judge(await asyncio.shield(self._comparing), difference)
        return self._event

    async def _follow(self) -> None:
        """Lets the interpreter run until it stops too, or the process dies.

        Raises `CrosscheckError` once it is past all that the worker can have executed.
        """
        left = (time.monotonic_ns() - self._started) * _FASTEST
        while self._reference == lib.SANDBOX_BUSY and not self.worker.dead:
            if left < 0:
                raise self._differ("event", _EVENTS[self._event], "none yet")
            self._reference = await self.interpreted.turn()
            left -= TURN

    def interrupt(self) -> bool:
        return False  # the interpreter could not tell where to stop

    def cpu_ns(self) -> int:
        return self.worker.cpu_ns()

    def kill(self) -> None:
        self.interpreted.kill()
        self.worker.kill()

    async def gone(self) -> None:
        """Waits until no thread has to do with it any more, after a kill."""
        await self.interpreted.gone()
        if self._comparing is not None:
            await asyncio.wait([self._comparing])

    def death(self) -> VMError:
        if self._difference:
            return InstanceStateError(f"the guest ended when its two machines did not agree: {self._difference}")
        return self.worker.death()

    # --- comparing ---

    def _has_much_memory(self) -> bool:
        return max(map(lib.sandbox_memory_resident, self.memories)) > _COMPARE_INLINE

    def _compare_states(self) -> None:
        """Raises `CrosscheckError` unless both stopped in the same state."""
        ours, theirs = _state(self.guest, self._event), _state(self.interpreted.guest, self._reference)
        if not self._module.config.gas_metering:
            ours["gas"] = theirs["gas"] = None  # it means nothing
        if ours == theirs:
            return
        what = next(what for what in ours if ours[what] != theirs[what])
        raise self._differ(what, ours[what], theirs[what])

    def _compare_memory(self, difference: CData) -> int:
        return lib.sandbox_memory_compare(*self.memories, difference)

    def _judge(self, result: int, difference: CData) -> None:
        """Raises `CrosscheckError` if the comparison of memory found a difference, `SandboxError` if it failed."""
        if result < 0:
            raise sandbox_error(result, "comparing guest memory (lseek)")
        if result:
            address = int(difference.address)
            raise self._differ("memory", int(difference.first), int(difference.second), address)

    def _differ(
        self, what: str, ours: int | str | None, theirs: int | str | None, address: int | None = None
    ) -> CrosscheckError:
        pc, instruction = (int(self.guest.pc) if self.guest.has_pc else None), ""
        if self._stepped:
            pc, instruction = self._since, _statement(self._module, self._since)
        error = CrosscheckError(what, ours, theirs, pc=pc, since=self._since, address=address, instruction=instruction)
        self._difference = str(error)
        return error


def _state(guest: CData, event: int) -> dict[str, int | str | None]:
    """All that is compared, by its name in `CrosscheckError`; what tells most about a difference comes first.

    Not the signal of a trap, which is the processor's.
    """
    return {
        "event": _EVENTS.get(event, str(event)),
        "pc": guest.pc if guest.has_pc else None,
        "next pc": guest.next_pc if guest.has_next_pc else None,
        "host call": guest.host_call if event == lib.SANDBOX_HOST_CALL else None,
        "page fault": guest.fault_address if event == lib.SANDBOX_PAGE_FAULT else None,
        "fault is a write": guest.fault_write if event == lib.SANDBOX_PAGE_FAULT else None,
        **dict(zip(REGISTERS, guest.regs, strict=True)),
        "gas": guest.gas,
        "heap size": guest.heap_size,
    }


def _statement(module: Module, pc: int) -> str:
    """The instruction at `pc`, for people."""
    from vm._disasm_statements import format_statement  # here, because nothing else of a run needs it
    from vm.encoding import decode_instruction

    instruction = decode_instruction(module.blob, pc)
    target = str(instruction.operands[-1]) if instruction.operands else ""
    return format_statement(instruction, target)


class CrosscheckHome:
    """All guests of an engine with ``crosscheck=True``."""

    def __init__(self, config: Config, waiter: Waiter, counters: Counters) -> None:
        self._linux = LinuxHome(config, waiter, counters)
        self._machines: weakref.WeakSet[Crosschecked] = weakref.WeakSet()

    @property
    def processes(self) -> int:
        return self._linux.processes

    @property
    def idle(self) -> int:
        return self._linux.idle

    async def start(self) -> None:
        await self._linux.start()

    async def acquire(self, module: Module, tenant: Hashable, snapshot: Snapshot | None) -> Crosschecked:
        # not lazy: what one has copied and the other not would be a difference of memory
        worker = await self._linux.acquire(module, tenant, snapshot, lazy=False)
        try:
            assert module._reference is not None
            machine = Crosschecked(module, worker, Interpreted(module._reference, in_files=True))
            if snapshot is not None:
                await machine.interpreted.restore(snapshot, lazy=False)
        except BaseException:
            await self._linux.release(module, worker, reusable=True)
            raise
        self._machines.add(machine)
        return machine

    async def release(self, module: Module, machine: Machine, *, reusable: bool) -> None:
        pair = cast(Crosschecked, machine)
        pair.interpreted.kill()
        await self._linux.release(module, pair.worker, reusable=reusable)
        await pair.gone()

    async def aclose(self) -> None:
        machines = list(self._machines)
        for machine in machines:
            machine.interpreted.kill()
        await self._linux.aclose()
        for machine in machines:
            await machine.gone()
