# SPDX-License-Identifier: MIT
"""The guests' libc prints what the host's prints, from the same source."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from sdk_guests import PROGRAMS, Build, run_main

import vm
from vm import toolchain

SOURCES = ["control.c", "cxx.cpp", "math.c", "stdio.c", "stdlib.c", "string.c"]
INPUT = b"first line\nsecond\nno newline"


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("cc") or not shutil.which("c++"):
        pytest.skip("there is no C and C++ compiler for this machine to compare with")
    return tmp_path_factory.mktemp("native")


@pytest.mark.parametrize("name", SOURCES)
async def test_it_prints_what_the_hosts_libc_prints(
    compiler: None, native: Path, name: str, isa: vm.InstructionSet
) -> None:
    command = ["c++", "-std=c++20"] if name.endswith("pp") else ["cc"]
    subprocess.run([*command, "-w", "-o", native / "program", PROGRAMS / name, "-lm"], check=True)
    wanted = subprocess.run(
        [native / "program"], input=INPUT, capture_output=True, env={**os.environ, "TZ": "UTC", "LC_ALL": "C"}
    )
    blob = toolchain.build(
        [PROGRAMS / name],
        isa=isa,
        flags=["-w", *(["-std=c++20"] if "pp" in name else [])],
    )
    got = await run_main(blob, stdin=INPUT)
    assert got.stdout == wanted.stdout.decode()
    assert got.status == wanted.returncode
    assert len(got.stdout) > 100


@pytest.mark.parametrize("level", ["0", "s", "3"])
async def test_every_level_of_optimization_prints_the_same(compiler: None, level: str) -> None:
    reference = await run_main(toolchain.build([PROGRAMS / "control.c"]))
    got = await run_main(toolchain.build([PROGRAMS / "control.c"], opt_level=level, flags=["-Wno-all"]))
    assert got.stdout == reference.stdout != ""


async def test_the_interpreter_agrees(compiler: None) -> None:
    blob = toolchain.build([PROGRAMS / "string.c"], flags=["-w"])
    reference = await run_main(blob)
    out = bytearray()
    linker = vm.Linker()
    vm.Stdio(stdout=out).link(linker)
    async with (
        vm.Engine(vm.Config(backend="interpreter")) as engine,
        await linker.instantiate(await engine.compile(blob)) as instance,
    ):
        assert await instance.call("main") == 0
    assert out.decode() == reference.stdout


async def test_memory_runs_out_without_harm(build: Build) -> None:
    blob = build(
        """
        #include <errno.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>

        struct link { struct link *next; char room[1 << 20]; };

        int main(void) {
            struct link *all = NULL;
            int count = 0;
            errno = 0;
            for (struct link *one; (one = malloc(sizeof *one)); count++) {
                one->next = all;
                one->room[sizeof one->room - 1] = 1;
                all = one;
            }
            printf("%d %d %d\\n", count > 3000, malloc(1 << 20) == NULL, errno == ENOMEM);
            printf("%d %d %d\\n", malloc(-1) == NULL, calloc(1u << 31, 1ul << 33) == NULL, realloc(all, -1) == NULL);
            while (all) {
                struct link *next = all->next;
                free(all);
                all = next;
            }
            char *again = malloc(1 << 30); /* what was freed is one block again */
            printf("%d\\n", again != NULL);
            memset(again, 1, 1 << 20);
            free(again);
            return 0;
        }
        """,
        flags=["-fno-builtin", "-w"],
    )
    assert (await run_main(blob)).stdout == "1 1 1\n1 1 1\n1\n"


async def test_the_allocator_keeps_blocks_apart(build: Build) -> None:
    """Random sizes, alignments and reallocations; each block holds its own pattern to the end."""
    blob = build("""
        #include <stdint.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <pvm.h>

        static struct { unsigned char *at; size_t size; unsigned char fill; } blocks[400];
        static uint32_t state = 1;
        static uint32_t next(void) { return (state = state * 1664525u + 1013904223u) >> 8; }

        int main(void) {
            long live = 0;
            for (int round = 0; round < 60000; round++) {
                unsigned i = next() % 400;
                size_t size = next() % (next() % 8 ? 200 : 20000);
                for (size_t k = 0; k < blocks[i].size; k += blocks[i].size > 64 ? 61 : 1)
                    if (blocks[i].at[k] != blocks[i].fill)
                        return 1;
                switch (next() % 4) {
                case 0:
                    free(blocks[i].at);
                    blocks[i].at = NULL;
                    blocks[i].size = 0;
                    continue;
                case 1:
                    blocks[i].at = realloc(blocks[i].at, size);
                    for (size_t k = 0; k < size && k < blocks[i].size; k += 13)
                        if (blocks[i].at[k] != blocks[i].fill)
                            return 2;
                    break;
                case 2: {
                    size_t alignment = (size_t)16 << next() % 9;
                    free(blocks[i].at);
                    blocks[i].at = aligned_alloc(alignment, size);
                    if ((uintptr_t)blocks[i].at % alignment)
                        return 3;
                    break;
                }
                default:
                    free(blocks[i].at);
                    blocks[i].at = calloc(size, 1);
                    for (size_t k = 0; k < size; k++)
                        if (blocks[i].at[k])
                            return 4;
                }
                if (!blocks[i].at || (uintptr_t)blocks[i].at % 16)
                    return 5;
                blocks[i].size = size;
                blocks[i].fill = (unsigned char)next();
                memset(blocks[i].at, blocks[i].fill, size);
                if (round % 5000 == 0 && !pvm_sbrk(100)) /* somebody else takes memory, too */
                    return 6;
            }
            for (int i = 0; i < 400; i++)
                live += (long)blocks[i].size;
            char *end = pvm_sbrk(0), *base = pvm_heap_base();
            for (int i = 0; i < 400; i++)
                free(blocks[i].at);
            printf("%d\\n", end - base < 4 * live + (1 << 20)); /* it does not fray */
            return 0;
        }
        """)
    got = await run_main(blob)
    assert (got.status, got.stdout) == (0, "1\n")


@pytest.mark.parametrize(
    ("mistake", "text"),
    [
        ("free(p); free(p);", "free or realloc of memory"),
        ("free(p + 16);", "free or realloc of memory"),
        ("free(p); p = realloc(p, 100);", "free or realloc of memory"),
        ('pvm_panic("the guest\'s own words");', "the guest's own words"),
        ("assert(!p);", "Assertion failed: !p"),
        ("abort();", ""),
    ],
)
async def test_a_panic_says_why_and_traps(build: Build, mistake: str, text: str) -> None:
    blob = build(
        f"""
        #include <assert.h>
        #include <pvm.h>
        #include <stdio.h>
        #include <stdlib.h>
        int main(void) {{
            puts("what writes can say why it panics");
            char *volatile keep = malloc(100), *p = keep;
            char *volatile other = malloc(100);
            (void)other;
            {mistake}
            return p != 0;
        }}
        """,
        flags=["-w", "-fno-builtin"],
    )
    got = await run_main(blob, expect_trap=True)
    assert got.status == -1
    assert text in got.stderr


async def test_exit_ends_main_from_anywhere_and_flushes(build: Build) -> None:
    blob = build("""
        #include <stdio.h>
        #include <stdlib.h>
        #include <unistd.h>
        static void last(void) { printf(" last"); }
        static void deep(int n) { if (n) deep(n - 1); else exit(41); printf("not reached"); }
        int main(int argc, char **argv) {
            atexit(last);
            printf("%d %s", argc, argv[argc - 1]);
            if (argc == 3)
                _exit(5);
            deep(20);
        }
        """)
    got = await run_main(blob, args=["program", "one"])
    assert (got.status, got.stdout) == (41, "2 one last")
    got = await run_main(blob, args=["program", "one", "two"])
    assert (got.status, got.stdout) == (5, "")


async def test_main_without_arguments_and_without_streams(build: Build) -> None:
    blob = build("""
        #include <stdio.h>
        int main(int argc, char **argv) {
            printf("lost\\n");
            return argc * 100 + (argv[argc] == NULL) * 10 + (ferror(stdout) != 0) * 2;
        }
        """)
    got = await run_main(blob, args=[], stdout=None, stderr=None)
    assert got.status == 12


async def test_files_through_the_libc(build: Build, tmp_path: Path) -> None:
    blob = build("""
        #include <errno.h>
        #include <stdio.h>
        #include <string.h>
        #include <sys/stat.h>
        #include <unistd.h>

        int main(void) {
            char line[64];
            struct stat status;
            FILE *file = fopen("data/new.txt", "w+");
            fprintf(file, "line %d\\n", 1);
            for (int i = 0; i < 5000; i++)
                fputc('x', file);
            printf("%ld\\n", ftell(file));
            rewind(file);
            printf("%s", fgets(line, sizeof line, file));
            fseek(file, -3, SEEK_END);
            printf("%zu %d\\n", fread(line, 1, sizeof line, file), feof(file) != 0);
            printf("%d\\n", fclose(file));
            printf("%d %ld %d\\n", stat("data/new.txt", &status), (long)status.st_size, S_ISREG(status.st_mode));
            printf("%d\\n", rename("data/new.txt", "/data/other.txt"));
            file = fopen("data/other.txt", "a");
            fputs("end", file);
            file = freopen("data/other.txt", "r", file);
            fseek(file, -4, SEEK_END);
            printf("%s\\n", fgets(line, sizeof line, file));
            fclose(file);
            printf("%d %s\\n", fopen("data/none", "r") == NULL, strerror(errno));
            printf("%d %s\\n", fopen("/etc/passwd", "r") == NULL, strerror(errno));
            printf("%d %s\\n", fopen("read/x", "w") == NULL, strerror(errno));
            printf("%d %d\\n", mkdir("data/made", 0777), rmdir("data/made"));
            printf("%d %d\\n", remove("data/other.txt"), access("data/other.txt", F_OK));
            printf("%d %d\\n", isatty(1), fileno(stderr));
            printf("%d\\n", tmpfile() == NULL);
            return 0;
        }
        """)
    got = await run_main(blob, directories={"data": (tmp_path, "rw"), "read": (tmp_path, "r")})
    assert got.stdout.splitlines() == [
        "5007",
        "line 1",
        "3 1",
        "0",
        "0 5007 1",
        "0",
        "xend",
        "1 No such file or directory",
        "1 No such file or directory",
        "1 Read-only file system",
        "0 0",
        "0 -1",
        "1 2",
        "1",
    ]


async def test_time_random_and_environment_are_granted_one_by_one(build: Build) -> None:
    blob = build("""
        #include <stdio.h>
        #include <stdlib.h>
        #include <time.h>
        #include <unistd.h>
        int main(void) {
            unsigned char bytes[8] = {0};
            struct timespec now;
            char *name = getenv("NAME");
            printf("%s ", name ? name : "none");
            printf("%d ", getenv("NAM") != NULL);
            printf("%d %d ", clock_gettime(CLOCK_REALTIME, &now), clock() == (clock_t)-1);
            printf("%d\\n", getentropy(bytes, sizeof bytes));
            return 0;
        }
        """)
    assert (await run_main(blob)).stdout == "none 0 -1 1 -1\n"
    granted = await run_main(blob, env={"NAME": "value=1"}, clock=True, random=True)
    assert granted.stdout == "value=1 0 0 0 0\n"
