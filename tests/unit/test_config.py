"""Owns the settings: which values are valid, and that all mistakes are reported at once."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config import Config, ConfigError, Entry


def mistakes(environ: dict[str, str]) -> str:
    """Return the error message for a wrong environment."""
    with pytest.raises(ConfigError) as caught:
        Config.from_environ(environ)
    return str(caught.value)


def test_defaults() -> None:
    """Without settings in the environment all defaults apply."""
    assert Config.from_environ({"PATH": "/bin", "PORT": "x", "tabserve_store": "y"}) == Config(
        store=Path("store"),
        models=(),
        max_body_bytes=8 * 2**20,
        max_rows=10_000,
        max_in_flight=512,
        device="cpu",
        batch_rows=0,
        log_requests=True,
        prediction_log="sqlite:///predictions.db",
        prediction_log_share=1.0,
        prediction_log_features=False,
        prediction_log_days=30,
        prediction_log_max_bytes=2**30,
        live_error_days=7,
    )


@pytest.mark.parametrize(
    ("name", "text", "field", "expected"),
    [
        ("STORE", "/srv/models", "store", Path("/srv/models")),
        ("MODELS", "a", "models", ("a",)),
        ("MODELS", " a, b@challenger,c@3 ,", "models", ("a", "b@challenger", "c@3")),
        ("MODELS", "", "models", ()),
        ("MODELS", "a,a@b:shadow,a@2", "models", ("a", "a@b:shadow", "a@2")),
        ("RELOAD_SECONDS", "0", "reload_seconds", 0),
        ("STICKY_HEADER", "X-User", "sticky_header", "X-User"),
        ("TRUSTED_KEYS", "", "trusted_keys", ()),
        ("TRUSTED_KEYS", "/keys/a.pem, b.pem", "trusted_keys", (Path("/keys/a.pem"), Path("b.pem"))),
        ("MAX_BODY_BYTES", "1", "max_body_bytes", 1),
        ("MAX_ROWS", "100000", "max_rows", 100_000),
        ("MAX_IN_FLIGHT", "64", "max_in_flight", 64),
        ("DEVICE", "cpu", "device", "cpu"),
        ("DEVICE", "cuda", "device", "cuda"),
        ("DEVICE", "cuda:12", "device", "cuda:12"),
        ("BATCH_ROWS", "1", "batch_rows", 1),
        ("LOG_REQUESTS", "false", "log_requests", False),
        ("LOG_REQUESTS", "True", "log_requests", True),
        ("PREDICTION_LOG", "", "prediction_log", ""),
        ("PREDICTION_LOG", "sqlite:////srv/p.db", "prediction_log", "sqlite:////srv/p.db"),
        ("PREDICTION_LOG", "postgresql://a:b@c/d", "prediction_log", "postgresql://a:b@c/d"),
        ("PREDICTION_LOG_SHARE", "0", "prediction_log_share", 0.0),
        ("PREDICTION_LOG_SHARE", "0.25", "prediction_log_share", 0.25),
        ("PREDICTION_LOG_SHARE", "1.0", "prediction_log_share", 1.0),
        ("PREDICTION_LOG_FEATURES", "true", "prediction_log_features", 1.0),
        ("PREDICTION_LOG_FEATURES", "False", "prediction_log_features", 0.0),
        ("PREDICTION_LOG_FEATURES", "0.01", "prediction_log_features", 0.01),
    ],
)
def test_setting(name: str, text: str, field: str, expected: Any) -> None:
    """A setting is read as its type, and changes no other."""
    config = Config.from_environ({f"TABSERVE_{name}": text})

    assert config == Config(**{field: expected})
    assert type(getattr(config, field)) is type(expected) or isinstance(expected, Path)


@pytest.mark.parametrize("text", ["", "x", "-0.1", "1.1", "2", "nan", "inf", "1e-1", "50%", " 1", "."])
def test_invalid_share(text: str) -> None:
    """A share is a plain number from 0 to 1; the message has the value and what is expected."""
    message = mistakes({"TABSERVE_PREDICTION_LOG_SHARE": text})

    assert message == f"TABSERVE_PREDICTION_LOG_SHARE is {text!r}, not a number from 0 to 1"


@pytest.mark.parametrize("text", ["", "yes", "1.1", "1%"])
def test_invalid_share_or_all(text: str) -> None:
    """A share that may be everything is true, false, or a plain number from 0 to 1."""
    message = mistakes({"TABSERVE_PREDICTION_LOG_FEATURES": text})

    assert (
        message == f"TABSERVE_PREDICTION_LOG_FEATURES is {text!r}, neither true nor false, and not a number from 0 to 1"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,A", "'A' is not a name, name@alias or name@version of lower-case letters, digits and single dashes"),
        ("a@", "'a@' is not a name, name@alias or name@version of lower-case letters, digits and single dashes"),
        ("a@b@c", "'a@b@c' is not a name, name@alias or name@version of lower-case letters, digits and single dashes"),
        *(
            (f"a,a@2:{role}", f"the role of 'a@2:{role}' is none of :shadow, :canary=10% and :ab=50% with at most 100%")
            for role in ("", "x", "canary", "canary=10", "ab=-1%", "shadow=5%", "ab=100.5%", "ab=1e1%", "shadow:ab=1%")
        ),
        ("a@2:shadow", "no entry of a is without a role: add the version that answers, such as a"),
        ("a,a@2:canary=60%,a@3:ab=40.1%", "the shares of a add up to more than 100%"),
    ],
)
def test_invalid_models(text: str, expected: str) -> None:
    """An entry is a reference with or without a role, a name has an entry without one, and shares are of a whole."""
    assert mistakes({"TABSERVE_MODELS": text}) == f"TABSERVE_MODELS is {text!r}, not models to serve: {expected}"


def test_every_mistake_in_models() -> None:
    """All mistakes of the entries are reported at once."""
    message = mistakes({"TABSERVE_MODELS": "A,b:x,c,c:ab=99%,c:canary=2%"})

    assert [part in message for part in ("'A' is not", "'b:x' is none", "the shares of c")] == [True] * 3


_NAMES = st.from_regex(r"[a-z0-9]{1,3}(-[a-z0-9]{1,3})?", fullmatch=True)
_PERCENT = st.integers(0, 400).map(lambda quarters: quarters / 4)


@given(
    name=_NAMES,
    versions=st.lists(_NAMES, max_size=3),
    roles=st.lists(st.tuples(st.sampled_from(["canary", "ab"]), _PERCENT), max_size=3),
    shadows=st.lists(_NAMES, max_size=2),
)
def test_models_are_read_as_they_are_written(
    name: str, versions: list[str], roles: list[tuple[str, float]], shadows: list[str]
) -> None:
    """Every entry of the grammar is read; shares are exact, and more than 100 % of a name is refused."""
    expected = [Entry(name), *(Entry(f"{name}@{version}") for version in versions)]
    expected += [Entry(f"{name}@x", role, percent / 100) for role, percent in roles]
    expected += [Entry(f"{name}@{version}", "shadow") for version in shadows]
    texts = [name, *(f"{name}@{version}" for version in versions)]
    texts += [f"{name}@x:{role}={percent:g}%" for role, percent in roles]
    texts += [f"{name}@{version}:shadow" for version in shadows]
    environ = {"TABSERVE_MODELS": " , ".join(texts)}

    if sum(percent for _, percent in roles) > 100:
        assert "add up to more than 100%" in mistakes(environ)
    else:
        assert list(Config.from_environ(environ).entries) == expected


@pytest.mark.parametrize("text", ["", "X User", "X_User", "X:", "é", "x" * 101])
def test_invalid_header(text: str) -> None:
    """The sticky header is a name that gunicorn passes on."""
    assert mistakes({"TABSERVE_STICKY_HEADER": text}) == f"TABSERVE_STICKY_HEADER is {text!r}, not a header's name"


@pytest.mark.parametrize(
    "text", ["sqlite://", "sqlite:///", "mysql://me:secret@host/x", "secret", "postgres://secret@h/x"]
)
def test_invalid_database(text: str) -> None:
    """A database is SQLite or PostgreSQL; the message quotes no part of the URL, which may contain a password."""
    message = mistakes({"TABSERVE_PREDICTION_LOG": text})

    assert message == "TABSERVE_PREDICTION_LOG is neither sqlite:///FILE nor postgresql://USER:PASSWORD@HOST/NAME"


@pytest.mark.parametrize("text", ["", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:01", "cuda:100", "cpu:0"])
def test_invalid_device(text: str) -> None:
    """A device is the CPU, or a GPU by number; the message has the value and what is expected."""
    message = mistakes({"TABSERVE_DEVICE": text})

    assert message == f"TABSERVE_DEVICE is {text!r}, not cpu, cuda or cuda:N"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, 1),
        ({"TABSERVE_BATCH_ROWS": "64"}, 64),
        ({"TABSERVE_DEVICE": "cuda"}, 4_096),
        ({"TABSERVE_DEVICE": "cuda:1", "TABSERVE_BATCH_ROWS": "1"}, 1),
    ],
)
def test_requests_are_batched_for_a_gpu(environ: dict[str, str], expected: int) -> None:
    """Requests are batched on a GPU or if configured, never beyond the configured rows."""
    assert Config.from_environ(environ).max_batch_rows == expected


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "1.5", "1e3", "1_000", " 1", "٣", "²", "9" * 5_000])
def test_invalid_number(text: str) -> None:
    """A number is plain digits and at least 1; the message has the value and what is expected."""
    message = mistakes({"TABSERVE_MAX_ROWS": text})

    assert message == f"TABSERVE_MAX_ROWS is {text!r}, not a whole number from 1 to 1000000"


NO_ORIGINS = "not origins such as https://example.org, in lower case and without a path"
NUMBERS = [item.metadata["name"] for item in fields(Config) if type(item.default) is int]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("text", ["9" * 16, "1" + "0" * 30, "9" * 5_000])
def test_number_that_is_too_large(name: str, text: str) -> None:
    """Every number has an upper bound, which is itself valid; the message has the bound."""
    message = mistakes({name: text})

    start, _, most = message.rpartition(" ")
    assert start in {f"{name} is {text!r}, not a whole number from {least} to" for least in (0, 1)}
    assert Config.from_environ({name: most}) != Config()
    assert mistakes({name: str(int(most) + 1)}).endswith(f" to {most}")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("LOG_REQUESTS", "yes", "TABSERVE_LOG_REQUESTS is 'yes', neither true nor false"),
        ("LOG_REQUESTS", "", "TABSERVE_LOG_REQUESTS is '', neither true nor false"),
        ("STORE", "", "TABSERVE_STORE is '', not a path"),
        ("TRUSTED_KEYS", " ,", "TABSERVE_TRUSTED_KEYS is ' ,', not a list of files, separated by commas"),
        ("CORS_ORIGINS", "*", f"TABSERVE_CORS_ORIGINS is '*', {NO_ORIGINS}"),
        ("CORS_ORIGINS", "https://a.example/", f"TABSERVE_CORS_ORIGINS is 'https://a.example/', {NO_ORIGINS}"),
    ],
)
def test_value_of_another_type(name: str, text: str, message: str) -> None:
    """A value of another type is refused; the message has the setting, the value and what is expected."""
    assert mistakes({f"TABSERVE_{name}": text}) == message


ROUTES = [("AIP_HEALTH_ROUTE", "aip_health_route"), ("AIP_PREDICT_ROUTE", "aip_predict_route")]


@pytest.mark.parametrize(("name", "field"), ROUTES)
@pytest.mark.parametrize("text", ["/", "/health", "/v1/endpoints/1/deployedModels/2:predict", "/a-b_c.d~e/@1", "//a/"])
def test_route(name: str, field: str, text: str) -> None:
    """A path that Vertex AI sets is used as it is."""
    expected: dict[str, Any] = {field: text}

    assert Config.from_environ({name: text}) == Config(**expected)


@pytest.mark.parametrize("name", [name for name, _ in ROUTES])
@pytest.mark.parametrize(
    "text", ["predict", " /x", "/x\n", "/a b", "/<name>", "/a?b=1", "/a#b", "http://host/a", "/é", "\\x", "/{x}", "/\0"]
)
def test_invalid_route(name: str, text: str) -> None:
    """A value that is not a path, or a path with placeholders, is refused."""
    assert mistakes({name: text}).startswith(f"{name} is {text!r}, not a path")


def test_other_variables_of_a_platform() -> None:
    """Other variables of a platform are ignored, whatever their values."""
    environ = {"AIP_HTTP_PORT": "8080", "AIP_STORAGE_URI": "", "AIP_MODE": "PREDICTION", "SM_X": "1"}

    assert Config.from_environ(environ) == Config()


def test_every_mistake_at_once() -> None:
    """One error lists all mistakes, unknown names included, and no correct setting."""
    message = mistakes(
        {
            "TABSERVE_STORE": "fine",
            "TABSERVE_MAX_ROWS": "x",
            "TABSERVE_MAXROWS": "3",
            "TABSERVE_LOG_REQUESTS": "on",
        }
    )

    assert [part.split(" ")[0] for part in message.split("; ") if part.startswith("TABSERVE_")] == [
        "TABSERVE_LOG_REQUESTS",
        "TABSERVE_MAXROWS",
        "TABSERVE_MAX_ROWS",
    ]


@pytest.mark.parametrize("name", ["TABSERVE_MAXROWS", "TABSERVE_max_rows", "TABSERVE_"])
def test_unknown_name(name: str) -> None:
    """An unknown name is refused, and the message lists the settings: a typo is not silently a default."""
    message = mistakes({name: "1"})

    assert message.startswith(f"{name} is not a setting")
    assert all(item.metadata["name"] in message for item in fields(Config))


def test_every_setting_has_its_help() -> None:
    """Every field is read from TABSERVE_ plus its name, or from a platform's variable, and has a help text."""
    for item in fields(Config):
        assert item.metadata["name"] in (f"TABSERVE_{item.name.upper()}", item.name.upper())
        assert item.metadata["name"].startswith(("TABSERVE_", "AIP_"))
        assert len(item.metadata["help"]) > 10


