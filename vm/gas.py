# SPDX-License-Identifier: MIT
"""What guest instructions cost (specification, section 10).

Gas is charged per basic block, when the block is entered. A `CostModel` says how much: the naive one charges 1 per
instruction, a table a number per operation, the full one the cycles of a simulated processor.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vm.isa import OPCODE_BY_NAME, OPCODES

_VERSION: Final = 2
_U32_MAX: Final = 0xFFFF_FFFF
# the serialised order: by name, "invalid" last
_SERIALISED: Final = (*sorted(OPCODE_BY_NAME), "invalid")
# the order of the C side's enum pvm_op
_NATIVE: Final = ("invalid", *(opcode.name for opcode in OPCODES))


class MemoryLatency(IntEnum):
    """Cycles of a load in the full model, by the cache that it hits (section 10.2)."""

    L1_HIT = 4
    L2_HIT = 25
    L3_HIT = 37


@dataclass(frozen=True, slots=True)
class CostModel:
    """How much a block costs; made by `naive`, `table`, `from_bytes` or `full`."""

    #: Cost by operation name, "invalid" included; None for the full model.
    costs: Mapping[str, int] | None
    #: Of the full model; None for the others.
    memory_latency: MemoryLatency | None = None

    @classmethod
    def naive(cls) -> CostModel:
        """Every instruction costs 1 (section 10.1)."""
        return cls(dict.fromkeys(_SERIALISED, 1))

    @classmethod
    def table(cls, costs: Mapping[str, int], *, default: int = 1) -> CostModel:
        """A cost per operation name ("invalid" is one of them); operations that are not named cost `default`.

        Raises ValueError for an unknown name or a cost that is no u32.
        """
        unknown = sorted(set(costs) - set(_SERIALISED))
        if unknown:
            raise ValueError(f"no such operation: {', '.join(unknown)}")
        for name, cost in {**costs, "default": default}.items():
            if not 0 <= cost <= _U32_MAX:
                raise ValueError(f"the cost of {name} is {cost}: it must be from 0 to {_U32_MAX}")
        return cls({name: costs.get(name, default) for name in _SERIALISED})

    @classmethod
    def full(cls, memory_latency: MemoryLatency = MemoryLatency.L2_HIT) -> CostModel:
        """The cycles of a simulated out-of-order processor (section 10.2)."""
        return cls(None, MemoryLatency(memory_latency))

    @classmethod
    def from_bytes(cls, data: bytes) -> CostModel:
        """A table as `to_bytes` wrote it. Raises ValueError if the bytes are none."""
        size = 4 * (1 + len(_SERIALISED))
        if len(data) != size:
            raise ValueError(f"a cost table has {size} bytes, not {len(data)}")
        version, *costs = struct.unpack(f"<{1 + len(_SERIALISED)}I", data)
        if version != _VERSION:
            raise ValueError(f"cost table of version {version}: only {_VERSION} is known")
        return cls(dict(zip(_SERIALISED, costs, strict=True)))

    def to_bytes(self) -> bytes:
        """The table: u32 version 2, then a u32 per operation in the order of their names, "invalid" last.

        Raises ValueError for the full model, which is no table.
        """
        if self.costs is None:
            raise ValueError("the full cost model has no table")
        return struct.pack(f"<{1 + len(_SERIALISED)}I", _VERSION, *(self.costs[name] for name in _SERIALISED))

    @property
    def is_naive(self) -> bool:
        """Whether every operation costs 1."""
        return self.costs is not None and set(self.costs.values()) == {1}

    def __repr__(self) -> str:
        if self.costs is None:
            return f"CostModel.full({self.memory_latency!r})"
        if self.is_naive:
            return "CostModel.naive()"
        return f"CostModel.table({ {name: cost for name, cost in self.costs.items() if cost != 1} })"

    def native_costs(self) -> tuple[int, ...]:
        """The table in the order of the C side; zeros for the full model."""
        return tuple(0 if self.costs is None else self.costs[name] for name in _NATIVE)
