# SPDX-License-Identifier: MIT
"""The passes in their order; see `vm.toolchain.link`."""

from __future__ import annotations

from collections.abc import Sequence

from vm._errors import ProgramParseError
from vm._printable import shorten
from vm.isa import InstructionSet
from vm.program import ProgramBlob
from vm.toolchain._data import Data
from vm.toolchain._debug_lines import DebugSections, Sources, write_debug_sections
from vm.toolchain._emission import emit, find_unsupported
from vm.toolchain._errors import ElfError
from vm.toolchain._ir import Block, Positions
from vm.toolchain._jump_table import JumpTable
from vm.toolchain._layout import Layout
from vm.toolchain._lowering import Lowering, needs_scratch
from vm.toolchain._metadata import MetadataReader
from vm.toolchain._optimize import optimize_blocks
from vm.toolchain._reachability import Reachable
from vm.toolchain._relocations import Relocations
from vm.toolchain._sections import Image
from vm.toolchain._signatures import read_signatures
from vm.toolchain._spills import assign_scratch_registers


def link_image(
    elf: bytes,
    *,
    isa: InstructionSet | None,
    optimize: bool,
    strip: bool,
    min_stack_size: int,
    entry_points: Sequence[str] = (),
    dispatch_table: Sequence[bytes] = (),
) -> ProgramBlob:
    image = Image(elf)
    sources = Sources(image)
    image.find_source = sources.line_at
    isa = _choose_isa(image, isa)
    relocations = Relocations(image)
    metadata = MetadataReader(image, relocations)
    exports = metadata.exports(entry_points)
    if not exports:
        raise ElfError("the ELF file exports nothing", hint="export at least one function, and do not strip it")
    reachable = Reachable(image, relocations, metadata, exports)
    import_numbers, imports = metadata.number_imports(set(reachable.flow.host_calls.values()))
    stack_size = max(min_stack_size, metadata.stack_size())
    layout = Layout(image, reachable.sections, stack_size=stack_size, spills=needs_scratch(reachable))

    lowering = Lowering(image, reachable, layout, import_numbers)
    blocks: list[Block | None] = [*lowering.run()]
    assign_scratch_registers(blocks, layout.spill_address, image.is64)
    positions = Positions()
    if optimize:
        optimize_blocks(blocks, isa, positions)
    kept = [block for block in blocks if block is not None]

    unsupported = find_unsupported(kept, isa)
    if unsupported is not None:
        name, position = unsupported
        raise image.error(
            f"the instruction set {isa.label} has no {name}",
            address=positions.addresses(position)[-1],
            hint="choose another one, such as latest64",
        )
    table = JumpTable(kept)
    by_symbol = {export.symbol: lowering.numbers[export.address] for export in exports}
    code = emit(kept, isa, table, [_dispatched(by_symbol, symbol) for symbol in dispatch_table])
    data = Data(image, relocations, layout, lambda address: table.address(lowering.numbers[address]))
    debug = DebugSections() if strip else write_debug_sections(sources, positions, code)
    signatures = read_signatures(image, by_symbol, imports)
    try:
        return ProgramBlob.build(
            isa=isa,
            code=code.code,
            bitmask=code.bitmask,
            ro_data=data.ro_data,
            rw_data=data.rw_data,
            ro_data_size=layout.ro_size,
            rw_data_size=layout.rw_size,
            stack_size=layout.stack_size,
            imports=imports,
            exports=sorted((code.offsets[number], symbol) for symbol, number in by_symbol.items()),
            jump_table=code.jump_table,
            debug_strings=debug.strings,
            debug_line_programs=debug.line_programs,
            debug_line_program_ranges=debug.ranges,
            signatures=signatures,
        )
    except ProgramParseError as error:
        raise ElfError(error.what) from error


def _choose_isa(image: Image, isa: InstructionSet | None) -> InstructionSet:
    if isa is None:
        return InstructionSet.LATEST64 if image.is64 else InstructionSet.LATEST32
    bits = 64 if image.is64 else 32
    if isa.word_bits != bits:
        raise ElfError(
            f"the ELF file is for RV{bits}, the instruction set {isa.label} has registers of {isa.word_bits} bits",
            hint=f"compile for riscv{isa.word_bits}",
        )
    return isa


def _dispatched(by_symbol: dict[bytes, int], symbol: bytes) -> int:
    number = by_symbol.get(symbol)
    if number is None:
        raise ElfError(f"the dispatch table names {shorten(symbol.decode('utf-8', 'backslashreplace'))}, no export")
    return number
