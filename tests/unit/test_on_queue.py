"""Messages become documents: predictions with the bits of the version, or the reason, in the same bytes each time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model import Artifact, ArtifactError, Store
from model.errors import StoreError
from model.on_queue.aws_lambda import make_handler
from model.on_queue.current import Current
from model.on_queue.message import Answer, Message, answer
from model.on_queue.places import open_place
from model.store import artifact, life
from tests.support import gems
from tests.support.service import ANSWER, HOUSE, bits

NAME = "boston-housing"
# As SQS hands them over: https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html
SQS_RECORD = {
    "messageId": "059f36b4-87a3-44ab-83d2-661975830a7d",
    "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a...",
    "body": json.dumps(HOUSE),
    "attributes": {
        "ApproximateReceiveCount": "1",
        "SentTimestamp": "1545082649183",
        "SenderId": "AIDAIENQZJOLO23YVJ4VO",
        "ApproximateFirstReceiveTimestamp": "1545082649185",
    },
    "messageAttributes": {},
    "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
    "eventSource": "aws:sqs",
    "eventSourceARN": "arn:aws:sqs:us-east-2:123456789012:my-queue",
    "awsRegion": "us-east-2",
}


@pytest.fixture
def model(store: Path) -> Artifact:
    """The example's version."""
    return Store(store).load(NAME)


def document(found: Answer) -> Any:
    """Return what the document of an answer says."""
    return json.loads(found.content)


def test_records_have_the_bits_of_the_version(model: Artifact) -> None:
    """A list of records gets the predictions of `Artifact.predict`, to the last bit, with the ids of the records."""
    rows = model.golden_rows[:7]
    records = [{**dict(zip(model.schema.names, row)), "id": f"row {n}"} for n, row in enumerate(rows.tolist())]
    found = answer(Message("m-1", json.dumps(records)), model)

    assert (found.n_rows, found.reason) == (7, "")
    assert document(found) == {
        "prediction": model.predict(rows).tolist(),
        "id": [f"row {n}" for n in range(7)],
        "message_id": "m-1",
        "model": NAME,
        "version": 1,
        "digest": model.manifest.digest,
    }
    assert np.array_equal(bits(np.array(document(found)["prediction"])), bits(model.predict(rows)))


def test_document_is_the_same_each_time(model: Artifact) -> None:
    """A message that is answered again by the same version gets the same bytes, and one that cannot be, too."""
    for body in (json.dumps(HOUSE), "{", json.dumps([{**HOUSE, "RM": None}])):
        assert answer(Message("m", body), model) == answer(Message("m", body), model)


def test_id_that_is_a_feature(gems_store: Path) -> None:
    """The key of the ids may be a feature: the model gets it, and the result has it."""
    model = Store(gems_store).load(gems.NAME)
    name = model.schema.names[0]
    record = {
        name: kind.cell(cell) for name, kind, cell in zip(model.schema.names, model.schema.cells, model.golden_rows[0])
    }
    found = document(answer(Message("m", json.dumps(record)), model, id_key=name))

    assert found["id"] == [record[name]]
    assert found["prediction"] == model.predict(model.golden_rows[:1]).tolist()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "not a table: Expecting value"),
        ("price", "not a table: Expecting value"),
        ("7", "not a table: it is neither a JSON object nor a list of them"),
        ("[" * 100_001, "not a table: more than 100000 lists and objects"),
        ("[" * 90_000, "not a table: too many levels"),
        ("[]", "1 problem: there are no rows"),
        ("[1]", "1 problem: row 0: not an object"),
        ('{"columns": ["RM"], "data": []}', "1 problem: there are no rows"),
        ('{"columns": [1], "data": [[1]]}', "not a table: its columns are not all strings"),
        ('{"columns": ["RM"], "data": [[1, 2]]}', "1 problem: row 0: has 2 cells where there are 1 columns"),
        ('{"RM": {"0": 1}, "TAX": 7}', "1 problem: column 'TAX': not an object"),
        (json.dumps({**HOUSE, "RM": "many"}), "1 problem: row 0, column 'RM': not a number"),
        (json.dumps({**HOUSE, "RM": float("nan")}), "1 problem: row 0, column 'RM': not finite"),
        (json.dumps({**HOUSE, "id": [float("nan")]}), "not a table: its ids have NaN or an infinity"),
        (json.dumps({f"c{n}": {str(n): 1} for n in range(2_000)}), "1 problem: has 2000 columns where there are 6"),
        (json.dumps({"columns": list(map(str, range(99))), "data": [[]]}), "1 problem: has 99 columns where there are"),
        (json.dumps({**HOUSE, "x\n": 1}), "1 problem: row 0, column 'x\\n': unknown"),
    ],
)
def test_message_that_cannot_be_answered(model: Artifact, body: str, reason: str) -> None:
    """What cannot be read or does not fit is put aside with the reason and the whole message, and raises nothing."""
    found = answer(Message("m", body), model)

    assert found.reason.startswith(reason)
    assert (found.n_rows, document(found)["body"], document(found)["reason"]) == (0, body, found.reason)


