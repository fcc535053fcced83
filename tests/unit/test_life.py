"""The life of a version by the command line: compared, promoted, rolled back, tagged and pruned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model import Artifact, ModelError, NotInStoreError, Store
from model.cli.diff import golden
from model.cli.life import promote_new
from model.cli.main import main
from model.live.prediction_log import PredictionLog
from model.schema import dates
from model.store import differences, life
from model.store.artifact import read_draft
from model.store.versions import CHAMPION
from tests.support import store as shared
from tests.support.examples import rows_of
from tests.support.service import TABLE
from tests.support.signatures import key_pair
from tests.support.store import SMALL

NAME = "boston-housing"
Command = Callable[..., tuple[int, str, str]]

shelf = shared.shelf


@pytest.fixture
def two(store: Path, worse_store: Path, tmp_path: Path) -> Store:
    """A store with the trained model as version 1, its champion, and a worse one as version 2."""
    models = Store(Path(shutil.copytree(store, tmp_path / "two")))
    models.add(NAME, read_draft(worse_store / NAME / "1"))
    return models


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command on a store; return its exit status, its output and its errors."""

    def command(store: Store, *arguments: object) -> tuple[int, str, str]:
        status = main(["--store", str(store.root), *map(str, arguments)])
        return status, *capsys.readouterr()

    return command


def champion_of(store: Store) -> int:
    return store.aliases(NAME)[CHAMPION]


def test_new_version_is_listed_as_the_candidate(two: Store, run: Command) -> None:
    """A version that is added beside a champion is the candidate; `list --json` has what a person decides by."""
    status, output, _ = run(two, "list", "--json")
    one, other = json.loads(output)

    assert status == 0
    assert (one["aliases"], other["aliases"]) == ([CHAMPION], ["candidate"])
    assert (one["model"], one["version"], one["rows"], one["metric"], one["of"]) == (NAME, 1, 506, "rmse", "validation")
    assert one["value"] < other["value"]
    assert other["digest"] == two.load(f"{NAME}@2").manifest.digest
    assert run(two, "list", "none")[2].startswith("error: there is no model 'none'")


def test_damaged_version_is_listed(two: Store, run: Command) -> None:
    """A version whose manifest cannot be read is listed with its aliases, and says so."""
    (two.root / NAME / "2" / "manifest.json").write_text("{}")

    assert "damaged: see verify" in run(two, "list")[1].splitlines()[2]
    assert "is not a manifest" in json.loads(run(two, "list", "--json")[1])[1]["problem"]


def test_damaged_history_hides_no_other_model(two: Store, run: Command) -> None:
    """A model whose last move is damaged is listed without aliases, the move is named, and other models are as ever."""
    shutil.copytree(two.root / NAME, two.root / "a")
    (two.root / "a" / "moves" / "2.json").write_text("{}")
    status, output, errors = run(two, "list", "--json")
    broken, *_, fine = json.loads(output)

    assert status == 0
    assert "is not a move of aliases" in errors
    assert (broken["model"], broken["aliases"]) == ("a", [])
    assert "is not a move of aliases" in broken["problem"]
    assert (fine["model"], fine["aliases"], fine["problem"]) == (NAME, ["candidate"], None)


def by(sizes: NDArray[np.float64]) -> str:
    """Return by how much answers change, given the sizes of all differences."""
    return f"by {np.median(sizes):.6g} in the median and {sizes.max():.6g} at most"


def test_promote_says_what_changes_and_moves_in_one_step(two: Store, run: Command) -> None:
    """`promote` names how many golden answers change and by how much, and the history has why and by whom."""
    old, new = two.load(f"{NAME}@1"), two.load(f"{NAME}@2")
    sizes = np.abs(old.golden_predictions - new.predict(old.golden_rows))
    status, output, _ = run(two, "promote", f"{NAME}@2", "--why", "to see", "--by", "ann")
    move = two.history(NAME)[-1]

    assert status == 0
    assert f"answers  golden rows of {NAME}@1: 64 of 64 answers change, {by(sizes)}\n" in output
    assert f"moved    {NAME}, move 3: promote champion from 1 to 2 (to see)\n" in output
    assert (move.action, move.by, move.why, move.aliases[CHAMPION].digest) == (
        *("promote", "ann", "to see"),
        new.manifest.digest,
    )
    assert champion_of(two) == 2
    assert "is the champion already" in run(two, "promote", f"{NAME}@2")[1]
    assert len(two.history(NAME)) == 3


