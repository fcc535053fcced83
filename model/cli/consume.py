"""The command that answers the messages of a queue."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from model.cli.arguments import REFERENCE, Commands, count, store_of
from model.cli.sign import add_trusted_keys, trusted
from model.errors import StoreError, counted, one_line

_MAX_VISIBILITY_SECONDS = 43_200  # SQS's own limit
_MIN_VISIBILITY_SECONDS = 3  # a third of it passes between two extensions


def add_consume(commands: Commands) -> None:
    """Declare the command `consume`."""
    consume = commands.add_parser(
        "consume",
        help="answer the messages of a queue (Amazon SQS), and write a document for each",
        description="A message is a record in JSON, or a list of records. It is removed after its document is written, "
        "so each is answered at least once; one that was answered before keeps its document. Ends when it is told to "
        "(SIGTERM, Ctrl-C), after the messages that it has. docs/queues.md says what holds when something fails.",
    )
    consume.add_argument("model", help=f"{REFERENCE}; a moved alias is followed")
    consume.add_argument("queue", help="sqs://NAME, or the URL of a queue")
    consume.add_argument(
        "--to", required=True, metavar="PLACE", help="a folder, or a URL such as s3://bucket/prefix, for the documents"
    )
    consume.add_argument(
        "--dead",
        default="",
        metavar="PLACE",
        help="where messages go that cannot be answered, each with the reason: a folder, a URL, or a queue (default: "
        "the folder dead in --to)",
    )
    consume.add_argument(
        "--id", default="id", metavar="KEY", help="the key of a record that names it, in its result, too (default: id)"
    )
    consume.add_argument(
        "--ignore-unknown", action="store_true", help="ignore keys that the model does not know, up to 20 a record"
    )
    consume.add_argument("--until-empty", action="store_true", help="end when the queue has no messages any more")
    consume.add_argument(
        "--threads", type=count, default=4, help="how many batches of 10 messages are worked on at once (default: 4)"
    )
    consume.add_argument(
        "--visibility",
        type=_visibility,
        default=60,
        metavar="SECONDS",
        help="how long after a consumer died others get its messages; a living one extends it (default: %(default)s)",
    )
    add_trusted_keys(consume)
    consume.set_defaults(run=_consume)


def _consume(options: argparse.Namespace) -> None:
    try:
        from model.on_queue.consumer import Consumer
        from model.on_queue.places import below, open_place
        from model.on_queue.sqs import MAX_BATCH, Queue, is_queue
    except ModuleNotFoundError as error:
        raise StoreError(
            options.queue,
            f"needs the package {error.name}, which is not installed; pip install -r requirements-sqs.txt",
        ) from None
    from model.on_queue.current import Current

    if not is_queue(options.queue):
        raise ValueError(f"{options.queue} is no queue; name one as sqs://NAME, or by its URL")
    current = Current(
        store_of(options),
        options.model,
        say=_say,
        signed=trusted(options),
        ignore_unknown=options.ignore_unknown,
    )
    connections = options.threads * MAX_BATCH
    queue = Queue(options.queue, connections=connections)
    dead = options.dead or below(options.to, "dead")
    consumer = Consumer(
        queue,
        current,
        results=open_place(options.to),
        dead=Queue(dead, connections=connections) if is_queue(dead) else open_place(dead),
        say=_say,
        id_key=options.id,
        threads=options.threads,
        visibility_seconds=options.visibility,
    )
    model = current.model()
    _say(f"{model.name}@{model.version} answers the messages of {options.queue}")
    started = time.monotonic()
    with _ended_by_signals(consumer.stop):
        done = consumer.run(until_empty=options.until_empty)
    model = current.model()
    returned = f", {done.n_returned:,} given back" if done.n_returned else ""
    print(
        f"{counted(done.n_messages, 'message')}, {counted(done.n_rows, 'row')}, {counted(done.n_dead, 'dead letter')}"
        f"{returned}, {time.monotonic() - started:.1f} s, {model.name}@{model.version} ({model.manifest.digest})"
    )


def _say(line: str) -> None:
    print(one_line(line), file=sys.stderr, flush=True)


def _visibility(text: str) -> int:
    seconds = count(text)
    if not _MIN_VISIBILITY_SECONDS <= seconds <= _MAX_VISIBILITY_SECONDS:
        limits = f"from {_MIN_VISIBILITY_SECONDS} to {_MAX_VISIBILITY_SECONDS:,}"
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds {limits}")
    return seconds


@contextmanager
def _ended_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` for the first signal that asks this process to end; the second one acts as usual."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    usual = {number: signal.getsignal(number) for number in numbers}

    def end(number: int, frame: FrameType | None) -> None:
        # In a thread: what the signal interrupts may hold the lock that `stop` takes.
        threading.Thread(target=stop, daemon=True).start()
        signal.signal(number, usual[signal.Signals(number)])

    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, usual[number])
