# SPDX-License-Identifier: MIT
"""What `vm.toolchain.link` raises."""

from __future__ import annotations

from vm._errors import VMError
from vm._printable import shorten


class ElfError(VMError):
    """An ELF file that no program blob can be made of.

    `what` is wrong; `section` and `symbol` (the function or object around it) name the place, `offset` is the byte in
    the section, `address` the one in the ELF file's address space; `source` is ``file:line`` where the debug
    information knows it; `hint` is what would help. All but `what` are None where there is nothing to say. The names
    are shortened and fit to be printed.
    """

    def __init__(
        self,
        what: str,
        *,
        section: str | None = None,
        symbol: str | None = None,
        offset: int | None = None,
        address: int | None = None,
        source: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.section = None if section is None else shorten(section)
        self.symbol = None if symbol is None else shorten(symbol)
        self.offset = offset
        self.address = address
        self.source = None if source is None else shorten(source, 200)
        self.hint = hint
        place = ""
        if self.section is not None:
            place += f" in section {self.section}"
            place += "" if offset is None else f" at offset {offset:#x}"
        if self.symbol is not None:
            place += f" in {self.symbol}"
        if self.source is not None:
            place += f" ({self.source})"
        super().__init__(f"{what}{place}" + ("" if hint is None else f"; {hint}"))