@given(name=st.sampled_from([item.metadata["name"] for item in fields(Config)]), text=st.text())
def test_any_text(name: str, text: str) -> None:
    """Any text is a value of the setting or a `ConfigError` that names it, nothing else."""
    try:
        Config.from_environ({name: text})
        message = None
    except ConfigError as error:
        message = str(error)

    shown = "" if name == "TABSERVE_PREDICTION_LOG" else f"{text!r}, "
    assert message is None or message.startswith(f"{name} is {shown}n")


def test_variables_of_a_service_named_tabserve() -> None:
    """Variables that Kubernetes sets in every pod for a Service named tabserve are neither settings nor mistakes."""
    variables = {
        "TABSERVE_SERVICE_HOST": "10.0.0.1",
        "TABSERVE_SERVICE_PORT": "80",
        "TABSERVE_SERVICE_PORT_HTTP": "80",
        "TABSERVE_PORT": "tcp://10.0.0.1:80",
        "TABSERVE_PORT_80_TCP_ADDR": "10.0.0.1",
        "TABSERVE_CANARY_SERVICE_HOST": "10.0.0.2",
        "TABSERVE_CANARY_PORT": "tcp://10.0.0.2:80",
    }

    assert Config.from_environ(variables) == Config()
    assert mistakes({"TABSERVE_PORTS": "1"}).startswith("TABSERVE_PORTS is not a setting")
