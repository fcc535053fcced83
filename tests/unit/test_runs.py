"""The records of runs: their format, their ids, damaged ones, and what the command `runs` says of them."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import NotInStoreError, Store, on_mlflow
from model.cli.main import main
from model.errors import one_line
from model.store import artifact, runs
from model.store.runs import FAILED, FINISHED, INTERRUPTED, OUTCOMES, Run, decode, encode
from tests.support import store as shared

shelf = shared.shelf

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
cells = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
objects = st.dictionaries(
    texts, st.recursive(cells, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
)
records = st.builds(
    Run,
    id=st.from_regex(r"[0-9]{8}-[0-9]{6}-[0-9]{6}", fullmatch=True, alphabet=st.characters(max_codepoint=127)),
    model=texts,
    kind=texts,
    outcome=st.sampled_from(OUTCOMES),
    started_at=st.datetimes(datetime(1970, 1, 2), timezones=st.just(UTC)).map(datetime.isoformat),
    seconds=st.floats(0, 1e9),
    by=texts,
    error=texts,
    parameters=objects,
    code=objects,
    environment=objects,
    facts=objects,
)
SMALL = Run(
    id="20260101-000000-000000",
    model="m",
    kind="train",
    outcome=FINISHED,
    started_at="2026-01-01T00:00:00.000000+00:00",
    seconds=1.5,
    by="a@b",
    error="",
    parameters={"trials": 3},
    code={"git_commit": None},
    environment={"cores": 2, "packages": {"numpy": "2"}},
    facts={"metrics": {"validation": {"rmse": 2.0}, "training": {"rmse": 1.0}}, "version": 1, "data": {"rows": 1200}},
)
SEARCH = {
    "learner": "gbm",
    "metric": "RMSE",
    "n_trials": 2,
    "trials": [
        {"number": 0, "learner": "baseline", "state": "failed", "scores": [], "seconds": 0.5, "parameters": {}}
        | {"reason": "out of memory"},
        {
            "number": 1,
            "learner": "gbm",
            "state": "complete",
            "scores": [2.0, 4.0],
            "seconds": 1,
            "parameters": {"n": 7},
        },
    ],
    "leaderboard": [{"learner": "gbm", "trial": 1, "trials": 1, "mean": 3.0, "low": None, "high": None}],
}


@pytest.fixture
def kept(shelf: Store) -> Store:
    """A store with three versions and four runs: of version 1, a failed one, one that was interrupted, of version 2."""
    changed: list[dict[str, Any]] = [
        {"facts": {**SMALL.facts, "search": SEARCH}},
        {"outcome": FAILED, "error": "no column\n\x1b[31mred", "facts": {"data": {"sha256": "b"}}},
        {"outcome": INTERRUPTED, "facts": {}},
        {"facts": {**SMALL.facts, "version": 2, "metrics": {"training": {"log_loss": 0.5}}}, "parameters": {}},
    ]
    for number, changes in enumerate(changed):
        runs.write(shelf, replace(SMALL, id=f"2026010{number + 1}-000000-000000", **changes))
    return shelf


def said(store: Store, capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    """Run the command and return what it prints."""
    assert main(["--store", str(store.root), "runs", *words]) == status
    output, errors = capsys.readouterr()
    return output if status == 0 else errors


@given(records)
def test_record_is_read_back(run: Run) -> None:
    """Every record is read back as it was, and is written with the same bytes again."""
    assert decode(encode(run)) == run


@settings(max_examples=30)
@given(records, st.data())
def test_any_changed_byte_is_found(run: Run, data: st.DataObject) -> None:
    """A byte that is changed, added or taken away is found, and raises nothing but `ValueError`."""
    content = encode(run)
    place = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.binary(max_size=1).filter(lambda byte: byte != content[place : place + 1]))
    changed = content[:place] + byte + content[place + data.draw(st.integers(0, 1)) :]

    if changed != content:
        with pytest.raises(
            ValueError,
            match=r"it |its |a fact|`started_at` is|Expecting|Invalid|Extra|Unterminated|codec|control|Out of range",
        ):
            decode(changed)


@given(
    st.binary(max_size=60) | st.recursive(cells, lambda inner: st.lists(inner)).map(lambda x: json.dumps(x).encode())
)
def test_other_bytes_are_no_record(content: bytes) -> None:
    """What is no record is refused with `ValueError`, whatever it is."""
    with pytest.raises(ValueError):  # noqa: PT011
        decode(content)


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to each value in a JSON value."""
    yield before
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*before, key))


