"""From a table to an artifact. The only room that may import scikit-learn and onnx."""

import os

# Threads of OpenMP that wait for each other sleep instead of spinning: on a busy machine fits then take a tenth of the
# time, on an idle one about the same. OpenMP reads this when a library of learners is loaded, here and in a worker.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
