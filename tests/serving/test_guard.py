"""Under which names the service answers, and the headers of every answer."""

import socket

import pytest

OURS = ["localhost", "localhost:8080", "LocalHost:1", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:8080"]
OTHERS = ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.5", ""]
OTHERS += ["[::2]", "::1", "localhost:8080:8080", "localhost@evil.example", "localhost/", " localhost"]


def ask(client, host):
    return client.get("/health", headers={"Host": host}).status_code


@pytest.fixture
def names(start):
    """Returns host -> whether a service that listens at `address` answers under it."""
    return lambda address: (lambda client: lambda host: {200: True, 421: False}[ask(client, host)])(start(host=address))


def test_a_name_that_was_made_to_point_here_is_refused(names):
    answers = names("127.0.0.1")
    assert [host for host in OURS if not answers(host)] == []
    assert [host for host in OTHERS if answers(host)] == []


def test_the_address_it_listens_at_is_a_name(names):
    answers = names("10.0.0.5")
    assert answers("10.0.0.5:8080")
    assert not answers("10.0.0.6")


@pytest.mark.parametrize("everywhere", ["0.0.0.0", "::"])
def test_at_all_interfaces_any_address_and_the_machine_name_are_names(names, everywhere):
    answers = names(everywhere)
    assert all(map(answers, ["10.0.0.5:8080", "[fe80::1]:8080", socket.gethostname(), *OURS]))
    assert not any(map(answers, ["evil.example", "10.0.0.5.evil.example", "999.0.0.1"]))


def test_every_answer_has_the_headers(start):
    client = start()
    refused = client.get("/health", headers={"Host": "evil.example"})
    assert "error" in refused.json()
    answers = [refused, *(client.get(path) for path in ("/", "/page.js", "/health", "/nothing"))]
    answers.append(client.post("/label", json={"text": 1}))
    for answer in answers:
        policy = dict(part.split(maxsplit=1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == "'self'"
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_other_sites_may_not_ask_from_a_browser(start):
    """A page of another site may send JSON only after this question, and it is not answered with a yes."""
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = start().options("/label", headers=asked)
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers
