"""Tests by what they cost: unit and service are quick, server runs gunicorn, outside needs other programs."""

import pytest

pytest.register_assert_rewrite("tests.support")
