"""An artifact's network on a device."""

from __future__ import annotations

from dataclasses import asdict, replace

import torch

from model.engine import network
from model.engine.columns import Columns, ColumnsEngine
from model.engine.compare import predict_by_batch_size
from model.engine.gpu import TorchEngine
from model.engine.runtime import Predictor
from model.errors import ArtifactError
from model.store import artifact, manifest
from model.store.artifact import Artifact


def load(model: Artifact, device: torch.device) -> Artifact:
    """Return the model with its network on the device in place of its graph, verified again.

    Computed columns in front of the network, and the steps behind it, stay on the CPU. Reads its files again and checks
    every hash of the same manifest, so a signature that was verified covers them. Raises `ArtifactError`, or
    `GoldenRowsError` if the device predicts differently than the trained model.
    """
    document, files = artifact.read(model.path)
    if document != model.manifest.document:
        raise ArtifactError(model.path / artifact.MANIFEST, "has changed since it was verified", "load it again")
    try:
        facts = manifest.parse(document)
        if facts.network is None:
            raise KeyError("network")
        weights, n_outputs = files[facts.network.file], max(1, len(facts.classes))
        engine: Predictor = TorchEngine(
            network.load(asdict(facts.network), weights, n_outputs), device, facts.steps, facts.decision
        )
        if artifact.COLUMNS in files:
            engine = ColumnsEngine(Columns.unpack(files[artifact.COLUMNS], len(facts.schema.names)), engine)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            model.path / artifact.MANIFEST,
            f"does not describe a network ({error!r})",
            "train it again, or serve it on cpu",
        ) from None
    served = replace(model, engine=engine)
    artifact.check_golden_rows(served, predict_by_batch_size(engine.predict, model.golden_rows))
    return served
