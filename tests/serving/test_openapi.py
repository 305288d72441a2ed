"""/openapi.json is valid OpenAPI 3.1, and what the service takes and answers is what it says."""

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator


@pytest.fixture
def client(start):
    return start(max_bytes=5_000, max_documents=3)


@pytest.fixture
def description(client):
    return client.get("/openapi.json").json()


@pytest.fixture
def validator(description):
    """Returns part of the description -> a validator of JSON against the schema there."""

    def validator(part):
        schema = part["content"]["application/json"]["schema"]
        return jsonschema.Draft202012Validator({**schema, "components": description["components"]})

    return validator


def test_it_is_valid(description):
    OpenAPIV31SpecValidator(description).validate()


def test_it_names_the_paths_there_are_and_their_methods(client, description):
    assert description["paths"].keys() == {"/label", "/health"}
    for path, methods in description["paths"].items():
        for method in ("get", "post", "put", "delete"):
            assert (client.request(method, path).status_code != 405) == (method in methods)


def test_labels_languages_and_limits_are_those_of_the_service(description):
    schemas = description["components"]["schemas"]
    assert schemas["Span"]["properties"]["label"]["enum"] == ["Disease", "Drug", "Chemical"]
    assert schemas["One"]["properties"]["lang"]["enum"] == ["en", "es", "fr", "it"]
    assert schemas["Several"]["properties"]["texts"]["maxItems"] == 3


BODIES = [
    {"text": "No asthma."},
    {"text": "", "labels": ["Drug"], "lang": "it"},
    {"texts": ["glucose", "asthma, metformin"]},
    {"texts": []},
    {},
    {"text": 1},
    {"text": "a", "texts": ["a"]},
    {"texts": ["a"] * 4},
    {"texts": "a"},
    {"text": "a", "labels": []},
    {"text": "a", "labels": ["Nothing"]},
    {"text": "a", "lang": "de"},
    {"text": "a", "more": 1},
    [],
]


@pytest.mark.parametrize("body", BODIES, ids=str)
def test_a_body_is_taken_if_and_only_if_its_schema_says_so(client, description, validator, body):
    label = description["paths"]["/label"]["post"]
    answer = client.post("/label", json=body)
    assert validator(label["requestBody"]).is_valid(body) == (answer.status_code == 200)
    validator(label["responses"][str(answer.status_code)]).validate(answer.json())


def test_every_answer_is_described(client, description, validator, start):
    label = description["paths"]["/label"]["post"]["responses"]
    json = {"Content-Type": "application/json"}

    def broken(documents):
        raise RuntimeError

    busy = start(max_requests=0).post("/label", json={"text": "a"})
    answers = [
        client.post("/label", content=b"{", headers=json),
        client.post("/label", content=b" " * 5_001, headers=json),
        client.post("/label", content=b"{}"),
        client.post("/label", content=b"{}", headers={"Host": "evil.example"}),
        start(broken).post("/label", json={"text": "a"}),
        busy,
    ]
    assert [answer.status_code for answer in answers] == [400, 413, 415, 421, 500, 503]
    for answer in answers:
        validator(label[str(answer.status_code)]).validate(answer.json())
    assert busy.headers.keys() >= {name.lower() for name in label["503"]["headers"]}
    assert label.keys() == {str(answer.status_code) for answer in answers} | {"200", "408", "422"}


def test_health_is_described(client, description, validator, start):
    health = description["paths"]["/health"]["get"]["responses"]
    validator(health["200"]).validate(client.get("/health").json())

    def fail():
        raise RuntimeError

    loading = start(load=fail, failed=lambda error: None, wait=False).get("/health")
    assert loading.status_code == 503
    validator(health["503"]).validate(loading.json())
