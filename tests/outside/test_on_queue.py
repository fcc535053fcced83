"""The consumer of a queue, with moto's servers of SQS and S3: processes that are killed, and places that fail."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from model import Artifact, Store
from tests.support.objects import BUCKET, S3, Proxy, object_server
from tests.support.server import wait_until
from tests.support.service import HOUSE, ROOT

NAME = "boston-housing"
N_MESSAGES = 10_000
N_KILLS = 5
# Messages of the queue that anybody may have. moto's own work on each message grows with the length of its queue.
BACKLOG = 20
UNAVAILABLE = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """The server of SQS and S3, behind a proxy that can break what passes."""
    pytest.importorskip("boto3")
    if reason := S3.missing():
        pytest.skip(reason)
    with object_server(S3, tmp_path_factory.mktemp("aws")) as running:
        yield running


@dataclass
class Aws:
    """A queue of its own and a prefix of its own in the bucket, as clients of the server see them."""

    environment: dict[str, str]
    sqs: Any
    s3: Any
    name: str = field(default_factory=lambda: uuid.uuid4().hex)

    @cached_property
    def url(self) -> str:
        return str(self.sqs.get_queue_url(QueueName=self.name)["QueueUrl"])

    @property
    def to(self) -> str:
        return f"s3://{BUCKET}/{self.name}"

    def send(self, bodies: Sequence[str]) -> list[str]:
        """Send messages, up to 10, and return their ids in order."""
        entries = [{"Id": str(place), "MessageBody": body} for place, body in enumerate(bodies)]
        sent = self.sqs.send_message_batch(QueueUrl=self.url, Entries=entries)["Successful"]
        return [each["MessageId"] for each in sorted(sent, key=lambda each: int(each["Id"]))]

    def counts(self) -> tuple[int, int]:
        """Return how many messages anybody may have, and how many somebody has."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return int(found[names[0]]), int(found[names[1]])

    def objects(self, prefix: str = "") -> dict[str, str]:
        """Return the MD5 of each object below the prefix, by its name there."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{self.name}/{prefix}")
        found = (each for page in pages for each in page.get("Contents", []))
        return {each["Key"].removeprefix(f"{self.name}/{prefix}"): each["ETag"].strip('"') for each in found}

    def read(self, name: str) -> Any:
        """Return the document of an object."""
        return json.loads(self.s3.get_object(Bucket=BUCKET, Key=f"{self.name}/{name}")["Body"].read())


@pytest.fixture
def aws(proxy: Proxy) -> Iterator[Aws]:
    """An empty queue and prefix; processes reach them through the proxy if they are given its port."""
    boto3 = pytest.importorskip("boto3")
    environment = S3.environment(proxy.upstream)
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": environment["AWS_SECRET_ACCESS_KEY"]}
    address = {"endpoint_url": environment["AWS_ENDPOINT_URL"], "region_name": environment["AWS_DEFAULT_REGION"]}
    made = Aws(environment, boto3.client("sqs", **keys, **address), boto3.client("s3", **keys, **address))
    made.sqs.create_queue(QueueName=made.name)
    yield made
    proxy.fault = lambda request: None
    made.sqs.close()
    made.s3.close()


Consume = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def consume(aws: Aws, store: Path, tmp_path: Path) -> Iterator[Consume]:
    """Starts a consumer; those that still run at the end are killed. Their standard error is in a file."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str, port: int | None = None, store: Path = store) -> subprocess.Popen[str]:
        environment = aws.environment | ({} if port is None else S3.environment(port))
        words = ["--store", str(store), "consume", NAME, f"sqs://{aws.name}", "--to", aws.to, *options]
        with (tmp_path / "stderr").open("a") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "model", *words],
                cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def expected(message_id: str, body: Any, model: Artifact) -> bytes:
    """Return the document of a message by what `Artifact.predict` says of its records."""
    records = body if isinstance(body, list) else [body]
    X = model.schema.matrix_from_records([{name: record[name] for name in model.schema.names} for record in records])
    document = {
        "prediction": model.predict(X).tolist(),
        "id": [record["id"] for record in records],
        "message_id": message_id,
        "model": model.name,
        "version": model.version,
        "digest": model.manifest.digest,
    }
    return (json.dumps(document, separators=(",", ":")) + "\n").encode()


