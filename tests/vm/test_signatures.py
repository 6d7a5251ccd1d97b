# SPDX-License-Identifier: MIT
"""Signatures: reading, refusing, writing. Whatever the bytes are, the outcome is signatures or an error."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vm.isa import InstructionSet
from vm.program import ProgramBlob, ProgramParseError
from vm.signatures import (
    HEADER,
    MAX_SIZE,
    MAX_STRUCTURE_SIZE,
    Field,
    Signature,
    SignatureError,
    Signatures,
    Structure,
    Type,
)

quick = settings(deadline=None, database=None)

RECORDS = b"""\
export move(P"const struct point *"iP"char *"P"struct point **"P)P"struct point *"
export a (odd) name(B)v
import get()q
struct "struct point" 24 i@0:x H*4@4:y P@16:next
"""


def blob(signatures: bytes, isa: InstructionSet = InstructionSet.LATEST64) -> ProgramBlob:
    return ProgramBlob.build(isa=isa, code=b"\0", bitmask=b"\1", signatures=signatures)


def test_all_kinds_of_records() -> None:
    found = Signatures.parse(RECORDS, 64)
    point = Type("P", "point")
    assert found.exports == {
        b"move": Signature((point, Type("i"), Type("P"), Type("P"), Type("P")), point),
        b"a (odd) name": Signature((Type("B"),), Type("v")),
    }
    assert found.imports == {b"get": Signature((), Type("q"))}
    fields = (Field("x", "i", 0, None), Field("y", "H", 4, 4), Field("next", "P", 16, None))
    assert found.structures == {"point": Structure(24, fields)}


def test_what_is_written_is_read_again() -> None:
    found = Signatures.parse(RECORDS, 64)
    data = found.to_bytes()
    assert data.startswith(HEADER)
    assert Signatures.of(blob(data)) == found
    lines = RECORDS.splitlines(keepends=True)
    assert Signatures.parse(b"".join(reversed(lines)) * 2, 64).to_bytes() == data, "order and repetition mean nothing"
    assert Signatures().to_bytes() == b""


def test_only_some() -> None:
    found = Signatures.parse(RECORDS, 64).only({b"move"}, ())
    assert (list(found.exports), list(found.imports), list(found.structures)) == ([b"move"], [], ["point"])


def test_pointers_that_do_not_agree_are_plain() -> None:
    text = b'struct "p" 4 i@0:x\nimport f(P"p *"P"p *")v\nimport f(P"p *"P"void *")v\nimport f(PP"p *")v\n'
    assert Signatures.parse(text, 64).imports == {b"f": Signature((Type("P"), Type("P")), Type("v"))}


@pytest.mark.parametrize(
    ("records", "message", "offset"),
    [
        (b"export f()v", "cut short", 0),
        (b"export f()v\n\n", "no signature: ", 12),
        (b"export f(v)v\n", r"no signature: export f\(v\)v", 0),
        (b"export f(x)v\n", "no signature", 0),
        (b'export "f"()v\n', "no signature", 0),
        (b'export f(P"a)v\n', "no signature", 0),
        (b"function f()v\n", "no signature", 0),
        (b"\xff\x1b[2J\n", r"no signature: \\xff\\x1b\[2J", 0),
        (b"export f(iiiiiiiiii)v\n", "arguments take 10 registers; there are 9", 0),
        (b"import f(i)v\nimport f(I)v\n", r"the import f is declared with different types: \(i\)v and \(I\)v", 13),
        (b'struct "p" 4 i@0:x\nstruct "struct p" 4 I@0:x\n', "two different structures are called p", 19),
        (b'struct "p" 4 i@1:x\n', "the field x leaves the structure p", 0),
        (b'struct "p" 4 B*5@0:x\n', "the field x leaves the structure p", 0),
        (b'struct "p" 4 v@0:x\n', "no field of a structure: v@0:x", 0),
        (b'struct "const" 4\n', "a structure has no name", 0),
        (b'struct "p" 1048576 B*1048576@0:x b@0:y\n', "1048577 values in structures, more than the limit of", 0),
        (b'struct "p" 99999999 i@0:x\n', "99999999 bytes, more than the limit", 0),
    ],
)
def test_errors(records: bytes, message: str, offset: int) -> None:
    with pytest.raises(SignatureError, match=message) as caught:
        Signatures.parse(records, 64)
    assert caught.value.offset == offset
    with pytest.raises(ProgramParseError, match=message) as failed:
        Signatures.of(blob(HEADER + records))
    assert failed.value.section == "signatures"
    assert f"at byte {len(HEADER) + offset:#x} of the section" in str(failed.value)


def test_registers_and_pointers_depend_on_the_machine() -> None:
    assert Signatures.parse(b"export f(qqqqq)v\n", 64).exports
    with pytest.raises(SignatureError, match="10 registers"):
        Signatures.parse(b"export f(qqqqq)v\n", 32)
    assert Signatures.parse(b'struct "p" 4 P@0:x\n', 32).structures
    with pytest.raises(SignatureError, match="leaves the structure"):
        Signatures.parse(b'struct "p" 4 P@0:x\n', 64)


def test_the_sections_of_others_say_nothing() -> None:
    for payload in (b"", b"something else", HEADER[:-1], b"pvm-signatures 2\n"):
        assert Signatures.of(blob(payload)) == Signatures()


def test_there_is_a_limit() -> None:
    line = b'struct "p" %d\n' % MAX_STRUCTURE_SIZE
    full = HEADER + line * ((MAX_SIZE - len(HEADER)) // len(line))
    assert Signatures.of(blob(full)).structures == {"p": Structure(MAX_STRUCTURE_SIZE, ())}
    with pytest.raises(ProgramParseError, match="more than the limit of"):
        Signatures.of(blob(full + line))


@pytest.mark.parametrize(
    "text", [b"(" * MAX_SIZE, b"()" * (MAX_SIZE // 2), b"(b" * (MAX_SIZE // 2), b'(P"' * (MAX_SIZE // 3), b"\n" * 9]
)
@pytest.mark.parametrize("head", [b"export f", b'struct "p" 4 '])
def test_reading_takes_no_long_time(head: bytes, text: bytes) -> None:
    records = (head + text)[: MAX_SIZE - len(HEADER) - 1] + b"\n"
    began = time.process_time()
    with pytest.raises(ProgramParseError):
        Signatures.of(blob(HEADER + records))
    assert time.process_time() - began < 2


@quick
@given(
    st.one_of(
        st.binary(max_size=60),
        st.text('exportimstruc "()Pqib*@:0149\n', max_size=60).map(str.encode),
        st.from_regex(rb'export [^"\n]{1,9}\((i|P"[^"\n]{0,9}")*\)v\n', fullmatch=True),
        st.from_regex(rb'struct "[^"\n]{1,9}" [0-9]{1,3}( i@[0-9]:[^ "\n]{1,4})*\n', fullmatch=True),
    )
)
def test_whatever_the_bytes_are(records: bytes) -> None:
    try:
        found = Signatures.of(blob(HEADER + records))
    except ProgramParseError:
        return
    assert Signatures.of(blob(found.to_bytes())) == found
