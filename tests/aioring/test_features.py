# SPDX-License-Identifier: MIT
"""aioring.features() says what a ring would."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable

import pytest

import aioring


async def test_as_a_ring_has_it(ring: aioring.Ring) -> None:
    found = aioring.features()
    assert found.kernel == os.uname().release
    assert found.unavailable is None
    assert found.ring == ring.features
    assert {name: ring.supports(name) for name in found.operations} == found.operations
    assert found.since["futex_wait"] == "6.7"
    assert found.since.keys() == {*found.operations, "userfaultfd"}
    assert found.since["userfaultfd"] == "5.11"
    with pytest.raises(TypeError):
        found.operations["nop"] = False  # type: ignore[index]


def test_as_a_userfaultfd_has_it() -> None:
    found = aioring.features()
    if found.userfaultfd_unavailable is not None:
        with pytest.raises(type(found.userfaultfd_unavailable)):
            aioring.Userfaultfd()
        assert not found.userfaultfd
        return
    for feature in found.userfaultfd:
        if "EVENT" not in str(feature.name):
            aioring.Userfaultfd(features=feature).close()
    lacking = aioring.UserfaultfdFeature(1 << found.userfaultfd.bit_length())
    with pytest.raises(aioring.UserfaultfdUnavailableError, match="has no") as caught:
        aioring.Userfaultfd(features=lacking | found.userfaultfd & aioring.UserfaultfdFeature.THREAD_ID)
    assert repr(lacking) in str(caught.value)
    assert "THREAD_ID" not in str(caught.value)


def test_leaves_nothing(count_fds: Callable[[], int]) -> None:
    before = count_fds()
    for _ in range(20):
        aioring.features()
    assert count_fds() == before


def test_without_descriptors_it_says_why() -> None:
    program = "\n".join(
        [
            "import os, resource, aioring",
            "resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))",
            "found = aioring.features()",
            "assert isinstance(found.unavailable, OSError), found",
            "assert isinstance(found.userfaultfd_unavailable, OSError), found",
            "assert not found.ring and not found.userfaultfd and not any(found.operations.values())",
            "print(found.unavailable)",
        ]
    )
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=15)
    assert "Too many open files" in done.stdout
