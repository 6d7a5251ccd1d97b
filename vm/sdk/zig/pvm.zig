// SPDX-License-Identifier: MIT
//! What a guest in Zig tells its host: `const pvm = @import("pvm");`, and what vm/sdk/include/pvm.h is in C.
//!
//!     comptime { asm (pvm.exportFunction("add", add)); }   // pub export fn add(a: u32, b: u32) u32
//!     comptime { asm (pvm.importFunction("get", fn () callconv(.c) u32)); }
//!     extern fn get() u32;
//!     comptime { asm (pvm.describe(Point)); }              // const Point = extern struct { x: i32, y: i32 };

const std = @import("std");

const pointer = if (@sizeOf(usize) == 8) ".8byte " else ".4byte ";

/// Assembly that exports the C function `function`, which is `export`ed under the same name.
pub fn exportFunction(comptime name: []const u8, comptime function: anytype) []const u8 {
    return std.fmt.comptimePrint(
        \\.pushsection .text.pvm__export_{[name]s},"ax",@progbits
        \\.weak __pvm_constructors
        \\pvm__export_{[name]s}:
        \\lui t0, %hi(__pvm_constructors)
        \\addi t0, t0, %lo(__pvm_constructors)
        \\beqz t0, 3f
        \\jalr t1, t0
        \\3: tail {[name]s}
        \\.popsection
        \\{[metadata]s}
        \\.pushsection .polkavm_exports,"R",@note
        \\.byte 1
        \\{[pointer]s}1b
        \\{[pointer]s}pvm__export_{[name]s}
        \\.popsection
    , .{ .name = name, .pointer = pointer, .metadata = metadata("export", name, @TypeOf(function)) });
}

/// Assembly that defines the import `name` as a function of the type `Function`, to be declared `extern fn`.
pub fn importFunction(comptime name: []const u8, comptime Function: type) []const u8 {
    return std.fmt.comptimePrint(
        \\{[metadata]s}
        \\.pushsection .text.{[name]s},"ax",@progbits
        \\.weak {[name]s}
        \\.hidden {[name]s}
        \\.type {[name]s}, @function
        \\{[name]s}:
        \\.4byte 0x0000000b
        \\{[pointer]s}1b
        \\ret
        \\.popsection
    , .{ .name = name, .pointer = pointer, .metadata = metadata("import", name, Function) });
}

/// The metadata record, under label 1, and the text of the signature: see pvm.h.
fn metadata(comptime kind: []const u8, comptime name: []const u8, comptime Function: type) []const u8 {
    const signature = @typeInfo(Function).@"fn";
    comptime var inputs = 0;
    comptime var letters: []const u8 = "";
    inline for (signature.param_types) |parameter| {
        inputs += registers(parameter.?);
        letters = letters ++ spelling(parameter.?);
    }
    const Result = signature.return_type.?;
    if (inputs > 6) @compileError("the arguments of " ++ name ++ " take more than 6 registers");
    if (registers(Result) > 2) @compileError("the result of " ++ name ++ " takes more than 2 registers");
    return std.fmt.comptimePrint(
        \\.pushsection .polkavm_metadata,"a",@progbits
        \\1: .byte 1
        \\.4byte 0
        \\.4byte {[length]d}
        \\{[pointer]s}2f
        \\.byte {[inputs]d}
        \\.byte {[outputs]d}
        \\2: .ascii "{[name]s}"
        \\.popsection
        \\.pushsection .pvm_signatures,"",@progbits
        \\.ascii "{[kind]s} {[name]s}({[letters]s}){[result]s}\n"
        \\.popsection
    , .{
        .length = name.len,
        .pointer = pointer,
        .inputs = inputs,
        .outputs = registers(Result),
        .name = name,
        .kind = kind,
        .letters = letters,
        .result = spelling(Result),
    });
}

/// Assembly that describes an `extern struct`, for `pvm bindings`: PVM_STRUCT.
pub fn describe(comptime Struct: type) []const u8 {
    const info = @typeInfo(Struct).@"struct";
    if (info.layout != .@"extern" or std.mem.indexOfAny(u8, @typeName(Struct), "\"\\") != null)
        @compileError(@typeName(Struct) ++ " is no extern struct with a plain name");
    const head = .{ @typeName(Struct), @sizeOf(Struct) };
    comptime var text: []const u8 = std.fmt.comptimePrint("struct \\\"{s}\\\" {d}", head);
    inline for (info.field_names, info.field_types) |name, Field| {
        const array = @typeInfo(Field) == .array;
        const Element = if (array) @typeInfo(Field).array.child else Field;
        const count = if (array) std.fmt.comptimePrint("*{d}", .{@typeInfo(Field).array.len}) else "";
        const offset = @offsetOf(Struct, name);
        text = text ++ std.fmt.comptimePrint(" {c}{s}@{d}:{s}", .{ letter(Element), count, offset, name });
    }
    return std.fmt.comptimePrint(
        \\.pushsection .pvm_signatures,"",@progbits
        \\.ascii "{s}\n"
        \\.popsection
    , .{text});
}

/// The letter, and behind that of a pointer to a structure its type as in C, within an assembler's string.
fn spelling(comptime T: type) []const u8 {
    const one = .{letter(T)};
    const P = if (@typeInfo(T) == .optional) @typeInfo(T).optional.child else T;
    if (@typeInfo(P) != .pointer) return &one;
    const Child = @typeInfo(P).pointer.child;
    // names of generic types can have quotes in them
    if (@typeInfo(Child) != .@"struct" or std.mem.indexOfAny(u8, @typeName(Child), "\"\\") != null) return &one;
    return one ++ "\\\"" ++ @typeName(Child) ++ " *\\\"";
}

fn registers(comptime T: type) comptime_int {
    return if (T == void or T == noreturn) 0 else (@sizeOf(T) + @sizeOf(usize) - 1) / @sizeOf(usize);
}

fn letter(comptime T: type) u8 {
    if (T == void or T == noreturn) return 'v';
    if (T == bool) return '?';
    return switch (@typeInfo(T)) {
        .pointer, .optional => 'P',
        .@"enum" => |info| letter(info.tag_type),
        .float => |info| if (info.bits == 32) 'f' else if (info.bits == 64) 'd' else @compileError(refusal(T)),
        .int => |info| {
            const signed = info.signedness == .signed;
            return switch (info.bits) {
                8 => if (signed) 'b' else 'B',
                16 => if (signed) 'h' else 'H',
                32 => if (signed) 'i' else 'I',
                64 => if (signed) 'q' else 'Q',
                else => @compileError(refusal(T)),
            };
        },
        else => @compileError(refusal(T)),
    };
}

fn refusal(comptime T: type) []const u8 {
    return @typeName(T) ++ " is no type that can cross between guest and host";
}

extern fn pvm_panic(text: [*:0]const u8) noreturn;

/// For `pub const panic = pvm.panic;` at a program's root: the message goes to standard error, and the call traps.
pub const panic = std.debug.FullPanic(struct {
    fn panic(message: []const u8, _: ?usize) noreturn {
        var text: [256]u8 = undefined;
        const length = @min(message.len, text.len - 1);
        @memcpy(text[0..length], message[0..length]);
        text[length] = 0;
        pvm_panic(text[0..length :0]);
    }
}.panic);
