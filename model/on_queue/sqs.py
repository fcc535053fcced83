"""Queues of Amazon SQS, and of servers that speak its protocol; needs boto3.

Every failure is a `StoreError` that names the queue and says what to do. Knows nothing of what messages say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

from model.errors import StoreError, first_line, one_line
from model.on_queue.message import Answer, Message

MAX_BATCH = 10  # messages of one request, the most that SQS allows
WAIT_SECONDS = 10  # of a long poll: half of what SQS allows, since a process that is told to end waits for it
_CONNECT_SECONDS = 5
_READ_SECONDS = WAIT_SECONDS + 15
_MAX_REASON = 1_000  # characters of an attribute, which counts towards the size of a message
_STRING = "String"
_AWS_HOST = re.compile(r"sqs\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
_REMEDIES: dict[str, str] = {
    "QueueDoesNotExist": "make the queue, or correct its name and the region",
    "AccessDenied": "allow it to receive, delete and change messages, and to read the queue's attributes",
}


@dataclass(frozen=True, slots=True)
class Received:
    """A message, and the receipt by which its queue knows who has it."""

    message: Message
    receipt: str


def is_queue(location: str) -> bool:
    """Return whether a place is named as a queue is: sqs://NAME, or the URL of a queue."""
    return location.startswith(("sqs://", "https://", "http://"))


class Queue:
    """One queue: sqs://NAME in the region and account of the credentials, or its URL. Threads may share it.

    Another server is that of `AWS_ENDPOINT_URL`, as with all tools for AWS, or the one in the URL.
    """

    def __init__(self, location: str, *, connections: int = MAX_BATCH) -> None:
        self.name = location
        parts = urlsplit(location)
        options: dict[str, Any] = {}
        if parts.scheme != "sqs":
            region = _AWS_HOST.fullmatch(parts.netloc)
            options = {"region_name": region[1]} if region else {"endpoint_url": f"{parts.scheme}://{parts.netloc}"}
        config = Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": 3},
            max_pool_connections=connections,
        )
        with self._named():
            self._client = boto3.client("sqs", config=config, **options)
            url = location
            if parts.scheme == "sqs":
                name = f"{parts.netloc}{parts.path}"
                url = self._client.get_queue_url(QueueName=name)["QueueUrl"]
        self._url = url
        self._max_bytes = self._numbers("MaximumMessageSize")[0]  # raises if it does not exist, or if nobody may look

    def receive(self, visibility_seconds: int, wait_seconds: int = WAIT_SECONDS) -> list[Received]:
        """Return up to `MAX_BATCH` messages, which nobody else gets for so long; none if none comes in time."""
        with self._named():
            reply = self._client.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=MAX_BATCH,
                WaitTimeSeconds=wait_seconds,
                VisibilityTimeout=visibility_seconds,
            )
        return [
            Received(Message(each["MessageId"], each["Body"]), each["ReceiptHandle"])
            for each in reply.get("Messages", [])
        ]

    def hold(self, receipts: Sequence[str], seconds: int) -> None:
        """Keep messages from others for so long from now on; with 0 anybody gets them at once."""
        entries = {"VisibilityTimeout": seconds}
        self._in_batches(self._client.change_message_visibility_batch, receipts, entries)

    def delete(self, receipts: Sequence[str]) -> None:
        """Remove messages. One that was given to somebody else meanwhile stays, and is answered again."""
        self._in_batches(self._client.delete_message_batch, receipts, {})

    def is_empty(self) -> bool:
        """Return whether the queue says that it has no message, neither now nor later, nor in anybody's hands."""
        return not any(
            self._numbers(*(f"ApproximateNumberOfMessages{which}" for which in ("", "NotVisible", "Delayed")))
        )

    def keep(self, message: Message, answer: Answer) -> None:
        """Send a message that was not answered, with its id and the reason as attributes unless it is too long then."""
        attributes = {"message_id": message.id, "reason": answer.reason[:_MAX_REASON]}
        named = {name: {"DataType": _STRING, "StringValue": text} for name, text in attributes.items()}
        parts = [message.body, *(part for name, text in attributes.items() for part in (name, _STRING, text))]
        if sum(len(part.encode()) for part in parts) > self._max_bytes:
            named = {}
        of_fifo = {"MessageGroupId": message.id, "MessageDeduplicationId": message.id}
        with self._named():
            self._client.send_message(
                QueueUrl=self._url,
                MessageBody=message.body,
                MessageAttributes=named,
                **(of_fifo if self._url.endswith(".fifo") else {}),
            )

    def _numbers(self, *names: str) -> list[int]:
        """Return attributes of the queue."""
        with self._named():
            reply = self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=list(names))
        return [int(reply["Attributes"][name]) for name in names]

    def _in_batches(self, call: Callable[..., Any], receipts: Sequence[str], each: dict[str, Any]) -> None:
        """Call for up to `MAX_BATCH` receipts at a time. What the queue says is the receipt's fault is no error."""
        for first in range(0, len(receipts), MAX_BATCH):
            batch = receipts[first : first + MAX_BATCH]
            entries = [{"Id": str(place), "ReceiptHandle": receipt, **each} for place, receipt in enumerate(batch)]
            with self._named():
                reply = call(QueueUrl=self._url, Entries=entries)
            failed = [entry for entry in reply.get("Failed", []) if not entry.get("SenderFault")]
            if failed:
                reason = one_line(failed[0].get("Message") or failed[0].get("Code", ""))
                raise StoreError(self.name, f"{len(failed)} messages could not be changed ({reason}); try again")

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Raise `StoreError` for whatever the client raises."""
        try:
            yield
        except NoRegionError:
            raise StoreError(self.name, "no region was found; set AWS_DEFAULT_REGION") from None
        except NoCredentialsError:
            raise StoreError(self.name, "no credentials were found; set them as for the AWS CLI") from None
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            remedy = next((text for part, text in _REMEDIES.items() if part in code), "check the queue, and try again")
            if "NonExistentQueue" in code:
                remedy = _REMEDIES["QueueDoesNotExist"]
            raise StoreError(self.name, f"{one_line(first_line(error))}; {remedy}") from None
        except BotoCoreError as error:
            reason = one_line(first_line(error))
            raise StoreError(self.name, f"it did not answer ({reason}); check the network, and try again") from None
