# SPDX-License-Identifier: MIT
"""Writes opcodes.h from vm/isa.py, so that the opcode table is declared once.

usage: gen_opcodes.py ISA_PY OUTPUT
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def main() -> None:
    source, output = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("isa", source)
    assert spec is not None
    assert spec.loader is not None
    isa = importlib.util.module_from_spec(spec)
    sys.modules["isa"] = isa  # dataclasses look their module up
    spec.loader.exec_module(isa)

    lines = [
        "/* SPDX-License-Identifier: MIT */",
        "/* Generated from vm/isa.py by native/pvm/gen_opcodes.py; do not edit. */",
        "#ifndef PVM_OPCODES_H",
        "#define PVM_OPCODES_H",
        "",
        "#include <stdbool.h>",
        "#include <stdint.h>",
        "",
    ]
    lines += [f"#define PVM_MAX_SKIP {isa.MAX_SKIP}u"]
    lines += [f"#define PVM_REGISTER_COUNT {len(isa.REGISTERS)}u"]
    lines += [f"#define PVM_CODE_ADDRESS_ALIGNMENT {isa.CODE_ADDRESS_ALIGNMENT}u"]
    lines += [f"#define PVM_RETURN_TO_HOST {isa.RETURN_TO_HOST:#x}u"]
    lines += ["", "enum pvm_isa {"]
    lines += [f"    PVM_ISA_{s.name} = {s.value}," for s in isa.InstructionSet]
    lines += ["    /* revive_v1 with opcode 101 as sbrk, as tools of old emitted it (specification, section 6) */"]
    lines += ["    PVM_ISA_REVIVE_V1_SBRK,"]
    lines += ["    PVM_ISA_COUNT", "};", "", "enum pvm_register {"]
    lines += [f"    PVM_REG_{name.upper()}," for name in isa.REGISTERS]
    lines += ["};", "", "enum pvm_format {"]
    lines += [f"    PVM_FORMAT_{f.name} = {f.value}," for f in isa.Format]
    lines += ["};", "", "enum pvm_op {", "    PVM_OP_invalid = 0,"]
    lines += [f"    PVM_OP_{o.name}," for o in isa.OPCODES]
    lines += ["    PVM_OP_COUNT", "};", ""]
    lines += ["/* indexed by enum pvm_isa, then by the opcode byte */"]
    lines += ["static const uint8_t pvm_op_of_byte[PVM_ISA_COUNT][256] = {"]
    tables = {s.name: isa.OPCODE_BY_NUMBER[s] for s in isa.InstructionSet}
    sbrk = isa.OPCODE_BY_NAME["sbrk"]
    legacy = {sbrk.numbers[isa.InstructionSet.LATEST64]: sbrk}
    tables["REVIVE_V1_SBRK"] = tables["REVIVE_V1"] | legacy
    for name, table in tables.items():
        lines += [f"    [PVM_ISA_{name}] = {{"]
        lines += [f"        [{byte}] = PVM_OP_{table[byte].name}," for byte in sorted(table)]
        lines += ["    },"]
    lines += ["};", "", "/* indexed by enum pvm_op */"]
    lines += ["static const uint8_t pvm_format_of_op[PVM_OP_COUNT] = {"]
    lines += [f"    [PVM_OP_{o.name}] = PVM_FORMAT_{o.format.name}," for o in isa.OPCODES]
    lines += ["};", "", "/* indexed by enum pvm_op; an invalid opcode ends its block too */"]
    lines += ["static const bool pvm_op_ends_block[PVM_OP_COUNT] = {", "    [PVM_OP_invalid] = true,"]
    lines += [f"    [PVM_OP_{o.name}] = true," for o in isa.OPCODES if o.ends_block]
    lines += ["};", "", "#endif", ""]
    Path(output).write_text("\n".join(lines))


main()