def test_consumers_that_are_killed(aws: Aws, store: Path, consume: Consume, houses: pd.DataFrame) -> None:
    """Of 10,000 messages, 100 of them bad, each has its document although five consumers are killed at work.

    Each document is byte for byte what one uninterrupted prediction gives; bad messages have their reason.
    """
    records = houses.to_dict("records")
    bodies: list[Any] = []
    for number in range(N_MESSAGES):
        one = {**records[number % len(records)], "id": number, "RM": 4 + number / N_MESSAGES}
        bodies.append(
            {**one, "RM": "many"} if number % 100 == 50 else [one, {**one, "id": -number}] if number % 10 == 3 else one
        )
    ids: list[str] = []
    consumer = consume("--visibility", "3")
    for first in range(0, N_MESSAGES, 10):
        wait_until(lambda: aws.counts()[0] < BACKLOG)
        ids += aws.send([json.dumps(body) for body in bodies[first : first + 10]])
        if first and first % (N_MESSAGES // (N_KILLS + 1)) < 10:
            wait_until(lambda: aws.counts()[1] > 0)
            consumer.send_signal(signal.SIGKILL)
            assert consumer.wait() == -signal.SIGKILL
            consumer = consume("--visibility", "3")
    wait_until(lambda: aws.counts() == (0, 0))
    consumer.send_signal(signal.SIGTERM)
    printed, _ = consumer.communicate(timeout=60)

    assert consumer.returncode == 0
    assert " dead letter" in printed
    model = Store(store).load(NAME)
    is_good = [number % 100 != 50 for number in range(N_MESSAGES)]
    documents = {
        f"{message_id}.json": hashlib.md5(expected(message_id, body, model)).hexdigest()
        for message_id, body, good in zip(ids, bodies, is_good)
        if good
    }
    dead = {f"{message_id}.json" for message_id, good in zip(ids, is_good) if not good}
    found = aws.objects()
    assert {name: found[name] for name in found if not name.startswith("dead/")} == documents
    assert set(aws.objects("dead/")) == dead
    one = aws.read(f"dead/{ids[50]}.json")
    assert (one["reason"], json.loads(one["body"])) == ("1 problem: row 0, column 'RM': not a number", bodies[50])


def test_bucket_that_fails_for_a_while(aws: Aws, proxy: Proxy, consume: Consume, tmp_path: Path) -> None:
    """While documents cannot be written no message is removed or comes again; then each is written, and all end."""
    sent = {f"{message_id}.json" for message_id in aws.send([json.dumps({**HOUSE, "id": n}) for n in range(10)])}
    proxy.fault = lambda request: UNAVAILABLE if request.writes else None
    consumer = consume("--visibility", "3", "--until-empty", port=proxy.port)
    wait_until(lambda: (tmp_path / "stderr").read_text().count("next try in 2 s") >= 10)
    assert (aws.objects(), aws.counts()) == ({}, (0, 10))
    proxy.fault = lambda request: None

    assert consumer.wait(timeout=60) == 0
    assert set(aws.objects()) == sent
    assert consumer.stdout
    assert consumer.stdout.read().startswith("10 messages, 10 rows, 0 dead letters, ")


def test_end_while_the_bucket_fails(aws: Aws, proxy: Proxy, consume: Consume, tmp_path: Path) -> None:
    """A consumer that is told to end while it cannot write gives its messages back at once, and ends well."""
    aws.send([json.dumps(HOUSE)] * 3)
    proxy.fault = lambda request: UNAVAILABLE if request.writes else None
    consumer = consume("--visibility", "600", port=proxy.port)
    wait_until(lambda: "next try in 1 s" in (tmp_path / "stderr").read_text())
    consumer.send_signal(signal.SIGTERM)

    assert consumer.wait(timeout=60) == 0
    assert aws.counts() == (3, 0)
    assert consumer.stdout
    assert consumer.stdout.read().startswith("0 messages, 0 rows, 0 dead letters, 3 given back, ")


def test_queue_that_fails_for_a_while(aws: Aws, proxy: Proxy, consume: Consume, tmp_path: Path) -> None:
    """A queue that does not answer for a while is asked again."""
    consumer = consume("--until-empty", port=proxy.port)
    wait_until(lambda: "answers the messages" in (tmp_path / "stderr").read_text())
    proxy.close()
    wait_until(lambda: "did not answer" in (tmp_path / "stderr").read_text())
    aws.send([json.dumps(HOUSE)])
    proxy.open()

    assert consumer.wait(timeout=60) == 0
    assert [name.count("/") for name in aws.objects()] == [0]


def test_dead_letters_in_a_queue(aws: Aws, consume: Consume) -> None:
    """A queue of dead letters gets the message as it was, with its id and the reason."""
    dead = aws.sqs.create_queue(QueueName=f"{aws.name}-dead")["QueueUrl"]
    (message_id,) = aws.send(["{"])
    assert consume("--until-empty", "--dead", f"sqs://{aws.name}-dead").wait(timeout=60) == 0

    (found,) = aws.sqs.receive_message(QueueUrl=dead, MessageAttributeNames=["All"])["Messages"]
    attributes = {name: each["StringValue"] for name, each in found["MessageAttributes"].items()}
    assert found["Body"] == "{"
    assert attributes == {"message_id": message_id, "reason": attributes["reason"]}
    assert attributes["reason"].startswith("not a table: ")
    assert (aws.objects(), aws.counts()) == ({}, (0, 0))


def test_dead_letter_that_fits_only_bare(aws: Aws, consume: Consume) -> None:
    """A message that is as long as the queue of dead letters allows is sent there without attributes."""
    longest = {"MaximumMessageSize": "2048"}
    dead = aws.sqs.create_queue(QueueName=f"{aws.name}-short", Attributes=longest)["QueueUrl"]
    aws.send(["ä" * 1_000])
    assert consume("--until-empty", "--dead", f"sqs://{aws.name}-short").wait(timeout=60) == 0

    (found,) = aws.sqs.receive_message(QueueUrl=dead, MessageAttributeNames=["All"])["Messages"]
    assert (found["Body"], "MessageAttributes" in found) == ("ä" * 1_000, False)
    assert aws.counts() == (0, 0)


def test_repeated_message_keeps_its_document(aws: Aws, consume: Consume) -> None:
    """A message that comes again after its document was written keeps that document, and is removed."""
    (message_id,) = aws.send([json.dumps(HOUSE)])
    aws.s3.put_object(Bucket=BUCKET, Key=f"{aws.name}/{message_id}.json", Body=b'"first"')
    assert consume("--until-empty").wait(timeout=60) == 0

    assert (aws.read(f"{message_id}.json"), aws.counts()) == ("first", (0, 0))


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["sqs://nobody", "--to", "here"], "error: sqs://nobody: "),
        (["here.csv", "--to", "here"], "error: here.csv is no queue; name one as sqs://NAME, or by its URL"),
        (["sqs://{queue}", "--to", "s3://nobody/x"], "error: s3://nobody/x: there is no bucket or container nobody"),
    ],
)
def test_what_does_not_exist(aws: Aws, store: Path, tmp_path: Path, words: list[str], error: str) -> None:
    """A queue or bucket that does not exist is named before any message is taken, in one line."""
    named = [word.format(queue=aws.name) for word in words]
    done = subprocess.run(
        [sys.executable, "-m", "model", "--store", str(store), "consume", NAME, *named],
        cwd=tmp_path, env=os.environ | aws.environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(error)
