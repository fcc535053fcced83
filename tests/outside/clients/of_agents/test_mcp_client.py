"""The official client of the Model Context Protocol lists the model, asks it, is refused with reasons, and corrects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from numpy.typing import NDArray

from tests.outside.clients.conftest import Model, bits


@pytest.fixture(params=["auto", "legacy"])
def ask(request: pytest.FixtureRequest, model: Model) -> Callable[[Callable[[Client], Awaitable[Any]]], Any]:
    """Return what runs a conversation: by the newest revision, and by the last one with a handshake."""

    def run(talk: Callable[[Client], Awaitable[Any]]) -> Any:
        async def talking() -> Any:
            async with Client(f"{model.url}/mcp", mode=request.param) as client:
                return await talk(client)

        return asyncio.run(talking())

    return run


def test_answers(ask: Any, model: Model, houses: NDArray[np.float64]) -> None:
    """The tool answers the native API's bits, in a structure that the client validates by the tool's output schema."""
    rows = [dict(zip(model.features, row)) for row in houses.tolist()]

    async def talk(client: Client) -> Any:
        (tool,) = (await client.list_tools()).tools
        return tool, await client.call_tool(tool.name, {"rows": rows})

    tool, answer = ask(talk)
    found = [row["prediction"] for row in answer.structured_content["predictions"]]

    assert tool.name == model.name
    assert bits(np.array(found)) == bits(model.predict(houses))
    assert not answer.is_error


def test_refused_and_corrected(ask: Any, model: Model, houses: NDArray[np.float64]) -> None:
    """A refused call names the feature and the reason; with that corrected, the same call is answered."""
    row = dict(zip(model.features, houses[0].tolist()))

    async def talk(client: Client) -> Any:
        refused = await client.call_tool(model.name, {"rows": [{**row, "RM": "six"}]})
        return refused, await client.call_tool(model.name, {"rows": [row]})

    refused, corrected = ask(talk)

    assert refused.is_error
    assert "column 'RM': not a number" in refused.content[0].text
    assert not corrected.is_error


def test_card(ask: Any, model: Model) -> None:
    """The model's card is a resource."""

    async def talk(client: Client) -> Any:
        (card,) = (await client.list_resources()).resources
        return (await client.read_resource(card.uri)).contents[0]

    card = ask(talk)

    assert (card.mime_type, card.text.splitlines()[0][:12]) == ("text/markdown", "# Model card")


def test_unknown_tool(ask: Any) -> None:
    """A tool that does not exist is an error of the protocol that says so."""

    async def talk(client: Client) -> Any:
        with pytest.raises(MCPError, match="there is no tool"):
            await client.call_tool("nothing", {})

    ask(talk)
