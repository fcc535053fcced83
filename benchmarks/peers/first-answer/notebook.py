"""A notebook's process, with a fitted pipeline and its table: runs a user's lines, and prints the seconds."""

import sys
import time
from pathlib import Path

import joblib

fitted, lines = sys.argv[1:]
pipeline, X, y = joblib.load(fitted)
code = compile(Path(lines).read_text(), lines, "exec")
started = time.perf_counter()
exec(code, {"pipeline": pipeline, "X": X, "y": y})
print(time.perf_counter() - started)
