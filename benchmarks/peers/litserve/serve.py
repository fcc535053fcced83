"""LitServe: a worker for each of two cores, as its docs recommend for CPUs; its fast queue was slower."""

import os
from typing import Any

import joblib
import litserve
import numpy as np


class Houses(litserve.LitAPI):
    """The pipeline in LitServe's four steps."""

    def setup(self, device: str) -> None:
        """Load the pipeline."""
        self.pipeline: Any = joblib.load(os.environ["PIPELINE"])

    def decode_request(self, request: dict[str, Any]) -> Any:
        """Return the rows as a matrix."""
        return np.array(request["rows"], dtype=np.float64)

    def predict(self, x: Any) -> Any:
        """Predict with the pipeline."""
        return self.pipeline.predict(x)

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Return the predictions as JSON writes them."""
        return {"prediction": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Houses(), accelerator="cpu", workers_per_device=2)
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False)
