# SPDX-License-Identifier: MIT
"""A hundred guests at once: each in a process of its own, each awaiting an async function of its host.

    python examples/hundred_guests.py [COUNT]

The guest is a few lines of assembly. It asks the host for a number, which takes the host a tenth of a second, and
adds up all numbers below it in a loop of its own. All guests wait at the same time, in one thread.
"""

from __future__ import annotations

import asyncio
import sys
import time

import aioring
import vm
from vm.assembler import assemble

GUEST = """
    %isa = latest64

    // ecalli 0 is the import fetch(id) -> n; the result is 0 + 1 + ... + (n - 1)
    pub @sum_below:
        ecalli 0
        t0 = a0
        a0 = 0
        jump @done if t0 == 0
    @next:
        t0 = t0 + 0xffffffffffffffff
        a0 = a0 + t0
        jump @next if t0 != 0
    @done:
        ret
"""


async def main(count: int) -> None:
    linker = vm.Linker()

    @linker.function("fetch")
    async def fetch(caller: vm.Caller, number: vm.u64) -> vm.u64:
        await asyncio.sleep(0.1)  # a database, another service, ...
        return 1000 * number

    blob = vm.ProgramBlob.parse(assemble(GUEST)).with_imports("fetch")
    async with vm.Engine() as engine:
        module = await engine.compile(blob)

        async def guest(number: int) -> tuple[int, int]:
            async with await linker.instantiate(module) as instance:
                return instance.pid, await instance.call("sum_below", number)

        started = time.perf_counter()
        results = await asyncio.gather(*(guest(number) for number in range(count)))
        seconds = time.perf_counter() - started

    for number, (pid, total) in enumerate(results):
        n = 1000 * number
        if total != n * (n - 1) // 2:
            sys.exit(f"guest {number} computed {total}")
        if number < 3 or number == count - 1:
            print(f"guest {number}, in process {pid}: the numbers below {n} are {total} together")
        elif number == 3:
            print("...")
    processes = len({pid for pid, _ in results})
    print(f"{count} guests in {processes} processes, each waiting 0.1 s for its host: {seconds:.3f} s in all")


if __name__ == "__main__":
    aioring.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
