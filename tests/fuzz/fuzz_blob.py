# SPDX-License-Identifier: MIT
"""Coverage-guided fuzzing of what reads program blobs: parser, debug information, decoder, disassembler, assembler.

usage: fuzz_blob.py [libFuzzer option or corpus directory]...

It needs atheris (``pip install atheris``); `check`, which says what has to hold, does not.  An input is either

* a blob, whose length field is corrected, or
* what does not begin with the magic bytes: the version of the instruction set, then sections of a byte for the id, a
  byte for the size, and the payload.  The payload of a code section is the number and the size of the jump table's
  entries, the entries, and, eight to one, code and bitmask.  The rest of the blob is made to fit.
"""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress

if __name__ == "__main__":
    # Code is instrumented as it is imported: all that this file imports from vm below, once more.
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["vm"]):
        importlib.import_module("vm.assembler")
        importlib.import_module("vm.disassembler")

from vm import ProgramParseError
from vm._varint import encode_varint
from vm.assembler import assemble
from vm.debug_info import DebugInfo
from vm.disassembler import disassemble, listing_lines
from vm.encoding import instructions
from vm.program import MAGIC, ProgramBlob

_CODE_SECTION = 6

#: Bytes of code up to which a program is disassembled and assembled.
_SMALL = 400


def blob_of_input(data: bytes) -> bytes:
    """The bytes to parse that an input stands for."""
    if data.startswith(MAGIC):
        version, body = data[len(MAGIC) : len(MAGIC) + 1], data[len(MAGIC) + 9 :]
    else:
        version, body = data[:1], b"".join(_sections(data[1:])) + b"\0"
    size = len(MAGIC) + len(version) + 8 + len(body)
    return MAGIC + version + size.to_bytes(8, "little") + body


def _sections(data: bytes) -> Iterator[bytes]:
    while len(data) >= 2:
        section, payload, data = data[0], data[2 : 2 + data[1]], data[2 + data[1] :]
        if section == _CODE_SECTION:
            payload = _code_payload(payload)
        yield bytes([section]) + encode_varint(len(payload)) + payload


def _code_payload(data: bytes) -> bytes:
    head, rest = data[:2], data[2:]
    table = rest[: head[0] * head[1]] if len(head) == 2 else b""
    rest = rest[len(table) :]
    code = rest[: len(rest) * 8 // 9]
    bitmask = bytearray(rest[len(code) :][: (len(code) + 7) // 8])
    if len(code) % 8 and bitmask:
        bitmask[-1] &= (1 << len(code) % 8) - 1
    return head + encode_varint(len(code)) + table + code + bytes(bitmask)


def check(data: bytes) -> None:
    """What has to hold for an input; raises anything, most often AssertionError, if it does not.

    Nothing but `ProgramParseError` comes from bytes, and what is parsed is written, disassembled and assembled to the
    same program.
    """
    with suppress(ProgramParseError):
        ProgramBlob.parse(data)
    try:
        blob = ProgramBlob.parse(blob_of_input(data))
    except ProgramParseError:
        return
    written = blob.to_bytes()
    assert ProgramBlob.parse(written) == blob
    assert ProgramBlob.parse(memoryview(written)).to_bytes() == written
    assert repr(blob)
    assert len(blob.import_names) == len(blob.imports)
    assert all(export.name is not None for export in blob.exports)
    for index in range(min(blob.jump_table_entry_count, 100)):
        blob.is_valid_jump_target(blob.jump_table_entry(index))
    _check_debug_info(blob)
    _check_instructions(blob)
    if len(blob.code) <= _SMALL:
        _check_text(blob)


def _check_debug_info(blob: ProgramBlob) -> None:
    info = DebugInfo(blob)
    well_formed = False
    with suppress(ProgramParseError):
        info.check()
        well_formed = True
    located = {pc: info.locate(pc) for pc in (0, 1, len(blob.code) // 2, len(blob.code), 0xFFFF_FFFF)}
    for region in info.regions():
        assert 0 <= region.begin <= region.end
        if well_formed:
            assert region.end <= len(blob.code)
            for pc, frames in located.items():
                assert not region.begin <= pc < region.end or frames == region.frames
    for function in info.functions():
        assert function.name


def _check_instructions(blob: ProgramBlob) -> None:
    pc = -1
    for instruction in instructions(blob):
        assert instruction.pc > pc
        pc = instruction.pc
        assert instruction.next_pc >= pc
        assert instruction.name
        if instruction.length:
            assert blob.is_instruction_start(pc)


def _check_text(blob: ProgramBlob) -> None:
    for line in listing_lines(blob):
        assert line.isprintable()
    text = disassemble(blob)
    assert all(line.isprintable() for line in text.split("\n"))
    again = ProgramBlob.parse(assemble(text))
    entries = [blob.jump_table_entry(index) for index in range(blob.jump_table_entry_count)]
    assert [again.jump_table_entry(index) for index in range(again.jump_table_entry_count)] == entries
    assert (again.isa, again.code, again.bitmask) == (blob.isa, blob.code, blob.bitmask)
    assert again.exports == blob.exports
    assert (again.ro_data, again.rw_data) == (blob.ro_data, blob.rw_data)
    sizes = (blob.ro_data_size, blob.rw_data_size, blob.stack_size)
    assert (again.ro_data_size, again.rw_data_size, again.stack_size) == sizes
    assert again.imports == tuple(symbol or b"" for symbol in blob.imports)


if __name__ == "__main__":
    # libFuzzer has a shell run its first argument where it takes more processes, such as for -merge=1.
    atheris.Setup([shlex.join([sys.executable, __file__]), *sys.argv[1:]], check)
    atheris.Fuzz()
