# SPDX-License-Identifier: MIT
"""Tests are imported by path, not as packages: this lets them import the modules beside them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