def test_dry_run_moves_nothing(two: Store, run: Command) -> None:
    """`promote --dry-run` says the same, and no file changes."""
    before = {path: path.read_bytes() for path in two.root.rglob("*") if path.is_file()}
    status, output, _ = run(two, "promote", f"{NAME}@2", "--dry-run")

    assert status == 0
    assert "64 of 64 answers change" in output
    assert {path: path.read_bytes() for path in two.root.rglob("*") if path.is_file()} == before


def test_version_that_does_not_verify_is_not_promoted(two: Store, run: Command) -> None:
    """`promote` refuses what a server would refuse, names the file, and moves nothing."""
    (two.root / NAME / "2" / "golden.json").write_text("{}")
    status, _, errors = run(two, "promote", f"{NAME}@2")

    assert status == 1
    assert "golden.json: has 2 bytes where the manifest says" in errors
    assert champion_of(two) == 1


def test_only_what_is_signed_is_promoted(two: Store, run: Command, tmp_path: Path) -> None:
    """With `--key`, `promote` and `rollback` refuse what a server that trusts the key refuses, and move nothing."""
    private, public = key_pair(tmp_path)
    status, _, errors = run(two, "promote", f"{NAME}@2", "--key", public)
    assert (status, champion_of(two)) == (1, 1)
    assert "model.sig: is missing: the version is not signed" in errors

    assert run(two, "sign", f"{NAME}@2", "--key", private)[0] == 0
    status, output, _ = run(two, "promote", f"{NAME}@2", "--key", public)
    assert (status, champion_of(two)) == (0, 2)
    assert "64 golden rows answered to the last bit, signed by a trusted key\n" in output

    status, _, errors = run(two, "rollback", NAME, "--key", public)
    assert (status, champion_of(two)) == (1, 2)
    assert f"{NAME}/1/model.sig: is missing" in errors


