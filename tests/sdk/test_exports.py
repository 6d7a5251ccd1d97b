# SPDX-License-Identifier: MIT
"""pvm.h: what guests export and import, and what is recorded of it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from sdk_guests import Build

import vm
from vm import toolchain
from vm.signatures import Field, Signature, Signatures, Structure, Type

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "guests"

#: Types, what C calls them, and values that show extension and sign.
TYPES = """
#include <pvm.h>
#ifdef __cplusplus
#define LINKAGE extern "C"
enum color : unsigned char { RED, GREEN = 200 };
#else
#define LINKAGE
#define bool _Bool
enum color { RED, GREEN = 200 };
#endif
#define ONE(name, T) \\
    PVM_EXPORT(T, name, T); \\
    PVM_IMPORT(T, host_##name, T); \\
    T name(T x) { return host_##name(x); }
ONE(u8, uint8_t)
ONE(i8, int8_t)
ONE(u16, uint16_t)
ONE(i16, int16_t)
ONE(u32, uint32_t)
ONE(i32, int32_t)
ONE(u64, uint64_t)
ONE(i64, int64_t)
ONE(pointer, const char *)
ONE(boolean, bool)
ONE(f32, float)
ONE(f64, double)
ONE(colors, enum color)
PVM_EXPORT(void, nothing);
PVM_IMPORT(void, host_nothing);
void nothing(void) { host_nothing(); }
PVM_EXPORT(int64_t, six, int8_t, uint16_t, const int, const void *const, uint8_t, int32_t);
PVM_IMPORT(int32_t, host_six, int, int, int, int, int, int);
int64_t six(int8_t a, uint16_t b, const int c, const void *const d, uint8_t e, int32_t f) {
    int32_t (*function)(int, int, int, int, int, int) = host_six;
    return function(a, b, c, (int)(intptr_t)d, e, f);
}
"""


def echo(caller: vm.Caller, value: int) -> int:
    return value


async def instance_of(engine: vm.Engine, blob: vm.ProgramBlob, **functions: Any) -> vm.Instance:
    linker = vm.Linker()
    for name, function in functions.items():
        linker.define(name, function)
    return await linker.instantiate(await engine.compile(blob))


@pytest.mark.parametrize("suffix", [".c", ".cpp"])
async def test_every_type_crosses(engine: vm.Engine, build: Build, suffix: str, isa: vm.InstructionSet) -> None:
    blob = build(TYPES, suffix, isa=isa)
    wide = isa.word_bits == 64
    seen: list[tuple[int, ...]] = []

    def host_six(caller: vm.Caller, a: vm.i32, b: vm.i32, c: vm.i32, d: vm.i32, e: vm.i32, f: vm.i32) -> vm.i32:
        seen.append((a, b, c, d, e, f))
        return -7

    def long(caller: vm.Caller, value: vm.u64) -> vm.u64:
        return value

    def double(caller: vm.Caller, value: vm.u64) -> vm.u64:
        return struct.unpack("<Q", struct.pack("<d", struct.unpack("<d", struct.pack("<Q", value))[0] / 2))[0]

    functions: dict[str, Any] = dict.fromkeys((name for name in blob.import_names if name is not None), echo)
    functions |= {"host_six": host_six, "host_u64": long, "host_i64": long, "host_f64": double}
    functions["host_nothing"] = lambda caller: None
    async with await instance_of(engine, blob, **functions) as instance:
        for name, value, returns in [
            ("u8", 200, int),
            ("u16", 60000, int),
            ("u32", 0xFFFF_FFF0, vm.u32),
            ("i8", -3, vm.i32),
            ("i16", -300, vm.i32),
            ("i32", -70000, vm.i32),
            ("pointer", 0x1234, int),
            ("boolean", 1, int),
            ("f32", 0x3FC0_0000, vm.u32),
            ("colors", 200, int),
        ]:
            assert await instance.call(name, value, returns=returns) == value, name
        half, one = struct.unpack("<QQ", struct.pack("<dd", 0.75, 1.5))
        for name, value, result in [("u64", 1 << 63, 1 << 63), ("i64", 0x8000_0000, 0x8000_0000), ("f64", one, half)]:
            words = [value] if wide else [value & 0xFFFF_FFFF, value >> 32]
            assert await instance.call(name, *words, returns=vm.u64) == result, name
        assert await instance.call("six", -1, 65535, -5, 77, 255, -9, returns=vm.i64) == -7
        assert seen == [(-1, 65535, -5, 77, 255, -9)]
        await instance.call("nothing")


SIGNATURES = {
    "u8": "(B)B",
    "i8": "(b)b",
    "u16": "(H)H",
    "i16": "(h)h",
    "u32": "(I)I",
    "i32": "(i)i",
    "u64": "(Q)Q",
    "i64": "(q)q",
    "pointer": '(P"const char *")P"const char *"',
    "boolean": "(?)?",
    "f32": "(f)f",
    "f64": "(d)d",
    "nothing": "()v",
}


@pytest.mark.parametrize("suffix", [".c", ".cpp"])
def test_signatures_are_recorded(compiler: None, tmp_path: Path, suffix: str) -> None:
    from vm.toolchain._compiler import find_compiler, run, target_of
    from vm.toolchain._libc import code_flags, library
    from vm.toolchain._sections import Image

    found, target = find_compiler("zig"), target_of(vm.InstructionSet.LATEST64)
    (tmp_path / f"types{suffix}").write_text(TYPES)
    flags = [*code_flags(target), *library(found, target).flags]
    run([*found.clang, "-c", *flags, str(tmp_path / f"types{suffix}"), "-o", str(tmp_path / "types.o")])
    image = Image((tmp_path / "types.o").read_bytes())
    (section,) = image.sections_named(".pvm_signatures")
    records = bytes(section.data).decode().splitlines()
    expected = {f"export {name}{types}" for name, types in SIGNATURES.items()}
    expected |= {f"import host_{name}{types}" for name, types in SIGNATURES.items()}
    expected |= {'export six(bHiP"const void *const"Bi)q', "import host_six(iiiiii)i"}
    colors = "B" if suffix == ".cpp" else "I"
    assert set(records) == expected | {f"export colors({colors}){colors}", f"import host_colors({colors}){colors}"}
    assert not section.flags & 2  # SHF_ALLOC: no guest has it in its memory


STRUCTURES = """
#include <pvm.h>
#ifdef __cplusplus
namespace inner { struct deep { int16_t x; }; }
PVM_STRUCT(inner::deep, x);
#else
#define bool _Bool
#endif
struct node {
    struct node *next;
    char name[16];
    const volatile int32_t x;
    uint16_t y[1];
    double d;
    bool flag;
};
typedef struct { uint64_t u; float f[3]; } plain;
PVM_STRUCT(struct node, next, name, x, y, d, flag);
PVM_STRUCT(plain, f, u);
PVM_IMPORT(void, unused, const struct node *);
PVM_EXPORT(struct node *, first, const plain *const, struct node **, void *, const struct node *);
struct node *first(const plain *const a, struct node **b, void *c, const struct node *d) { return 0; }
"""


@pytest.mark.parametrize("suffix", [".c", ".cpp"])
@pytest.mark.parametrize("opt_level", ["0", "2"])
def test_structures_are_described(build: Build, suffix: str, isa: vm.InstructionSet, opt_level: str) -> None:
    blob = build(STRUCTURES, suffix, isa=isa, opt_level=opt_level, flags=("-Wall", "-Wextra", "-Wno-unused-parameter"))
    found = Signatures.of(blob)
    wide = isa.word_bits == 64
    head = [("next", "P", 0, None), ("name", "B", 8 if wide else 4, 16), ("x", "i", 24 if wide else 20, None)]
    tail = [("y", "H", 28, 1), ("d", "d", 32, None), ("flag", "?", 40, None)]
    tail = tail if wide else [("y", "H", 24, 1), ("d", "d", 32, None), ("flag", "?", 40, None)]
    expected = {
        "node": Structure(48, tuple(Field(*field) for field in head + tail)),
        "plain": Structure(24, (Field("f", "f", 8, 3), Field("u", "Q", 0, None))),
    }
    if suffix == ".cpp":
        expected["inner::deep"] = Structure(2, (Field("x", "h", 0, None),))
    assert found.structures == expected
    node = Type("P", "node")
    assert found.exports == {b"first": Signature((Type("P", "plain"), Type("P"), Type("P"), node), node)}
    assert found.imports == {}, "it is not called"


@pytest.mark.parametrize(
    "text",
    [
        "struct s { struct { int b; } a; }; PVM_STRUCT(struct s, a);",
        "struct s { int a[2][2]; }; PVM_STRUCT(struct s, a);",
        "struct s { int a : 3; }; PVM_STRUCT(struct s, a);",
        "struct s { int a; }; PVM_STRUCT(struct s, b);",
        "struct s; PVM_STRUCT(struct s, a);",
    ],
)
@pytest.mark.parametrize("suffix", [".c", ".cpp"])
def test_what_cannot_be_described_does_not_compile(build: Build, cxx_compiler: None, text: str, suffix: str) -> None:
    with pytest.raises(toolchain.BuildError, match="error:"):
        build(f"#include <pvm.h>\n{text}\n", suffix, flags=())


def test_types_of_two_files_must_agree(build: Build, tmp_path: Path) -> None:
    head = "#include <pvm.h>\n"
    (tmp_path / "other.c").write_text(f"{head}PVM_IMPORT(int, get, int);\nint other(void) {{ return get(1); }}\n")
    main = "int other(void);\nPVM_EXPORT(int, f);\nint f(void) { return (int)get(1) + other(); }\n"
    with pytest.raises(toolchain.ElfError, match=r"import get is declared with different types: .* \.pvm_signatures"):
        build(f"{head}PVM_IMPORT(unsigned, get, int);\n{main}", ".c", tmp_path / "other.c")
    assert build(f"{head}PVM_IMPORT(int, get, int);\n{main}", ".c", tmp_path / "other.c").import_names == ("get",)


async def test_zig_describes_structures(engine: vm.Engine, compiler: None, tmp_path: Path) -> None:
    source = tmp_path / "main.zig"
    source.write_text(
        """
        const pvm = @import("pvm");
        pub const panic = pvm.panic;
        const Point = extern struct { x: i32, y: i64, name: [8]u8, next: ?*Point };
        fn Named(comptime name: []const u8) type {
            return extern struct { size: [name.len]u8 };
        }
        export fn other(a: *Named("a \\"name\\"")) void {
            a.size[0] = 0;
        }
        export fn first(a: ?*const Point, b: [*]const u8, c: *u32) ?*Point {
            return if (b[0] == 0 and c.* == 0) a.?.next else null;
        }
        comptime {
            asm (pvm.describe(Point));
            asm (pvm.exportFunction("first", first));
            asm (pvm.exportFunction("other", other));
        }
        """
    )
    found = Signatures.of(toolchain.build([source]))
    ((name, point),) = found.structures.items()
    assert name == "main.Point"
    fields = (
        Field("x", "i", 0, None),
        Field("y", "q", 8, None),
        Field("name", "B", 16, 8),
        Field("next", "P", 24, None),
    )
    assert point == Structure(32, fields)
    pointer = Type("P", name)
    assert found.exports == {
        b"first": Signature((pointer, Type("P"), Type("P")), pointer),
        b"other": Signature((Type("P"),), Type("v")),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("struct s { int a, b; }; PVM_EXPORT(void, f, struct s);", "struct s|no type that can cross"),
        ("PVM_EXPORT(__int128, f);", "no type that can cross|specialization"),
        ("PVM_EXPORT(void, f, int, int, int, int, int, int, int);", "PVM__|too many"),
    ],
)
def test_what_cannot_cross_does_not_compile(build: Build, text: str, message: str) -> None:
    with pytest.raises(toolchain.BuildError, match=message):
        build(f"#include <pvm.h>\n{text}\n", flags=())


def test_a_64_bit_argument_takes_two_registers_of_a_32_bit_guest(build: Build) -> None:
    text = "#include <pvm.h>\nPVM_IMPORT(void, f, uint64_t, uint64_t, uint64_t, uint32_t);\n"
    with pytest.raises(toolchain.BuildError, match="more than 6 registers"):
        build(text, isa=vm.InstructionSet.LATEST32)


def test_a_program_imports_what_it_reaches(cxx_compiler: None, build: Build) -> None:
    header = "#include <pvm.h>\n#include <pvm_host.h>\n#include <stdlib.h>\n#include <string.h>\n"
    add = "PVM_EXPORT(uint32_t, add, uint32_t, uint32_t);\nuint32_t add(uint32_t a, uint32_t b) { return a + b; }\n"
    blob = build(header + add)
    assert blob.import_names == ()
    assert len(blob.to_bytes()) < 120
    clock = "PVM_EXPORT(int64_t, now);\nint64_t now(void) { return pvm_clock_ns(0); }\n"
    assert build(header + add + clock).import_names == ("pvm_clock_ns",)
    sort = """
        static int order(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }
        PVM_EXPORT(void, sort, int *, uint32_t);
        void sort(int *values, uint32_t count) { qsort(values, count, sizeof *values, order); }
        PVM_EXPORT(void *, take, void *, uint32_t);
        void *take(void *old, uint32_t size) { free(old); return malloc(size); }
        """
    assert build(header + sort).import_names == ()
    assert build("#include <pvm.h>\nPVM_EXPORT(int *, f);\nint *f() { return new int; }\n", ".cpp").import_names == ()


def test_the_same_header_in_several_files_is_one_import(build: Build, tmp_path: Path) -> None:
    header = "#include <pvm.h>\nPVM_IMPORT(uint32_t, get);\n"
    (tmp_path / "other.c").write_text(header + "uint32_t other(void) { return get(); }\n")
    blob = build(
        header + "uint32_t other(void);\nPVM_EXPORT(uint32_t, f);\nuint32_t f(void) { return get() + other(); }\n",
        ".c",
        tmp_path / "other.c",
    )
    assert blob.import_names == ("get",)


@pytest.mark.parametrize("suffix", [".c", ".cpp"])
async def test_constructors_run_once_before_the_first_export(
    engine: vm.Engine, cxx_compiler: None, build: Build, suffix: str
) -> None:
    blob = build(
        """
        #include <pvm.h>
        PVM_IMPORT(uint32_t, tick);
        static uint32_t made;
        #ifdef __cplusplus
        struct Maker { Maker() { made = tick() * 10; } };
        static Maker maker;
        #else
        __attribute__((constructor)) static void make(void) { made = tick() * 10; }
        #endif
        PVM_EXPORT(uint32_t, f, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t);
        uint32_t f(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t e, uint32_t g) {
            return made + a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * g;
        }
        """,
        suffix,
    )
    ticks: list[int] = []

    def tick(caller: vm.Caller) -> vm.u32:
        ticks.append(1)
        return 7

    async with await instance_of(engine, blob, tick=tick) as instance:
        assert await instance.call("f", 1, 2, 3, 4, 5, 6) == 70 + 91
        assert await instance.call("f", 0, 0, 0, 0, 0, 1) == 70 + 6
    assert len(ticks) == 1


async def test_zig_exports_and_imports(engine: vm.Engine, compiler: None) -> None:
    blob = toolchain.build([EXAMPLES / "sum.zig"])
    assert blob.import_names == ("one_more",)
    async with await instance_of(engine, blob, one_more=lambda caller: 7) as instance:
        assert await instance.call("triangle", 10) == 62


async def test_zig_and_c_in_one_program(engine: vm.Engine, build: Build, tmp_path: Path) -> None:
    (tmp_path / "part.c").write_text("#include <string.h>\nsize_t length_of(const char *s) { return strlen(s); }\n")
    blob = build(
        """
        const pvm = @import("pvm");
        pub const panic = pvm.panic;
        extern fn length_of(text: [*:0]const u8) usize;
        export fn f(x: i8, y: u64) bool {
            return length_of("four") == y and x == -1;
        }
        export fn fail(index: u32) u32 {
            const numbers = [_]u32{ 1, 2, 3 };
            return numbers[index];
        }
        comptime {
            asm (pvm.exportFunction("f", f));
            asm (pvm.exportFunction("fail", fail));
        }
        """,
        ".zig",
        tmp_path / "part.c",
        opt_level="1",
    )
    err = bytearray()
    linker = vm.Linker()
    vm.Stdio(stderr=err).link(linker)
    async with await linker.instantiate(await engine.compile(blob)) as instance:
        assert await instance.call("f", -1, 4) == 1
        assert await instance.call("f", -1, 5) == 0
        assert await instance.call("fail", 2) == 3
        with pytest.raises(vm.TrapError):
            await instance.call("fail", 3)
    assert b"panic: index out of bounds: index 3, len 3" in bytes(err)


async def test_the_c_plus_plus_example(engine: vm.Engine, cxx_compiler: None) -> None:
    blob = toolchain.build([EXAMPLES / "words.cpp"])
    seen: list[tuple[bytes, int]] = []

    def report(caller: vm.Caller, text: int, length: vm.u32, count: vm.u32) -> None:
        seen.append((caller.memory.read(text, length), count))

    async with await instance_of(engine, blob, report=report) as instance:
        assert await instance.call("demo") == 3
    assert seen == [(b"the", 3), (b"fox", 2), (b"and", 1)]