WHOLE = {**SMALL.to_document(), "facts": {**SMALL.facts, "digest": "a" * 64, "algorithm": "gbm", "search": SEARCH}}
others: st.SearchStrategy[Any] = st.recursive(
    cells | st.just(10**4_000) | st.just([]) | st.just({}),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(
    place=st.sampled_from([place for place in places(WHOLE) if place and place[0] != "format_version"]), other=others
)
def test_no_record_is_more_than_a_line(place: tuple[Any, ...], other: Any) -> None:
    """Whatever else is in the place of a fact, its record is shown and sent, or one line names the file as damaged."""
    document = copy.deepcopy(WHOLE)
    inner: Any = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = other
    content = artifact.to_json({**document, "sha256": hashlib.sha256(artifact.to_json(document)).hexdigest()})
    with TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.keep("m", runs.RUNS, f"{SMALL.id}.json", content)
        found, damaged = runs.read(store, "m")
        assert len(found) + len(damaged) == 1
        assert all(str(error).startswith(f"{folder}/m/runs/{SMALL.id}.json: is not the record") for error in damaged)
        shown = [["m", *words] for run in found for words in (["--show", run.id], ["--compare", run.id, run.id])]
        for words in ([], *shown):
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as errors:
                assert main(["--store", folder, "runs", *words]) == 0
            lines = errors.getvalue().splitlines()
            assert lines == ["damaged  " + one_line(str(error)) for error in damaged] + lines[len(damaged) :][:1]
        for run in found:
            assert all(math.isfinite(value) for _, value, _ in on_mlflow.numbers(run))


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"version": "1"}, "`facts.version` has the wrong type"),
        ({"search": {**SEARCH, "trials": [{}]}}, "`facts.search.trials[0]` has no 'number'"),
    ],
)
def test_fact_of_another_type_is_named(facts: dict[str, Any], reason: str) -> None:
    """The reason says which fact it is."""
    with pytest.raises(ValueError, match=re.escape(reason)):
        decode(encode(replace(SMALL, facts=facts)))


@pytest.mark.parametrize("place", ["facts", "parameters"])
@pytest.mark.parametrize("n_levels", [60, 300, 600, 900])
def test_record_of_many_levels_is_damaged(place: str, n_levels: int) -> None:
    """Lists in lists, of which no run has so many, are refused before anything else looks at them."""
    deep: Any = []
    for _ in range(n_levels):
        deep = [deep]
    document = {**SMALL.to_document(), place: {"metrics": {"x": deep}}}
    content = artifact.to_json({**document, "sha256": "0" * 64})

    with pytest.raises(ValueError, match="levels"):
        decode(content)


def test_record_of_a_later_format_says_so() -> None:
    """A record that a later version wrote is refused, and the reason says what it is."""
    later = encode(SMALL).replace(b'"format_version": 1', b'"format_version": 2')

    with pytest.raises(ValueError, match="which a later version of tabserve wrote"):
        decode(later)


def test_runs_of_the_same_moment_have_ids_of_their_own(tmp_path: Path) -> None:
    """A run that began in the same microsecond as others gets the next id; none replaces another."""
    written = [runs.write(Store(tmp_path), replace(SMALL, seconds=float(number))) for number in range(3)]
    found, damaged = runs.read(Store(tmp_path), "m")

    assert [run.id[-6:] for run in written] == ["000000", "000001", "000002"]
    assert (found, damaged) == (written, [])
    assert sorted(path.name for path in (tmp_path / "m" / "runs").iterdir()) == [f"{run.id}.json" for run in written]


