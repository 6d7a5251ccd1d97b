# SPDX-License-Identifier: MIT
"""The control flow of the ELF file's code: instructions found by following it, and where basic blocks start.

Code is decoded only where something leads to it, so that data between functions, padding and unused library functions
are never looked at. An instruction and what relocations say of it become an `Item`.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from vm.toolchain._decode import Decoded, Decoder, Form, UndecodableError
from vm.toolchain._ir import TRAP, op
from vm.toolchain._metadata import Metadata, MetadataReader
from vm.toolchain._relocations import JUMPS, CodeRelocation, Relocations, Type, type_name
from vm.toolchain._sections import ABSOLUTE, Image, Kind, Section, Target


class Part(enum.IntEnum):
    """Which part of an address, the `Item.target`, an instruction makes or uses."""

    NONE = 0
    #: lui: all but the low 12 bits, so rounded that adding them signed gives the address.
    HIGH = 1
    #: The low 12 bits, signed, on top of `HIGH`.
    LOW = 2
    #: auipc: all of it. Whatever adds the low part adds nothing.
    WHOLE = 3
    REST = 4
    #: The low part of the address of an entry of the global offset table: loading from there gives what is there.
    GOT_REST = 5
    #: The low 12 bits on top of zero or of gp, after linker relaxation: all of it.
    DIRECT = 6
    #: Where a jump, call or branch goes.
    JUMP = 7


class Item(NamedTuple):
    """An instruction of the ELF file, or a pair of them that makes a call."""

    decoded: Decoded
    #: Bytes.
    size: int
    part: Part = Part.NONE
    target: Target | None = None


#: Follows the last instruction of a section, in case that is a call, which does not return then.
_END_OF_CODE: Final = Item(Decoded(Form.TRAP, TRAP, 0, 0, 0, 0), 0)
_ZERO, _GP = 0, 3
#: Our own limit: each takes a kilobyte of memory and 25 microseconds to link. DOOM has 190 000.
_MOST_INSTRUCTIONS: Final = 1 << 21

_PARTS: Final = {
    Type.HI20: Part.HIGH,
    Type.LO12_I: Part.LOW,
    Type.LO12_S: Part.LOW,
    Type.GPREL_LO12_I: Part.DIRECT,
    Type.GPREL_LO12_S: Part.DIRECT,
    Type.PCREL_HI20: Part.WHOLE,
    Type.GOT_HI20: Part.WHOLE,
    Type.PCREL_LO12_I: Part.REST,
    Type.PCREL_LO12_S: Part.REST,
}
_LOW_FORMS: Final = frozenset({Form.ALU_IMM, Form.LOAD, Form.STORE, Form.JALR})
_ADD_IMMEDIATES: Final = frozenset({op("add_imm_32"), op("add_imm_64")})
_NO_RELOCATION: Final = "link with --emit-relocs"


class Flow:
    """All code that was found so far."""

    def __init__(self, image: Image, relocations: Relocations, metadata: MetadataReader) -> None:
        self._image = image
        self._relocations = relocations
        self._metadata = metadata
        self._decoder = Decoder(image.is64)
        #: Instructions by address.
        self.items: dict[int, Item] = {}
        #: Those that have nothing to do with relocations, by their word.
        self._plain: dict[int, Item] = {}
        #: Addresses at which a basic block starts.
        self.leaders: set[int] = set()
        #: What each host call calls, by the address of its instruction.
        self.host_calls: dict[int, Metadata] = {}
        #: Code that was found to be there, but not yet looked at, and the addresses that code takes of things.
        self.pending: list[int] = []
        self.addresses: list[Target] = []

    def lead(self, address: int, origin: int) -> None:
        """Note that the instruction at `origin` can go to `address`."""
        if address not in self.leaders:
            if address & 1:
                raise self._image.error(f"a jump to the odd address {address:#x}", address=origin)
            if self._image.code_section_at(address) is None:
                raise self._image.error(f"a jump to {address:#x}, where no code is", address=origin)
            self.leaders.add(address)
            self.pending.append(address)

    def walk(self, start: int) -> None:
        """Decode from `start`, a leader, until code that is known, or that does not go on."""
        items, relocations = self.items, self._relocations.code
        decode = self._decoder.decode
        section = self._image.code_section_at(start)
        if start in items:
            return
        if section is None:  # behind the end of a section, by a label there
            items[start] = _END_OF_CODE
            return
        data, base, size = section.data, section.address, section.size
        address = start
        while True:
            if address in items:
                self.leaders.add(address)
                return
            if len(items) >= _MOST_INSTRUCTIONS:
                raise self._image.error(f"more than {_MOST_INSTRUCTIONS} instructions", address=address)
            offset = address - base
            if offset + 2 > size:
                items[address] = _END_OF_CODE
                self.leaders.add(address)
                return
            word = data[offset] | data[offset + 1] << 8
            length = 2
            if word & 3 == 3:
                if offset + 4 > size:
                    raise self._image.error("an instruction leaves its section", address=address)
                word |= data[offset + 2] << 16 | data[offset + 3] << 24
                length = 4
            try:
                decoded = decode(word)
            except UndecodableError as error:
                raise self._image.error(str(error), address=address, hint=error.hint) from None
            relocation = relocations.get(address)
            form = decoded.form
            if relocation is not None or form >= Form.BRANCH or form is Form.AUIPC or form is Form.HOST_CALL:
                item = self._item(section, address, decoded, length, relocation)
                items[address] = item
                address += item.size
                if item.decoded.form >= Form.BRANCH:
                    self._end(item, address - item.size)
                    return
            else:
                plain = self._plain.get(word)
                if plain is None:
                    plain = self._plain[word] = Item(decoded, length)
                items[address] = plain
                address += length
                if form is Form.TRAP:
                    return

    def _end(self, item: Item, address: int) -> None:
        """Note where the end of a block goes."""
        decoded, following = item.decoded, address + item.size
        if item.target is not None and decoded.form is not Form.JALR and item.target.section != ABSOLUTE:
            self.lead(item.target.address, address)
        if (decoded.form is Form.BRANCH or decoded.rd != _ZERO) and following not in self.leaders:
            self.leaders.add(following)
            self.pending.append(following)

    # --- Instructions with addresses ----------------------------------------------------------------------------------

    def _item(
        self, section: Section, address: int, decoded: Decoded, length: int, relocation: CodeRelocation | None
    ) -> Item:
        form = decoded.form
        if form is Form.HOST_CALL:
            return self._host_call(section, address, decoded)
        if relocation is not None:
            self._relocations.check(relocation, address)
            if relocation.type in JUMPS:
                return self._jump(section, address, decoded, length, relocation)
            return self._addressing(address, decoded, length, relocation)
        if form is Form.AUIPC:
            return self._lone_auipc(section, address, decoded)
        if form is Form.JALR:
            return Item(decoded, length)
        if self._image.relocatable:
            raise self._image.error("a jump without a relocation", address=address)
        return Item(decoded, length, Part.JUMP, Target(section.index, address + decoded.imm))

    def _host_call(self, section: Section, address: int, decoded: Decoded) -> Item:
        pointer = self._relocations.pointer(section, address - section.address + 4)
        if pointer is None:
            raise self._image.error(
                "a host call without a relocation for the pointer to its metadata", address=address, hint=_NO_RELOCATION
            )
        self.host_calls[address] = self._metadata.read(pointer)
        return Item(decoded, 4 + self._image.word_size)

    def _jump(self, section: Section, address: int, decoded: Decoded, length: int, relocation: CodeRelocation) -> Item:
        form, target = decoded.form, relocation.target
        if form is Form.AUIPC and relocation.type in (Type.CALL, Type.CALL_PLT):
            jump = self._next(section, address)
            if jump is not None and jump.form is Form.JALR and jump.rs1 == decoded.rd:
                return Item(Decoded(Form.JAL, 0, jump.rd, 0, 0, 0), 8, Part.JUMP, target)
        elif form in (Form.JAL, Form.BRANCH):
            if target.section != ABSOLUTE and not self._image.relocatable:
                target = Target(section.index, address + decoded.imm)
            return Item(decoded, length, Part.JUMP, target)
        raise self._mismatch(address, relocation)

    def _mismatch(self, address: int, relocation: CodeRelocation) -> Exception:
        name = type_name(relocation.type)
        return self._image.error(f"{name} on an instruction it is not for", address=address)

    def _addressing(self, address: int, decoded: Decoded, length: int, relocation: CodeRelocation) -> Item:
        form, target = decoded.form, relocation.target
        part = _PARTS.get(Type(relocation.type))
        if (part is Part.HIGH and form is Form.LUI) or (part is Part.WHOLE and form is Form.AUIPC):
            self.addresses.append(target)
            return Item(decoded, length, part, target)
        if part is None or part in (Part.HIGH, Part.WHOLE) or form not in _LOW_FORMS:
            raise self._mismatch(address, relocation)
        if form is Form.ALU_IMM and decoded.op not in _ADD_IMMEDIATES:
            raise self._mismatch(address, relocation)
        if part is Part.REST:
            high = self._relocations.code.get(target.address)
            if high is None or high.type not in (Type.PCREL_HI20, Type.GOT_HI20):
                raise self._image.error(
                    f"the low part of an address whose high part, at {target.address:#x}, has no relocation",
                    address=address,
                    hint=_NO_RELOCATION,
                )
            self._relocations.check(high, target.address)
            target = high.target
            if high.type == Type.GOT_HI20 and form is Form.LOAD:
                part = Part.GOT_REST
        elif decoded.rs1 in (_ZERO, _GP):
            part = Part.DIRECT
        elif part is Part.DIRECT:
            raise self._mismatch(address, relocation)
        if form in (Form.LOAD, Form.STORE) and part is not Part.GOT_REST:
            self._refuse_code(address, target)
        self.addresses.append(target)
        return Item(decoded, length, part, target)

    def _refuse_code(self, address: int, target: Target) -> None:
        sections = self._image.sections
        if target.section > 0 and sections[target.section].kind is Kind.CODE:
            raise self._image.error(
                f"a load or store of code, at {target.address:#x}",
                address=address,
                hint="a guest's code is not in its memory: put data into a section of its own",
            )

    def _next(self, section: Section, address: int) -> Decoded | None:
        """The 32-bit instruction behind the one at `address`."""
        offset = address + 4 - section.address
        word = int.from_bytes(section.data[offset : offset + 4], "little")
        if offset + 2 > section.size or (word & 3 == 3 and offset + 4 > section.size):
            return None
        try:
            return self._decoder.decode(word if word & 3 == 3 else word & 0xFFFF)
        except UndecodableError:
            return None

    def _lone_auipc(self, section: Section, address: int, decoded: Decoded) -> Item:
        """An auipc without relocation: with what follows, a call or the address of something in the same section."""
        following = None if self._image.relocatable else self._next(section, address)
        if following is not None and following.rs1 == decoded.rd:
            target = Target(section.index, address + decoded.imm + following.imm)
            if section.address <= target.address < section.address + section.size:
                size = 8 if section.data[address + 4 - section.address] & 3 == 3 else 6
                if following.form is Form.JALR:
                    return Item(Decoded(Form.JAL, 0, following.rd, 0, 0, 0), size, Part.JUMP, target)
                if following.form is Form.ALU_IMM and following.op in _ADD_IMMEDIATES and following.rd == decoded.rd:
                    self.addresses.append(target)
                    return Item(decoded, size, Part.WHOLE, target)
        raise self._image.error("auipc without a relocation", address=address, hint=_NO_RELOCATION)
