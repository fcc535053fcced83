"""KServe: a custom Model, since its package has no scikit-learn server; V1, whose body is the shortest."""

import argparse
import os
from typing import Any

import joblib
import numpy as np
from kserve import Model, ModelServer, model_server


class Houses(Model):
    """The pipeline as KServe's Model."""

    def load(self) -> bool:
        """Load the pipeline."""
        self.pipeline: Any = joblib.load(os.environ["PIPELINE"])
        self.ready = True
        return self.ready

    def predict(self, payload: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        """Predict with the pipeline."""
        rows = np.array(payload["instances"], dtype=np.float64)
        return {"predictions": self.pipeline.predict(rows).tolist()}


if __name__ == "__main__":
    argparse.ArgumentParser(parents=[model_server.parser]).parse_args()
    houses = Houses("houses")
    houses.load()
    ModelServer().start([houses])
