"""The version of Tabserve, as the service names it."""

from model import VERSION as VERSION
