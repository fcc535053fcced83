"""The page for people in Chromium: what it answers, that it fits a phone, and that everybody can use it."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.cli.main import main
from tests.support import gems, sales
from tests.support.browser import DESK, IS_THERE, PHONE, REASON, Browser, chromium, gateway
from tests.support.keys import make_key
from tests.support.server import Server, serve
from tests.support.service import ANSWER, HOUSE, ROOT, TABLE, rewrite

pytestmark = pytest.mark.skipif(not IS_THERE, reason=REASON)

NAME = "boston-housing"
MODELS = [NAME, gems.NAME, sales.NAME, "mine"]
KEY = "only-for-this-test"
LIST, MODEL = "", f"#/{NAME}"
VIEWS = ["card", "plots", "notebook"]


@pytest.fixture(scope="module")
def many(
    store: Path, gems_store: Path, sales_store: Path, classifiers_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A store with models of several kinds: numbers, every type, dates, classes."""
    root = tmp_path_factory.mktemp("many")
    for source, name in (
        (store, NAME),
        (gems_store, gems.NAME),
        (sales_store, sales.NAME),
        (classifiers_store, "mine"),
    ):
        shutil.copytree(source / name, root / name)
    return root


@pytest.fixture(scope="module")
def service(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of these models."""
    with serve(many, tmp_path_factory.mktemp("service"), WEB_CONCURRENCY="1", TABSERVE_MAX_ROWS="200") as server:
        yield server


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the browser writes to."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def tab(downloads: Path) -> Iterator[Browser]:
    """A browser that the tests share: each opens its own page."""
    with chromium(downloads) as browser:
        yield browser


@pytest.fixture
def browser(tab: Browser) -> Iterator[Browser]:
    """The browser; a test may leave no error in its console, such as something that the policy refused."""
    tab.errors()
    yield tab
    assert tab.errors() == []


def answered(browser: Browser) -> str:
    """Return the rounded answer, once there is one."""
    return str(
        browser.wait(lambda: browser.text(".big") if not browser.js("return document.querySelector('.stale')") else "")
    )


def test_nothing_comes_from_another_host(browser: Browser, service: Server) -> None:
    """The page is painted, and a row answered, with files of this server alone; under 60 KB of them are sent."""
    browser.open(f"{service.url}/{MODEL}")
    answered(browser)
    loaded = browser.js("return performance.getEntriesByType('resource').map(e => [e.name, e.encodedBodySize])")
    painted = browser.js("return performance.getEntriesByName('first-contentful-paint').length")

    assert painted == 1
    assert {urlsplit(url).netloc for url, _ in loaded} == {urlsplit(service.url).netloc}
    assert sum(size for url, size in loaded if "/static/" in url) < 60_000


def test_answer_is_the_services(browser: Browser, service: Server) -> None:
    """The form has the first row of the table, and its answer to the last digit, with the interval."""
    browser.open(f"{service.url}/{MODEL}")
    answered(browser)
    reply = requests.post(f"{service.url}/predict?interval=0.9", json=[HOUSE], timeout=10).json()

    assert (browser.text(".big"), browser.text(".exact")) == ("25.00", f"exactly {ANSWER}")
    assert f"within {reply['lower'][0]:.4g} to {reply['upper'][0]:.4g}" in browser.text(".interval")
    assert [browser.field(name).get_property("value") for name in HOUSE] == [
        "0",
        "6.575",
        "296",
        "15.3",
        "396.9",
        "4.98",
    ]


def test_answer_follows_what_is_typed(browser: Browser, service: Server) -> None:
    """Another value gets another answer without a button, by the keys and arrows of a keyboard alone."""
    from selenium.webdriver.common.keys import Keys

    browser.open(f"{service.url}/{MODEL}")
    answered(browser)
    browser.type("RM", "8")
    expected = requests.post(f"{service.url}/predict", json=[{**HOUSE, "RM": 8}], timeout=10).json()["prediction"][0]
    browser.wait_for(".exact", f"exactly {expected}")
    browser.field("RM").send_keys(Keys.ARROW_UP)
    browser.wait(lambda: float(browser.field("RM").get_property("value")) > 8)
    browser.field("RM").send_keys(Keys.TAB)

    assert browser.js("return document.activeElement.id") == browser.field("TAX").get_property("id")


def test_value_outside_training(browser: Browser, service: Server) -> None:
    """A value that training did not see is answered, and said to be outside at its field and at the answer."""
    browser.open(f"{service.url}/{MODEL}")
    answered(browser)
    browser.type("RM", "12")
    browser.wait_for(".status", "Outside what training saw: RM.")

    assert "Training saw 3.561 to 8.725." in browser.text("#field-1-note")


def test_problem_is_at_its_field(browser: Browser, service: Server) -> None:
    """A value that the model refuses is described at its field, which says that it is invalid; the answer is gone."""
    browser.open(f"{service.url}/{MODEL}")
    answered(browser)
    browser.type("TAX", "much")
    browser.wait_for(".status", "No answer: TAX must change.")

    assert browser.text("#field-2-note") == "Not a number."
    assert [browser.text(part) for part in (".value", ".interval", ".why")] == ["", "", ""]
    assert browser.js("return getComputedStyle(document.querySelector('.answer .mark')).visibility") == "hidden"
    assert browser.js("return document.querySelectorAll('.field [type=range]')[2].disabled")
    assert browser.field("TAX").get_dom_attribute("aria-invalid") == "true"
    assert "field-2-note" in browser.field("TAX").get_dom_attribute("aria-describedby")
    browser.type("TAX", "300")
    browser.wait(lambda: browser.field("TAX").get_dom_attribute("aria-invalid") == "false")
    answered(browser)


def test_form_of_every_type(browser: Browser, service: Server) -> None:
    """Choices, booleans, whole numbers and missing values are sent as the model takes them."""
    from selenium.webdriver.support.ui import Select

    browser.open(f"{service.url}/#/{gems.NAME}")
    answered(browser)
    row = {
        **gems.GEM,
        "cut": "Very Good",
        "certified": False,
        "grade": 2.0,
        gems.DEPTH: None,
        "pieces": 3,
        "color": "D",
    }
    for name in ("carat", "pieces"):
        browser.type(name, str(row[name]))
    for name in ("certified", "boxed", "cut", "color", "origin", "grade"):
        box = browser.js(
            "return document.getElementById(arguments[0] + '-missing')", browser.field(name).get_property("id")
        )
        if box and box.is_selected():
            box.click()
        Select(browser.field(name)).select_by_visible_text(
            f"{row[name]:g}" if name == "grade" else str(row[name]).replace("False", "false")
        )
    browser.js(
        "document.getElementById(arguments[0] + '-missing').click()", browser.field(gems.DEPTH).get_property("id")
    )
    expected = requests.post(f"{service.url}/models/{gems.NAME}/predict", json=[row], timeout=10).json()["prediction"][
        0
    ]

    browser.wait_for(".exact", f"exactly {expected}")


def test_form_of_dates(browser: Browser, service: Server) -> None:
    """A date is sent as ISO 8601; one outside training says so."""
    browser.open(f"{service.url}/#/{sales.NAME}")
    answered(browser)
    browser.js(
        "const e = arguments[0]; e.value = '2030-01-02'; e.dispatchEvent(new Event('input'))", browser.field("sold")
    )
    browser.wait_for(".status", "Outside what training saw: sold.")

    assert "2030-01-02" in browser.text("pre")


def test_classifier(browser: Browser, service: Server) -> None:
    """A classifier's answer is its label, with the probability of each class in words and as a bar."""
    browser.open(f"{service.url}/#/mine")
    row = requests.get(f"{service.url}/models/mine/page", timeout=10).json()["examples"][0]
    reply = requests.post(f"{service.url}/models/mine/predict", json=[row], timeout=10).json()

    assert answered(browser) == reply["prediction"][0]
    for name, share in reply["probability"][0].items():
        assert name in browser.text(".why")
        assert f"{100 * share:#.3g} %" in browser.text(".why")


def test_probabilities_of_many_classes(browser: Browser, service: Server) -> None:
    """The ten most probable classes are shown also where a reply has probabilities only if they are asked for."""

    def of_many(path: str, reply: Any) -> tuple[int, Any]:
        shares = [{f"class {number}": number / 325 for number in range(26)}]
        return 200, {**reply, "probability": shares} if "probabilities=true" in path else reply

    with gateway(service.url, amend=of_many) as url:
        browser.open(f"{url}/#/mine")
        answered(browser)
        shown = browser.js("return [...document.querySelector('.why tbody').rows].map(row => row.cells[0].innerText)")

    assert shown == [f"class {number}" for number in range(25, 15, -1)]


def test_versions_fit_a_phone(browser: Browser, service: Server) -> None:
    """The table of versions is not cut on a phone, and a champion is not called a candidate as well."""
    browser.open(f"{service.url}/{MODEL}", size=PHONE)
    cells = browser.js(
        "return [...document.querySelector('[aria-label=Versions] tbody tr').cells].map(e => e.innerText)"
    )
    cut = browser.js("const e = document.querySelector('[aria-label=Versions]'); return e.scrollWidth - e.clientWidth")

    assert cells[:2] == ["version 1, served", "champion"]
    assert cut == 0


def test_link_carries_the_inputs(browser: Browser, service: Server) -> None:
    """The address has the inputs behind #, so that no server sees them: opened again it shows the same."""
    browser.open(f"{service.url}/{MODEL}")
    answered(browser)
    browser.type("LSTAT", "12.5")
    address = browser.wait(lambda: (url := browser.driver.current_url) and "LSTAT=12.5" in url and url)
    exact = browser.wait(lambda: (text := browser.text(".exact")) != f"exactly {ANSWER}" and text)
    browser.open(address)
    answered(browser)

    assert urlsplit(address).query == ""
    assert (browser.field("LSTAT").get_property("value"), browser.text(".exact")) == ("12.5", exact)


def test_code_to_copy_works(browser: Browser, service: Server) -> None:
    """The request as curl and as Python, run as it is shown, gets the answer of the page."""
    from selenium.webdriver.common.by import By

    browser.open(f"{service.url}/#/{gems.NAME}")
    answered(browser)
    exact = float(browser.text(".exact").removeprefix("exactly "))
    code = {}
    for button in browser.driver.find_elements(By.CSS_SELECTOR, ".tabs button"):
        button.click()
        code[button.text] = browser.text("pre")
        assert button.get_dom_attribute("aria-pressed") == "true"
    printed = subprocess.run([sys.executable, "-c", code["Python"]], capture_output=True, check=True, timeout=30).stdout

    assert json.loads(printed) == [exact]
    assert code["JavaScript"].startswith("const reply = await fetch(")
    if shutil.which("curl"):
        printed = subprocess.run(code["curl"], shell=True, capture_output=True, check=True, timeout=30).stdout
        assert json.loads(printed)["prediction"] == [exact]


def downloaded(browser: Browser, downloads: Path, name: str) -> str:
    """Return the file that a click on the link writes."""
    from selenium.webdriver.common.by import By

    (downloads / name).unlink(missing_ok=True)
    browser.driver.find_element(By.CSS_SELECTOR, "a[download]").click()
    browser.wait((downloads / name).exists)
    return (downloads / name).read_bytes().decode()


def test_table_is_answered(browser: Browser, service: Server, downloads: Path, tmp_path: Path) -> None:
    """A CSV file of more rows than a request may have comes back line for line, with the service's answers."""
    (tmp_path / "houses.csv").write_bytes(TABLE.read_bytes())
    browser.open(f"{service.url}/{MODEL}")
    browser.upload(tmp_path / "houses.csv")
    browser.wait_for("[aria-live]", "506 rows answered.")
    lines = downloaded(browser, downloads, "houses-answered.csv").splitlines()
    rows = pd.read_csv(TABLE).drop(columns="MEDV").to_dict("records")
    expected = [
        answer
        for start in range(0, len(rows), 200)
        for answer in requests.post(f"{service.url}/predict", json=rows[start : start + 200], timeout=10).json()[
            "prediction"
        ]
    ]

    assert [line.rpartition(",")[0] for line in lines] == TABLE.read_text().splitlines()
    assert lines[0].endswith(",prediction")
    assert [float(line.rpartition(",")[2]) for line in lines[1:]] == expected


def test_problems_of_a_table(browser: Browser, service: Server, downloads: Path, tmp_path: Path) -> None:
    """Rows with problems are listed by row and line, also behind a cell of two lines, and all others are answered."""
    text = 'id,note,"depth, ""mm""",carat,pieces,certified,boxed,cut,color,origin,grade\n'
    good = "60,1.5,2,yes,no,Ideal,D,Peru,2"
    text += f'1,"two\nlines",{good}\n2,,{good.replace("1.5", "x")}\n\n'
    text += f"3,,{good.replace('Ideal', 'Ideel')}\n4,{good}\n5,,{good}\n"
    (tmp_path / "gems.csv").write_text(text)
    browser.open(f"{service.url}/#/{gems.NAME}")
    browser.upload(tmp_path / "gems.csv")
    browser.wait_for("[aria-live]", "2 rows answered, 3 rows without an answer.")
    listed = browser.js(
        "return [...document.querySelector('[aria-live] tbody').rows].map(row => [...row.cells].map(e => e.innerText))"
    )
    records = list(csv.reader(io.StringIO(downloaded(browser, downloads, "gems-answered.csv"))))

    assert listed == [
        ["2", "4", "carat", "x", "Not a number."],
        ["3", "6", "cut", "Ideel", "Unknown category: did you mean Ideal?"],
        ["4", "7", "", "", "Has 10 cells where there are 11 columns."],
    ]
    assert [bool(record[-1]) for record in records] == [True, True, False, False, False, True]
    assert records[1][-1] == records[5][-1]


def test_table_of_a_spreadsheet(browser: Browser, service: Server, downloads: Path, tmp_path: Path) -> None:
    """Semicolons, decimal commas, a byte order mark and line ends of Windows are read, and kept."""
    lines = ["\ufeff" + ";".join(HOUSE), ";".join(str(cell).replace(".", ",") for cell in HOUSE.values())]
    (tmp_path / "houses.csv").write_bytes("\r\n".join(lines).encode() + b"\r\n")
    browser.open(f"{service.url}/{MODEL}")
    browser.upload(tmp_path / "houses.csv")
    browser.wait_for("[aria-live]", "1 row answered.")

    written = downloaded(browser, downloads, "houses-answered.csv")
    assert written == f"{lines[0]};prediction\r\n{lines[1]};{ANSWER}\r\n"


CELLS = st.text(st.sampled_from('ab1,;"\t\n é'), max_size=5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(2, 4).flatmap(lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1)),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n"]),
)
def test_csv_is_read_and_written_as_python_does(
    tab: Browser, csv_module: None, rows: list[list[str]], separator: str, end: str
) -> None:
    """The page reads what Python's csv writes, each record with its text and line, and Python reads what it writes."""
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator=end).writerows(rows)
    code = """
        const [text, separator] = arguments, records = module.parse(text, separator);
        const lines = records.map(({cells}) => cells.map(cell => module.written(cell, separator)).join(separator));
        return [records.map(({cells}) => cells), records.map(({raw}) => raw), records.map(({line}) => line), lines];
    """
    read, raw, starts, lines = tab.js(code, text.getvalue(), separator)
    lines_before = [sum(each.count("\n") + 1 for each in raw[:number]) for number in range(len(raw))]

    assert read == rows
    assert "".join(f"{each}{end}" for each in raw) == text.getvalue()
    assert starts == [1 + number for number in lines_before]
    assert list(csv.reader(io.StringIO("\n".join(lines), newline=""), delimiter=separator)) == rows


