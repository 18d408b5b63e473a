"""The OpenAPI document and its page."""

import json
import re

import msgspec

from admitone.kernel.http import openapi
from admitone.kernel.runner import App
from admitone.kernel.settings import Settings
from tests.kernel.http.support import ALPHA


def test_the_openapi_document_is_complete() -> None:
    document = openapi.document(ALPHA.operations, Settings())
    encoded = json.loads(msgspec.json.encode(document))

    assert encoded["openapi"].startswith("3.1")
    schemas = encoded["components"]["schemas"]
    for reference in re.findall(r'"\$ref": "([^"]+)"', json.dumps(encoded)):
        assert reference.removeprefix("#/components/schemas/") in schemas
    seen = set()
    for path, methods in encoded["paths"].items():
        for method, described in methods.items():
            assert method in {"get", "post", "put", "patch", "delete"}
            assert described["operationId"] not in seen
            seen.add(described["operationId"])
            in_path = {each["name"] for each in described["parameters"] if each["in"] == "path"}
            assert in_path == set(re.findall(r"{(\w+)}", path))
            for status, response in described["responses"].items():
                assert re.fullmatch(r"[1-5]\d\d", status)
                assert response["description"]
            assert {"503"} <= described["responses"].keys()
    writing = encoded["paths"]["/api/notes"]["post"]
    assert set(writing["responses"]) >= {"201", "400", "401", "403", "408", "409", "413", "415", "422", "503"}
    assert "Somebody tore the note up" in writing["responses"]["409"]["description"]
    assert writing["security"] == [{"session": []}]
    assert schemas["NewNote"]["additionalProperties"] is False
    [limit] = encoded["paths"]["/api/notes"]["get"]["parameters"]
    assert limit["schema"]["maximum"] == 100


async def test_the_page_shows_every_operation_with_its_body_and_its_responses(app: App) -> None:
    async with app.client() as bob:
        page = (await bob.get("/api")).text
    for path in {each.path for each in ALPHA.operations}:
        assert path in page
    assert "<code>text</code>" in page
    assert "Somebody tore the note up" in page
    assert "<script" not in page
