# SPDX-License-Identifier: MIT
"""The models of what instructions cost, and settings that exclude each other."""

from __future__ import annotations

import pytest

import vm
from vm.isa import OPCODES


def test_a_table_survives_its_bytes() -> None:
    table = vm.CostModel.table({"add_32": 7, "invalid": 9}, default=3)
    assert vm.CostModel.from_bytes(table.to_bytes()) == table
    names = sorted(opcode.name for opcode in OPCODES)
    words = [int.from_bytes(table.to_bytes()[4 * n : 4 * n + 4], "little") for n in range(len(names) + 2)]
    assert words == [2, *(7 if name == "add_32" else 3 for name in names), 9]


@pytest.mark.parametrize(
    "data", [b"", bytes(8), vm.CostModel.naive().to_bytes()[:-1], b"\1" + vm.CostModel.naive().to_bytes()[1:]]
)
def test_bytes_that_are_no_table(data: bytes) -> None:
    with pytest.raises(ValueError, match="cost table"):
        vm.CostModel.from_bytes(data)


def test_tables_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="no such operation: nope"):
        vm.CostModel.table({"nope": 1})
    with pytest.raises(ValueError, match="the cost of add_32"):
        vm.CostModel.table({"add_32": -1})
    with pytest.raises(ValueError, match="no table"):
        vm.CostModel.full().to_bytes()
    with pytest.raises(ValueError, match="naive"):
        vm.ModuleConfig(per_instruction_metering=True, cost_model=vm.CostModel.full())
    with pytest.raises(ValueError, match="gas_metering"):
        vm.ModuleConfig(gas_metering="maybe")  # type: ignore[arg-type]
    assert vm.CostModel.naive().is_naive
    assert not vm.CostModel.full().is_naive