@pytest.fixture(scope="module")
def csv_module(tab: Browser, service: Server) -> None:
    """The module that reads CSV, as the global `module` of the page."""
    tab.open(f"{service.url}/")
    tab.driver.execute_async_script(
        "import('./static/csv.js').then(found => { globalThis.module = found; arguments[0](); })"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"RM,TAX\n6,300\n",
            "The columns do not fit: CHAS is missing, PTRATIO is missing, B is missing, LSTAT is missing.",
        ),
        (
            b"a,b\n1,2\n",
            "The first line of table.csv has none of the model's columns: CHAS, RM, TAX, PTRATIO, B, LSTAT.",
        ),
        (b"RM,TAX\n", "table.csv has no rows below its header."),
        (b"", "table.csv has no rows below its header."),
        (b"RM,\xff\n6,300\n", 'table.csv is not in UTF-8. Save it as "CSV UTF-8" and try again.'),
        (f"{','.join(HOUSE)},RM\n1,2,3,4,5,6,7\n".encode(), "The columns do not fit: RM is repeated."),
        (b'RM,TAX\n6,"300\n', "A quotation mark that is opened in line 2 is not closed."),
    ],
)
def test_table_that_cannot_be_answered(
    browser: Browser, service: Server, tmp_path: Path, content: bytes, message: str
) -> None:
    """A file that is no table of the model gets one sentence that says what is wrong."""
    (tmp_path / "table.csv").write_bytes(content)
    browser.open(f"{service.url}/{MODEL}")
    browser.upload(tmp_path / "table.csv")

    browser.wait_for("[aria-live] [role=alert]", message)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("name", ["", *MODELS])
def test_everybody_can_use_it(
    browser: Browser, service: Server, tmp_path: Path, name: str, size: Any, dark: bool
) -> None:
    """Axe-core finds nothing in the list, in a page with an answer, with problems and with a table, in any look."""
    browser.open(f"{service.url}/#/{name}" if name else f"{service.url}/", size=size, dark=dark)
    if name:
        answered(browser)
    assert browser.violations() == []
    assert browser.overflow() <= 0
    if name == NAME:
        browser.type("RM", "12")
        browser.wait_for(".status", "Outside")
        assert browser.violations() == []
        browser.type("RM", "many")
        browser.wait_for(".status", "No answer")
        assert browser.violations() == []
        (tmp_path / "table.csv").write_text(TABLE.read_text().replace("6.421", "many", 1))
        browser.upload(tmp_path / "table.csv")
        browser.wait_for("[aria-live]", "1 row without an answer")
        assert browser.violations() == []
        assert browser.overflow() <= 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_everybody_can_read_documents(browser: Browser, service: Server, view: str, dark: bool) -> None:
    """Card, plots and notebook fit a phone, and axe-core finds nothing."""
    browser.open(f"{service.url}/models/{NAME}/{view}", size=PHONE, dark=dark)

    assert [each for each in browser.violations() if not each.startswith("scrollable-region-focusable")] == []
    assert browser.overflow() <= 0


def test_dark_mode(browser: Browser, service: Server) -> None:
    """The page is dark where the person's system is, and light where it is not."""
    shades = []
    for dark in (False, True):
        browser.open(f"{service.url}/{MODEL}", dark=dark)
        color = browser.js("return getComputedStyle(document.body).backgroundColor")
        shades.append(sum(map(int, color[4:-1].split(","))))

    assert shades[0] > 700 > 100 > shades[1]


def test_api_page_fits_a_phone(browser: Browser, service: Server) -> None:
    """Swagger UI is no wider than a phone, also with an operation open, and lists no protocol without a path."""
    browser.open(f"{service.url}/docs/", size=PHONE)
    browser.wait_for("main", "Predictions of boston-housing")

    assert "Vertex AI" not in browser.text("main")
    assert browser.overflow() <= 0
    browser.js("document.querySelector('.opblock-post .opblock-summary-control').click()")
    browser.wait_for(".opblock.is-open", "Responses")
    browser.js("document.querySelector('.try-out__btn').click()")
    browser.wait(lambda: browser.js("return document.querySelector('.btn.execute')"))
    browser.js("document.querySelector('.btn.execute').click()")
    browser.wait_for(".opblock.is-open", "25.002145787183498")
    assert browser.overflow() <= 0


def test_report_fits_a_phone(browser: Browser, store: Path, tmp_path: Path, houses: pd.DataFrame) -> None:
    """The report is no wider than a phone, its tables scroll by keyboard, too, and axe-core finds nothing."""
    log, report = f"sqlite:///{tmp_path / 'log.db'}", tmp_path / "report.html"
    settings = {"TABSERVE_PREDICTION_LOG": log, "TABSERVE_PREDICTION_LOG_FEATURES": "true"}
    with serve(store, tmp_path, WEB_CONCURRENCY="1", **settings) as server:
        reply = requests.post(f"{server.url}/predict", json=houses.to_dict("records"), timeout=10).json()
        truth = [y + 1 for y in reply["prediction"]]
        body = {"request_id": reply["request_id"], "truth": truth}
        browser.wait(lambda: requests.post(f"{server.url}/feedback", json=body, timeout=10).ok)
    assert main(["--store", str(store), "report", NAME, "--log", log, "--output", str(report)]) == 0
    browser.open(report.as_uri(), size=PHONE)

    assert "Live performance" in browser.text("main")
    assert browser.overflow() <= 0
    assert browser.violations() == []
    places = (
        "return [...document.querySelectorAll('table')].map(e => [e.parentElement.ariaLabel, e.parentElement.tabIndex])"
    )
    assert browser.js(places) == [["Live performance", 0], ["Drift", 0]]
    verdict = browser.js(
        "return document.querySelector('[aria-label=Drift] th:last-child').getBoundingClientRect().right"
    )
    assert verdict <= PHONE[0]  # it stays in sight while the others scroll
    assert browser.js("return [...document.querySelectorAll('th')].filter(e => !e.innerText).length") == 0


