# SPDX-License-Identifier: MIT
"""What becomes of the section .pvm_signatures."""

from __future__ import annotations

import pytest
from elf_writer import A0, A1, RET, Guest, add, main

from vm.program import ProgramBlob
from vm.signatures import MAX_SIZE, Signature, Signatures, Type
from vm.toolchain import ElfError, _signatures, link


def guest(*sections: bytes, bits: int = 64) -> Guest:
    made = main(add(A0, A0, A1), RET, bits=bits)
    for records in sections:
        made.add(".pvm_signatures", records, flags=0, align=1)
    return made


def test_the_blob_has_those_of_its_exports_and_imports() -> None:
    records = b"import none()v\nexport main(ii)I\nexport gone()v\n"
    program = link(guest(records).to_bytes())
    word = Type("i")
    assert Signatures.of(program) == Signatures({b"main": Signature((word, word), Type("I"))})
    assert ProgramBlob.parse(program.to_bytes()) == program
    assert link(guest(records * 2).to_bytes(), strip=True).signatures == program.signatures


def test_several_sections_are_one() -> None:
    program = link(guest(b'export main(P"const struct p *")v\n', b'struct "struct p" 4 i@0:x\n').to_bytes())
    assert program.signatures == b'pvm-signatures 1\nstruct "p" 4 i@0:x\nexport main(P"p*")v\n'


def test_without_the_section_there_is_none() -> None:
    assert link(guest().to_bytes()).signatures == b""
    assert link(guest(b"export other()v\n").to_bytes()).signatures == b""


def test_the_machine_decides_on_sizes() -> None:
    records = b'struct "p" 4 P@0:x\n'
    assert link(guest(records, bits=32).to_bytes()).signatures == b"pvm-signatures 1\n" + records
    with pytest.raises(ElfError, match="leaves the structure"):
        link(guest(records).to_bytes())


def test_damage_is_named_with_its_place() -> None:
    with pytest.raises(ElfError, match=r"no signature: nonsense in section \.pvm_signatures at offset 0xf$") as caught:
        link(guest(b"export main()v\nnonsense\n").to_bytes())
    assert (caught.value.section, caught.value.offset) == (".pvm_signatures", 15)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    many = b"".join(b'struct "%d" 4\n' % number for number in range(MAX_SIZE // 15))
    with pytest.raises(ElfError, match=f"more than the limit of {MAX_SIZE}"):
        link(guest(many).to_bytes())
    monkeypatch.setattr(_signatures, "_MOST_BYTES", 20)
    link(guest(b"export main()v\n").to_bytes())
    with pytest.raises(ElfError, match=r"more than 20 bytes of signatures in section \.pvm_signatures"):
        link(guest(b"export main()v\n", b"export main()v\n").to_bytes())