def test_damaged_records_are_named_and_the_others_shown(kept: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """A record that is cut off, no file, or of another run is named with what to do; the others are listed."""
    folder = kept.root / "m" / "runs"
    whole = (folder / "20260101-000000-000000.json").read_bytes()
    (folder / "20260201-000000-000000.json").write_bytes(whole)
    (folder / "20260202-000000-000000.json").write_bytes(whole[:50])
    (folder / "20260203-000000-000000.json").mkdir()
    (folder / "20260204-000000-000000.json").write_bytes(b"[" * 200_000)
    (folder / "journal.jsonl").write_text("of a search")
    assert main(["--store", str(kept.root), "runs", "m", "--json"]) == 0
    output, errors = capsys.readouterr()

    assert len(json.loads(output)) == 4
    assert [line[:8] for line in errors.splitlines()] == ["damaged "] * 4
    assert re.findall(r"/2026020(\d)-000000-000000.json: is not the record of this run: ", errors) == [
        "1",
        "2",
        "3",
        "4",
    ]


def test_list_has_a_line_for_each_run(kept: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """The table has id, version, outcome, learner, rows and metric of each run, or of what it failed."""
    head, *lines = said(kept, capsys).splitlines()

    assert re.split("  +", head) == ["run", "model", "kind", "outcome", "learner", "rows", "result", "seconds"]
    assert re.split("  +", lines[0]) == [
        *("20260101-000000-000000", "m@1", "train", "finished", "gbm", "1,200", "rmse 2 (validation)", "1.5"),
    ]
    assert "failed" in lines[1]
    assert r"no column\n\x1b[31mred" in lines[1]
    assert "interrupted" in lines[2]
    assert "log loss 0.5 (training)" in lines[3]
    assert lines == said(kept, capsys, "m").splitlines()[1:]


def test_json_is_the_records(kept: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` prints the records themselves."""
    found, _ = runs.read(kept, "m")

    assert json.loads(said(kept, capsys, "--json")) == [run.to_document() for run in found]
    assert json.loads(said(kept, capsys, "m", "--show", "@1", "--json")) == found[0].to_document()


def test_show_has_the_leaderboard_and_the_trials(kept: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """`--show` prints what was asked for, the leaderboard, the best trials first, and of what others failed."""
    output = said(kept, capsys, "m", "--show", "20260101")
    error = said(kept, capsys, "m", "--show", "20260102")

    assert "asked    trials: 3\n" in output
    assert re.search(r"^gbm +3 +one fold: none +1 +1$", output, re.MULTILINE)
    lines = [re.split("  +", line) for line in output.splitlines()[-2:]]
    assert lines == [["1", "gbm", "complete", "3", "1.0", "n 7"], ["0", "baseline", "failed", "0.5", "out of memory"]]
    assert "error    no column\nerror    \\x1b[31mred\n" in error


def test_compare_names_what_differs(kept: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """`--compare` has the facts that differ and no others; runs are named by version, alias, or beginning of an id."""
    found = json.loads(said(kept, capsys, "m", "--compare", "@1", "@challenger", "--json"))

    assert {(each["part"], each["name"]): (each["old"], each["new"]) for each in found} == {
        ("parameters", "trials"): (3, None),
        ("model", "learner"): ("gbm", None),
        ("metrics", "validation.rmse"): (2.0, None),
        ("metrics", "training.rmse"): (1.0, None),
        ("metrics", "training.log_loss"): (None, 0.5),
    }
    assert re.search(r"^data +rows +1200$", said(kept, capsys, "m", "--compare", "@1", "20260102"), re.MULTILINE)
    assert said(kept, capsys, "m", "--compare", "@1", "@1").splitlines()[1].startswith("no difference")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none"], "there is no model 'none'"),
        (["M"], "'M' is not a model's name"),
        (["m", "--show", "2026"], "'2026' is the beginning of 4 runs, such as 20260101-000000-000000"),
        (["m", "--show", "1999"], "there is no run '1999'"),
        (["m", "--show", "@3"], "there is no run '@3'"),
        (["m", "--show", "@none"], "has no version or alias 'none'"),
        (["--show", "1"], "name the model, too"),
        (["none", "--mlflow", "http://127.0.0.1:1"], "there is no model 'none'"),
        (["m", "--plot", "runs.pdf"], "--plot writes a PNG, and runs.pdf is none by its name; name a file that ends"),
        (["m", "--plot", "runs.png", "--json"], "--plot draws a picture, which is no JSON; leave out --plot or --json"),
    ],
)
def test_what_there_is_not(kept: Store, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    """A model, run or version that does not exist is named in one line."""
    error = said(kept, capsys, *words, status=1)

    assert message in error
    assert error.count("\n") == 1


def test_store_without_runs(shelf: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """A model whose runs were not recorded is told apart from one that does not exist."""
    assert "no run of the model 'm' was recorded" in said(shelf, capsys, "m", status=1)
    assert main(["--store", str(shelf.root), "runs"]) == 0
    assert "no run was recorded" in capsys.readouterr().err


def test_keep_removes_old_runs_without_a_version(kept: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """`--keep` removes the oldest runs, but not those that wrote a version which is still in the store."""
    assert said(kept, capsys, "m", "--keep", "2") == "20260102-000000-000000 is gone\n"
    assert [run.id for run in runs.read(kept, "m")[0]] == [f"2026010{number}-000000-000000" for number in (1, 3, 4)]
    assert said(kept, capsys, "m", "--keep", "2").startswith("nothing to remove")


def test_plot_is_a_picture(kept: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--plot` writes a PNG, also where a run has another metric than the others; without metrics there is none."""
    picture = tmp_path / "runs.png"
    assert said(kept, capsys, "m", "--plot", str(picture)) == f"written  {picture}: 4 runs\n"
    assert picture.read_bytes().startswith(b"\x89PNG")
    runs.remove(kept, "m", [f"2026010{number}-000000-000000" for number in (1, 4)])

    assert "nothing to draw" in said(kept, capsys, "m", "--plot", str(picture), status=1)


def test_what_was_sent_is_a_sentence() -> None:
    """The line about an MLflow server counts in the singular, too, and names versions of another number there."""
    some = on_mlflow.Sent(5, 3, 2, {1: "1"}, ())
    assert str(some) == "5 runs and 3 versions are new there, 2 aliases moved"
    assert str(on_mlflow.Sent(1, 1, 1, {2: "2", 3: "4"}, ())) == (
        "1 run and 1 version are new there, 1 alias moved; version 3 has the number 4 there"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:secret@host/t.csv?sig=secret#secret", "http://host/t.csv"),
        ("s3://user:sec/ret@host/t.csv", "s3://host/t.csv"),
        ("https://host:8443/@scope/t.csv", "https://host:8443/@scope/t.csv"),
        ("no answer from 'http://user:secret@host/t.csv', try again", "no answer from 'http://host/t.csv', try again"),
        ("http://secret@[::1/t.csv", "http://…"),
        ("zip://a.zip::s3://ann:secret@bucket/t.csv", "zip://a.zip::s3://bucket/t.csv"),
        ("filecache://::s3://ann:secret@bucket/t.csv", "filecache://::s3://bucket/t.csv"),
        ("http://ann:secret@[::1]:80/t.csv", "http://[::1]:80/t.csv"),
        ("a@b: c?d", "a@b: c?d"),
    ],
)
def test_urls_lose_their_credentials(text: str, shown: str) -> None:
    """User, password, query and fragment of each URL in a text are left out; other texts stay as they are."""
    assert runs.redacted(text) == shown


def test_name_of_a_run_is_a_model(tmp_path: Path) -> None:
    """A name that no model can have, such as a path, is refused before anything is read."""
    with pytest.raises(NotInStoreError, match="is not a model's name"):
        runs.read(Store(tmp_path), "../x")


def test_record_that_is_too_large_is_refused() -> None:
    """A record that could not be read back is not written."""
    facts: dict[str, Any] = {"x": ["y" * 1_000] * 10_000}

    with pytest.raises(ValueError, match="more than"):
        encode(replace(SMALL, facts=facts))
