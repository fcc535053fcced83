"""What the commands share when they declare their arguments."""

from __future__ import annotations

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `ArgumentParser.add_subparsers` returns, for which argparse has no public name."""

REFERENCE = "the model: NAME, NAME@ALIAS or NAME@VERSION"