def test_keys_of_the_servers_are_those_of_the_commands(
    two: Store, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where TABSERVE_TRUSTED_KEYS names keys, only what one of them has signed is promoted, or gone back to."""
    (private, public), (_, other) = (key_pair(tmp_path, name) for name in ("key", "other"))
    monkeypatch.setenv("TABSERVE_TRUSTED_KEYS", f"{other}, {public}")
    for command in ("promote", "verify"):
        assert "model.sig: is missing" in run(two, command, f"{NAME}@2")[2]
    run(two, "sign", f"{NAME}@2", "--key", private)
    assert "does not verify" in run(two, "promote", f"{NAME}@2", "--key", other)[2]
    assert champion_of(two) == 1
    assert ", signed by a trusted key" in run(two, "promote", f"{NAME}@2")[1]
    assert "model.sig: is missing" in run(two, "rollback", NAME)[2]
    monkeypatch.setenv("TABSERVE_TRUSTED_KEYS", str(tmp_path / "none.pem"))
    assert "none.pem: does not exist" in run(two, "promote", f"{NAME}@1")[2]
    assert champion_of(two) == 2

    monkeypatch.setenv("TABSERVE_TRUSTED_KEYS", "")
    assert run(two, "rollback", NAME)[0] == 0


def test_new_version_is_promoted_past_other_moves(two: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """A training promotes past moves of other aliases; it says so if the champion was moved, and moves nothing."""
    new, after = two.load(f"{NAME}@2"), two.last_move(NAME)
    assert after
    life.tag(two, f"{NAME}@1", "stable")
    promote_new(two, new, after=after, why="better")
    assert two.aliases(NAME) == {"candidate": 2, CHAMPION: 2, "stable": 1}

    life.promote(two, two.load(f"{NAME}@1"), after=two.last_move(NAME), by="ann")
    moves = two.history(NAME)
    capsys.readouterr()
    promote_new(two, new, after=moves[-2], why="better")
    assert capsys.readouterr().out.startswith(f"promote  no: {NAME} was moved meanwhile, by ann at ")
    assert two.history(NAME) == moves


def test_damaged_champion_can_be_replaced(two: Store, run: Command) -> None:
    """A champion that does not load is said to be so, and does not prevent that another version is promoted."""
    (two.root / NAME / "1" / "golden.json").write_text("{}")
    status, output, _ = run(two, "promote", f"{NAME}@2")

    assert (status, champion_of(two)) == (0, 2)
    assert "answers  not compared: the champion does not load: " in output


def test_promote_replays_logged_requests(two: Store, run: Command, tmp_path: Path) -> None:
    """With a log, the champion's last logged rows are answered by both versions; rows without features do not count."""
    url = f"sqlite:///{tmp_path}/predictions.db"
    X = rows_of(NAME).X[:20]
    old, new = two.load(f"{NAME}@1"), two.load(f"{NAME}@2")
    common: dict[str, Any] = {"model": NAME, "version": 1, "prediction": 1.0}
    ages = [timedelta(days=20 if n < 5 else 1) for n in range(20)]
    with closing(PredictionLog(url)) as log:
        log.write(
            [
                {
                    **common,
                    "request_id": f"r{n}",
                    "row": 0,
                    "time": datetime.now(UTC) - ages[n],
                    "features": None if n == 19 else dict(zip(old.schema.names, row)),
                }
                for n, row in enumerate(X.tolist())
            ]
        )
    sizes = np.abs(old.predict(X[5:19]) - new.predict(X[5:19]))

    output = run(two, "promote", f"{NAME}@2", "--log", url, "--dry-run")[1]
    assert f"answers  the log's last 7 days: 14 of 14 answers change, {by(sizes)}\n" in output
    life.promote(two, new, after=two.last_move(NAME))
    output = run(two, "promote", f"{NAME}@1", "--log", url, "--dry-run")[1]
    assert f"the log's last 7 days: not compared: it has no row of {NAME}@2 with its features" in output


def test_rollback_goes_to_the_champion_before(two: Store, run: Command) -> None:
    """`rollback` goes back, further each time, whatever was tagged meanwhile; where there is none it is refused."""
    for version in (2, 1):
        life.promote(two, two.load(f"{NAME}@{version}"), after=two.last_move(NAME))
    life.tag(two, f"{NAME}@2", "challenger")

    found = []
    for _ in range(2):
        assert run(two, "rollback", NAME, "--why", "worse")[0] == 0
        found.append(champion_of(two))
    assert found == [2, 1]
    status, _, errors = run(two, "rollback", NAME)
    assert status == 1
    assert errors.startswith(f"error: the model {NAME!r} has no earlier champion to go back to; name a version")
    assert [move.action for move in two.history(NAME)] == [
        *("register", "register", "promote", "promote", "tag", "rollback", "rollback"),
    ]


def test_rollback_never_goes_to_what_does_not_verify(two: Store, run: Command) -> None:
    """A champion before that is damaged is named, and the present one stays."""
    life.promote(two, two.load(f"{NAME}@2"), after=two.last_move(NAME))
    (two.root / NAME / "1" / "card.md").write_text("better")

    assert "card.md: has 6 bytes" in run(two, "rollback", NAME)[2]
    assert champion_of(two) == 2


def test_rollback_after_other_moves(shelf: Store) -> None:
    """Versions that were taken away are passed over, and a promotion after a rollback can be rolled back, too."""

    def move(action: str, version: int) -> None:
        shelf.move("m", action, {CHAMPION: version}, after=shelf.last_move("m"))

    def before(*versions: int) -> int | None:
        return life.champion_before(shelf.history("m"), versions)

    assert before(1, 2, 3) == 1  # the first version was the champion until 3 became it
    move("promote", 2)
    assert [before(1, 2, 3), before(1, 2), before(2)] == [3, 1, None]
    move(life.ROLLBACK, 3)
    assert before(1, 2, 3) == 1
    move("promote", 2)
    assert before(1, 2, 3) == 3


def test_tag_and_untag(shelf: Store, run: Command) -> None:
    """An alias is pointed to a version and taken away again; the store's own aliases and what is none are refused."""
    assert run(shelf, "tag", "m@1", "shadow")[0] == 0
    assert shelf.aliases("m")["shadow"] == 1
    assert run(shelf, "tag", "m", "shadow", "--remove")[0] == 0
    assert "shadow" not in shelf.aliases("m")
    count = len(shelf.history("m"))

    for arguments, message in [
        (("m@1", "champion"), "champion is an alias of the store's own: promote and rollback move it"),
        (("m@1", "candidate"), "candidate is an alias of the store's own: it is the version that was added last"),
        (("m", "champion", "--remove"), "champion is an alias of the store's own"),
        (("m@1", "7"), "'7' is not an alias"),
        (("m@9", "shadow"), "has no version or alias '9'"),
        (
            ("m", "shadow", "--remove"),
            "has no alias 'shadow'; its aliases are candidate (3), challenger (2), champion (3)\n",
        ),
        (("x", "shadow"), "there is no model 'x'"),
        (("m@1", "shadow", "--why", "two\nlines"), "the reason is"),
    ]:
        status, _, errors = run(shelf, "tag", *arguments)
        assert (status, errors.count("\n")) == (1, 1)
        assert message in errors
    assert len(shelf.history("m")) == count


def test_prune_keeps_what_is_in_use(shelf: Store, run: Command) -> None:
    """Versions with an alias, the newest, and the champion before stay; the rest is gone, and the history says so."""
    for _ in range(4):
        shelf.add("m", SMALL)  # versions 1 to 7: 3 is the champion, 1 was it before, 2 the challenger, 7 the candidate
    before = sorted(shelf.root.rglob("*"))
    assert run(shelf, "prune", "m", "--keep", 2, "--dry-run")[1] == "m@4 would go\nm@5 would go\n"
    assert sorted(shelf.root.rglob("*")) == before

    assert run(shelf, "prune", "m", "--keep", 2, "--why", "space")[1] == "m@4 is gone\nm@5 is gone\n"
    assert shelf.versions("m") == [1, 2, 3, 6, 7]
    assert shelf.history("m")[-1].removed == (4, 5)
    said = "nothing to take away: m has the versions 1, 2, 3, 6, 7\n"
    assert run(shelf, "prune", "m", "--keep", 2)[1] == said
    assert shelf.add("m", SMALL).name == "8"
    assert run(shelf, "prune", "x", "--keep", 2)[0] == 1


def test_history_is_printed(shelf: Store, run: Command) -> None:
    """`history` has a line a move and the hash of the last, `--json` the moves as they are kept."""
    lines = run(shelf, "history", "m")[1].splitlines()
    documents = json.loads(run(shelf, "history", "m", "--json")[1])

    assert [line.split("  ")[-1].strip() for line in lines[1:5]] == [
        "register candidate to 1, champion to 1",
        "register candidate from 1 to 2",
        "register candidate from 2 to 3",
        "tag challenger to 2, champion from 1 to 3",
    ]
    assert lines[5].endswith(documents[3]["before"]) is False
    assert [each["number"] for each in documents] == [1, 2, 3, 4]
    assert documents[3]["before"] == shelf.history("m")[2].sha256
    assert run(shelf, "history", "x")[2].startswith("error: there is no model 'x'")

    shutil.rmtree(shelf.root / "m" / "3")
    (shelf.root / "m" / "moves" / "2.json").write_text("{}")
    assert f"{shelf.root / 'm' / 'moves' / '2.json'}: is not a move of aliases" in run(shelf, "history", "m")[2]


@pytest.mark.parametrize(
    "words", [("history",), ("rollback",), ("prune", "--keep", "1"), ("runs",), ("compare", "--data", "no.csv")]
)
def test_version_where_a_name_is_asked_for(shelf: Store, run: Command, words: Sequence[str]) -> None:
    """A command that is about a whole model says what to leave out of a reference."""
    command, *options = words
    assert run(shelf, command, "m@2", *options)[2] == "error: 'm@2' is not a model's name; leave out '@2'\n"


def test_one_artifact_has_no_history(store: Path, run: Command) -> None:
    """Nothing is moved in a store that is one artifact, and the message says why."""
    one = Store(store / NAME / "1")

    assert "has no history: " in run(one, "history", NAME)[2]
    assert "is one artifact and not a store" in run(one, "tag", NAME, "shadow")[2]
    assert "has no earlier champion to go back to" in run(one, "rollback", NAME)[2]


def test_diff_of_facts_and_answers(two: Store, run: Command) -> None:
    """`diff` names parameters and metrics that differ, and the answers for golden rows and for a table."""
    output = run(two, "diff", f"{NAME}@1", f"{NAME}@2", "--data", TABLE)[1]
    X = rows_of(NAME).X
    sizes = np.abs(two.load(f"{NAME}@1").predict(X) - two.load(f"{NAME}@2").predict(X))

    assert "model    n_estimators 400 -> 1\n" in output
    assert "metrics  validation rmse 5.13416 -> " in output
    assert f"answers  {TABLE}: 506 of 506 answers change, {by(sizes)}\n" in output
    assert run(two, "diff", NAME, NAME)[1].splitlines() == [
        "facts    the same schema, model, data and metrics",
        f"answers  golden rows of {NAME}@1: none of 64 answers changes",
    ]


def limits(kind: str, lowest: float | None, highest: float | None) -> dict[str, Any]:
    """Return a document with one feature of this type that has these limits; None is absent."""
    ends = {"lowest": lowest, "highest": highest}
    return {"features": [{"name": "x", "type": kind, **{key: end for key, end in ends.items() if end is not None}}]}


@pytest.mark.parametrize(
    ("kind", "old", "new", "lines"),
    [
        ("number", (-1.75e40, 1.75e40), (None, 1.7e308), []),
        ("number", (-1.75e40, None), (5e-324, 100.0), ["lowest none -> 4.94066e-324", "highest none -> 100"]),
        ("integer", (-(2.0**53) + 1, 9.0), (0.0, 9.0), ["lowest none -> 0"]),
        ("date", (None, None), (dates.LOWEST, dates.HIGHEST), []),
        ("date", (0.0, None), (86_400.0, dates.HIGHEST), ["lowest 1970-01-01 -> 1970-01-02"]),
    ],
)
def test_limits_are_named_where_they_say_something(
    kind: str, old: tuple[float | None, float | None], new: tuple[float | None, float | None], lines: list[str]
) -> None:
    """A limit that no measurement reaches, which a proof found, counts as none; that of a date is a date."""
    found = list(differences.facts(limits(kind, *old), limits(kind, *new)))

    assert found == [("schema", f"x: {line}") for line in lines]


@pytest.mark.parametrize(
    ("days", "message"),
    [
        *((days, "is not a number of days from 1 to 36,500, such as 30d") for days in ("0", "999999")),
        *((days, "is not a number of days, such as 30d") for days in ("7w", "-1")),
    ],
)
def test_days_that_are_none(
    two: Store, run: Command, capsys: pytest.CaptureFixture[str], days: str, message: str
) -> None:
    """Every command that reads a log takes days in one form; what is none, or too long ago, is refused as an option."""
    for arguments in (["promote", f"{NAME}@2"], ["compare", NAME], ["report", NAME], ["retrain", NAME, "--from-log"]):
        with pytest.raises(SystemExit):
            run(two, *arguments, "--days", days)
        assert f"--days: {days!r} {message}" in capsys.readouterr().err
    assert run(two, "promote", f"{NAME}@2", "--days", "7d", "--dry-run")[0] == 0


def test_golden_rows_that_one_version_refuses(two: Store) -> None:
    """Golden rows at the limits of one version, which the other refuses, are left out, and said to be."""
    old = two.load(f"{NAME}@1")
    name = "RM"
    limit = float(np.sort(old.golden_rows[:, old.schema.names.index(name)])[-4])
    n_refused = int((old.golden_rows[:, old.schema.names.index(name)] > limit).sum())
    features = tuple(replace(each, highest=limit) if each.name == name else each for each in old.schema.features)
    new = replace(old, version=2, schema=replace(old.schema, features=features))

    first, second = ((where, str(answers)) for where, answers in golden(old, new).items())
    assert first == (
        f"golden rows of {NAME}@1, without {n_refused} that {NAME}@2 refuses",
        f"none of {64 - n_refused} answers changes",
    )
    assert second[0] == f"golden rows of {NAME}@2"


def test_columns_that_differ(gems_store: Path) -> None:
    """A version with fewer columns answers the other's rows; one that needs a column that they lack cannot."""
    gems = Store(gems_store).load("gems")
    fewer = replace(gems.schema, features=gems.schema.features[1:])

    assert differences.translated(gems.golden_rows, gems.schema, gems.schema) is gems.golden_rows
    X = differences.translated(gems.golden_rows, gems.schema, fewer)
    np.testing.assert_array_equal(X, gems.golden_rows[:, 1:])
    cut = gems.schema.by_name["cut"]
    turned = replace(cut, categories=cut.categories[::-1])
    others = [
        turned if feature == cut else replace(feature, description="of another table")
        for feature in gems.schema.features
        if feature.name != "color"  # the golden rows have an unseen one, which has no cell
    ]
    place = gems.schema.names.index("cut")
    expected = gems.golden_rows.copy()
    expected[:, place] = len(cut.categories) - 1 - expected[:, place]
    X = differences.translated(gems.golden_rows, gems.schema, replace(gems.schema, features=tuple(others)))
    np.testing.assert_array_equal(X, np.delete(expected, gems.schema.names.index("color"), axis=1))

    X = gems.golden_rows[:, 1:]
    with pytest.raises(ModelError, match="column 'carat': missing"):
        differences.translated(X, fewer, gems.schema)


def test_labels_in_another_order(classifiers_store: Path) -> None:
    """Answers of classifiers are compared by label, not by its position; other labels cannot be compared."""
    stones = Store(classifiers_store)
    name = next(name for name in stones.names() if len(stones.load(name).manifest.classes) > 2)
    old = stones.load(name)
    target = old.schema.target
    turned = replace(target, categories=target.categories[::-1])
    schema = replace(old.schema, target=turned)
    new = replace(old, schema=schema, manifest=replace(old.manifest, schema=schema), engine=_Turned(old))
    X, n = old.golden_rows, len(target.categories)
    found = differences.answers(old, X, new, X)
    assert (found.differing, found.labels, found.largest) == (0, 0, 0.0)
    assert str(found) == f"none of {len(X)} answers changes"

    less = replace(target, categories=target.categories[1:])
    other = replace(new, manifest=replace(old.manifest, schema=replace(old.schema, target=less)))
    with pytest.raises(ModelError, match="other labels, so they cannot be compared"):
        differences.answers(old, X, other, X)
    assert n > 2


class _Turned:
    """A classifier's engine with its labels in reverse order."""

    def __init__(self, model: Artifact) -> None:
        self._model = model

    def predict(self, X: Any) -> Any:
        answers = self._model.predict(X)
        return np.column_stack([answers.shape[1] - 2 - answers[:, 0], answers[:, :0:-1]])


def test_gain_is_paired_and_signed(two: Store) -> None:
    """The gain is the mean difference of squared errors, its interval the normal one, and its sentence has no sign."""
    old, new = two.load(f"{NAME}@1"), two.load(f"{NAME}@2")
    rows = rows_of(NAME)
    X, y = rows.X_validation, rows.y_validation
    gains = (old.predict(X) - y) ** 2 - (new.predict(X) - y) ** 2
    found = differences.gain(old, new, X, y)

    assert found.mean == gains.mean() < 0
    half_width = 1.96 * gains.std(ddof=1) / len(y) ** 0.5
    assert found.interval == pytest.approx((found.mean - half_width, found.mean + half_width), rel=1e-3)
    assert "mean squared error higher by 42.67 (95 % interval 9.379 to 75.96) on 102 held-out rows" in str(found)
    assert "lower by 42.67 (95 % interval 9.379 to 75.96)" in str(differences.gain(new, old, X, y))


def test_rollback_of_an_unknown_model(shelf: Store) -> None:
    """A model that does not exist has the usual message."""
    with pytest.raises(NotInStoreError, match="there is no model 'x'"):
        life.rollback(shelf, "x")


def test_draft_is_read_from_the_champion(two: Store) -> None:
    """A candidate never changes what a name alone means."""
    assert two.load(NAME).version == 1
    assert read_draft(two.find(f"{NAME}@candidate")).manifest["hyperparameters"]["n_estimators"] == 1
