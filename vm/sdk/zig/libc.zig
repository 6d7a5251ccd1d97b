// SPDX-License-Identifier: MIT
//! In place of the root of Zig's own libc (lib/c.zig), whose other files import this one as "../c.zig" for these
//! names. The imports of those that are wanted are written behind it when it is compiled.

pub const panic = @import("std").debug.no_panic;

pub inline fn symbol(comptime func: *const anyopaque, comptime name: []const u8) void {
    @export(func, .{ .name = name, .linkage = .weak, .visibility = .hidden });
}

/// There are no system calls.
pub fn errno(_: usize) c_int {
    return -1;
}