def test_every_problem_is_told(model: Artifact) -> None:
    """The document of a message that does not fit has every problem as the service's replies have them."""
    found = document(answer(Message("m", json.dumps([{**HOUSE, "RM": None}, {**HOUSE, "TAX": "x"}])), model))

    assert [(each["row"], each["feature"]) for each in found["problems"]] == [(0, "RM"), (1, "TAX")]


def test_first_document_stays(tmp_path: Path) -> None:
    """A folder gets the document of a message whole and once; a second delivery changes nothing and is no error."""
    place = open_place(str(tmp_path / "new" / "results"))
    for content in (b"first", b"second"):
        place.keep(Message("a/b", "{}"), Answer(content, 1))

    assert [(path.name, path.read_bytes()) for path in (tmp_path / "new" / "results").iterdir()] == [
        ("a%2Fb.json", b"first")
    ]


def test_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    """A folder that is a file is refused at the start."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file: cannot be written to"):
        open_place(str(tmp_path / "file"))


def test_moved_alias_is_followed(store: Path, tmp_path: Path) -> None:
    """The version that an alias names answers from the next look on; one that does not load leaves the old one."""
    models = Store(Path(shutil.copytree(store, tmp_path / "store")))
    models.add(NAME, artifact.read_draft(models.find(NAME)))
    said: list[str] = []
    current = Current(models, NAME, say=said.append, look_seconds=0)
    assert current.model().version == 1

    life.promote(models, models.load(f"{NAME}@2"), after=models.last_move(NAME))
    assert current.model().version == 2
    assert said == [f"{NAME}@2 answers from now on"]

    third = models.add(NAME, artifact.read_draft(models.find(NAME)))
    (third / "golden.json").write_text("{}")
    models.move(NAME, life.PROMOTE, {"champion": 3}, after=models.last_move(NAME))
    assert current.model().version == 2
    assert said[-1].startswith(f"warning: {NAME}@2 still answers: ")
    with pytest.raises(ArtifactError):
        Current(models, NAME, say=said.append)


def test_lambda_answers_messages(store: Path, tmp_path: Path) -> None:
    """Each message of SQS's event has its document, those that cannot be answered in `dead`, and all are done."""
    handler = make_handler(store, NAME, to=str(tmp_path / "results"))
    bad = {**SQS_RECORD, "messageId": "bad", "body": "{}"}

    assert handler({"Records": [SQS_RECORD, bad]}, None) == {"batchItemFailures": []}
    good = json.loads((tmp_path / "results" / f"{SQS_RECORD['messageId']}.json").read_bytes())
    assert (good["prediction"], good["version"]) == ([ANSWER], 1)
    dead = json.loads((tmp_path / "results" / "dead" / "bad.json").read_bytes())
    assert (dead["body"], len(dead["problems"])) == ("{}", len(HOUSE))


def test_lambda_names_what_was_not_written(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A message whose document cannot be written is named, so that SQS hands it over again; the others are done."""
    handler = make_handler(store, NAME, to=str(tmp_path / "results"), dead=str(tmp_path / "dead"))
    shutil.rmtree(tmp_path / "dead")
    bad = {**SQS_RECORD, "messageId": "bad", "body": "{}"}

    assert handler({"Records": [bad, SQS_RECORD]}, None) == {"batchItemFailures": [{"itemIdentifier": "bad"}]}
    assert [path.name for path in (tmp_path / "results").iterdir()] == [f"{SQS_RECORD['messageId']}.json"]
    assert capsys.readouterr().out.startswith("warning: message bad: ")


def test_lambda_without_a_place(store: Path) -> None:
    """A handler that was given no place for documents says so when messages come, and answers what is invoked."""
    handler = make_handler(store, NAME)

    with pytest.raises(ValueError, match="name it with make_handler"):
        handler({"Records": [SQS_RECORD]}, None)
    assert handler([HOUSE], SimpleNamespace(aws_request_id="x"))["prediction"] == [ANSWER]
