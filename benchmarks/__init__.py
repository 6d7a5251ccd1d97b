# SPDX-License-Identifier: MIT
"""One program per claim, each with its peer measured beside it in the same run.

    python -m benchmarks            all, and the tables in benchmarks/README.md from what was measured
    python -m benchmarks.doom       one of them, printed

Run from the root of the project. `--help` tells the rest.
"""
