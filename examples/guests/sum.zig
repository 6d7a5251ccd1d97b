// SPDX-License-Identifier: MIT
//! A guest in Zig: sums numbers that the host writes into its memory, and asks the host for one more.
//!
//!     pvm build sum.zig -o sum.polkavm
//!     pvm run sum.polkavm triangle 10 --import one_more=7
const pvm = @import("pvm");

pub const panic = pvm.panic;

extern fn one_more() u32;

export fn triangle(n: u32) u32 {
    var sum: u32 = one_more();
    for (0..n + 1) |i| sum += @intCast(i);
    return sum;
}

comptime {
    asm (pvm.importFunction("one_more", fn () callconv(.c) u32));
    asm (pvm.exportFunction("triangle", triangle));
}