def give(browser: Browser, key: str) -> None:
    """Type a key into the field for it, once it is there, and use it; the page is loaded anew."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.expected_conditions import staleness_of

    field = browser.wait(lambda: browser.driver.find_elements(By.ID, "key-field"))[0]
    field.send_keys(key, Keys.ENTER)
    browser.wait(lambda: staleness_of(field)(browser.driver))


def test_key_is_asked_for_once(browser: Browser, service: Server) -> None:
    """Where the service wants a key, the page asks for it, says when it is wrong, and keeps it for this tab."""
    with gateway(service.url, key=KEY) as url:
        browser.driver.get(f"{url}/{MODEL}")
        browser.wait_for("#key-why", "This service asks for a key. It is kept until you close this tab.")
        assert browser.violations() == []
        for _ in range(2):
            give(browser, "wrong")
            browser.wait_for("#key-why.problem", "This key is not known, or has expired.")
            assert browser.js("return document.getElementById('key-field').ariaInvalid") == "true"
            assert browser.violations() == []
        give(browser, KEY)
        assert answered(browser) == "25.00"
        assert "$TABSERVE_KEY" in browser.text("pre")
        assert KEY not in browser.text("body")
        for view, text in (("card", "Model card: "), ("plots", "Calibration"), ("notebook", "notebook")):
            browser.open(f"{url}/#/{NAME}@1/{view}")
            assert text in browser.text("main")
            assert browser.overflow() <= 0
        browser.open(f"{url}/docs/")
        browser.wait_for("main", "Predictions of boston-housing")


def test_key_of_one_model(browser: Browser, many: Path, tmp_path: Path) -> None:
    """The page asks for nothing that the key may not have; where a person does, it offers to use another key."""
    from selenium.webdriver.common.by import By

    keys = tmp_path / "keys.jsonl"
    houses, all_models = make_key(keys, "houses", f"predict:{NAME}"), make_key(keys, "all", "predict:*")
    with serve(many, tmp_path, WEB_CONCURRENCY="1", TABSERVE_KEYS=str(keys)) as server:
        browser.driver.get(f"{server.url}/")
        give(browser, houses)
        browser.wait_for("main", "Predicts MEDV")
        loaded = browser.js("return performance.getEntriesByType('resource').map(e => e.name)")
        assert [url for url in loaded if url.endswith("/page")] == [f"{server.url}/models/{NAME}/page"]
        assert browser.text("footer") == "livez readyz"
        assert browser.violations() == []
        browser.open(f"{server.url}/#/{gems.NAME}")
        assert "lacks the scope" in browser.text("#key-why")
        assert browser.violations() == []
        give(browser, all_models)
        answered(browser)
        browser.driver.find_element(By.CSS_SELECTOR, "#key button").click()
        give(browser, houses)
        browser.wait_for("#key-why", "lacks the scope")


def explaining(path: str, reply: Any) -> tuple[int, Any]:
    """Add to a reply what the service adds for `explain=true`."""
    if "explain=true" not in path:
        return 200, reply
    (y,) = reply["prediction"]
    parts = {"CHAS": 0.0, "RM": 1.25, "TAX": 0.25, "PTRATIO": 0.5, "B": 0.125, "LSTAT": -2.5}
    entry = {"base": y - sum(parts.values()), "contributions": parts, "residual": 1e-14, "value": y}
    return 200, {**reply, "explained": "prediction", "explanations": [entry]}


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_contributions_are_shown(browser: Browser, service: Server, size: Any) -> None:
    """What each feature added is listed with its sign, the largest first, each with a bar."""
    with gateway(service.url, amend=explaining) as url:
        browser.open(f"{url}/{MODEL}", size=size)
        browser.wait_for(".why", "From 25.38 on average to 25.00")
        code = "return [...document.querySelector('.why tbody').rows].map(row => [...row.cells].map(e => e.innerText))"
        rows = [[name, value] for name, _, value in browser.js(code)]

        assert rows == [
            ["LSTAT", "-2.5"],
            ["RM", "+1.25"],
            ["PTRATIO", "+0.5"],
            ["TAX", "+0.25"],
            ["B", "+0.125"],
            ["CHAS", "0"],
        ]
        assert "not explained" not in browser.text(".why")  # what is left is rounding
        assert browser.violations() == []
        assert browser.overflow() <= 0


def test_challenger_is_named(browser: Browser, service: Server) -> None:
    """Where another version answers than the one that the page is about, the answer says so."""
    with gateway(service.url, amend=lambda path, reply: (200, {**reply, "version": 2})) as url:
        browser.open(f"{url}/{MODEL}")

        browser.wait_for(".status", "Version 2 answered, which is tried beside version 1.")


def test_no_explanations(browser: Browser, service: Server) -> None:
    """A model that offers no explanations is answered, and one sentence says why."""

    def refusing(path: str, reply: Any) -> tuple[int, Any]:
        if "explain=true" in path:
            return 400, {"error": "explanations are not offered for a network", "status": 400, "details": []}
        return 200, reply

    with gateway(service.url, amend=refusing) as url:
        browser.open(f"{url}/{MODEL}")

        assert answered(browser) == "25.00"
        assert "Explanations are not offered for a network." in browser.text(".why")


def test_texts_of_a_model_are_texts(browser: Browser, store: Path, tmp_path: Path) -> None:
    """Whatever a manifest says, it is shown as text, and nothing of it runs."""
    hostile = '"><img src=x onerror="document.title=1"><script>document.title=2</script>'
    copy = Path(shutil.copytree(store, tmp_path / "store"))

    def change(facts: dict[str, Any]) -> None:
        facts.update(title=hostile, purpose=hostile, limits=hostile, algorithm=hostile)
        facts["features"][0].update(description=hostile, unit=hostile)
        facts["target"].update(description=hostile, unit=hostile)

    rewrite(copy / NAME / "1", change)
    with serve(copy, tmp_path, WEB_CONCURRENCY="1", TABSERVE_MODELS=f"{NAME}@1") as server:
        browser.open(f"{server.url}/{MODEL}")
        answered(browser)

        assert browser.text("h1") == hostile
        assert browser.js("return document.querySelectorAll('main img, main script').length") == 0
        assert browser.driver.title == f"{hostile} · Tabserve"


def test_no_model(browser: Browser, tmp_path: Path) -> None:
    """Without a model the page says why, and how to train one; an unknown one is said to be unknown."""
    with serve(tmp_path / "none", tmp_path, wait="/livez", WEB_CONCURRENCY="1") as server:
        browser.open(f"{server.url}/")
        assert "No model is served" in browser.text("h1")
        assert str(tmp_path / "none") in browser.text("main")
        assert "python -m model train boston-housing" in browser.text("pre")
        browser.open(f"{server.url}/#/other")
        assert "Not available" in browser.text("h1")
        browser.open(f"{server.url}/#/%E0%A4%A")
        assert "'%E0%A4%A'" in browser.text("main")


def test_pictures_of_the_docs_are_small() -> None:
    """The pictures in the documentation have fewer than 150 kB each."""
    assert [path.name for path in (ROOT / "docs" / "images").iterdir() if path.stat().st_size > 150_000] == []
