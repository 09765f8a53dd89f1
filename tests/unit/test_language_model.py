"""Only words are sent; an answer is checked, tried again, kept, and priced before it is asked for."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.error import HTTPError, URLError

import numpy as np
import pytest

from mine_core.description.language_model import Endpoint, checked, cost, word_table, write_by_model
from mine_core.errors import ConfigError, DescriptionError
from mine_core.types import AttributeScore, Company, Description, VoxelProfile

GOOD = {
    "primary_content": "Red balls.",
    "scene_context": "Any.",
    "visual_attributes": ["red", "round"],
    "semantic_categories": ["toys"],
    "confidence_note": "Fairly sure.",
}
ENDPOINT = Endpoint("http://127.0.0.1:9/v1", "tiny", key="secret", seconds=2, tries=3, price_in=1.0, price_out=10.0)
TABLE = "| Rank | Word | Score |\n|---|---|---|\n| 1 | ball | 0.50 |"


def answer(content: object) -> bytes:
    return json.dumps({"choices": [{"message": {"content": content if isinstance(content, str) else json.dumps(content)}}]}).encode()


class Server:
    """Gives its answers in turn, or raises them, and remembers what it was sent."""

    def __init__(self, *answers: object) -> None:
        self.answers, self.sent, self.waits = list(answers), [], []

    def __call__(self, address, body, headers, seconds):
        self.sent.append((address, json.loads(body), headers, seconds))
        found = self.answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def busy(code: int) -> HTTPError:
    return HTTPError("http://x", code, "", {}, None)


def test_a_table_holds_words_and_nothing_else():
    description = Description(("ball",), ("ball", "cup"), np.array([0.5, 0.2]), np.array([0.01, 0.3]), True)
    attribute = AttributeScore("red", "colour", 0.2, 0.001, 1.0, True)
    rest = {"regions": ("V1",), "r": 0.5, "noise_ceiling": 0.5, "q": 0.0, "reliability": "reliable", "withheld": ""}
    images = {"exemplars": (7,), "counter_exemplars": (8,), "caveats": ()}
    profile = VoxelProfile(
        4, description=description, attributes=(attribute,), company=(Company("dog", "ball", 0.3, 0.0),), **rest, **images
    )
    assert word_table(profile) == f"{TABLE}\nAttribute: colour is red (0.20)\nOnly by company: dog beside ball"
    silent = VoxelProfile(4, description=None, **rest, **images)
    assert word_table(silent) == ""


def test_an_answer_is_read_and_kept(tmp_path):
    server = Server(answer(GOOD))
    found = write_by_model(TABLE, ENDPOINT, tmp_path, post=server)
    assert found.primary_content == "Red balls." and found.visual_attributes == ("red", "round")
    assert write_by_model(TABLE, ENDPOINT, tmp_path, post=server) == found  # the server has no second answer
    address, body, headers, seconds = server.sent[0]
    assert address == "http://127.0.0.1:9/v1/chat/completions" and seconds == 2 and headers["Authorization"] == "Bearer secret"
    assert [message["content"] for message in body["messages"]][1] == TABLE and body["temperature"] == 0
    assert "secret" not in "".join(path.read_text() for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    "first", [busy(429), busy(503), URLError("refused"), TimeoutError(), answer("no JSON"), answer({"a": 1}), b"<html>"]
)
def test_what_may_pass_is_tried_again(tmp_path, first):
    waits: list[float] = []
    server = Server(first, first, answer(GOOD))
    assert write_by_model(TABLE, ENDPOINT, tmp_path, post=server, sleep=waits.append).scene_context == "Any."
    assert waits == [1.0, 2.0]


def test_what_will_not_pass_is_refused_in_one_line(tmp_path):
    server = Server(busy(401))
    with pytest.raises(DescriptionError, match="HTTP 401") as refused:
        write_by_model(TABLE, ENDPOINT, tmp_path, post=server, sleep=lambda _: None)
    assert len(server.sent) == 1 and "\n" not in str(refused.value) and "secret" not in str(refused.value)
    with pytest.raises(DescriptionError, match="3 tries"):
        write_by_model(TABLE, ENDPOINT, tmp_path, post=Server(*[TimeoutError()] * 3), sleep=lambda _: None)
    with pytest.raises(DescriptionError, match="No word stands"):
        write_by_model("", ENDPOINT, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changed",
    [
        {"primary_content": ""},
        {"primary_content": 4},
        {"visual_attributes": "red"},
        {"visual_attributes": [1]},
        {"scene_context": "x" * 700},
        {"more": ""},
    ],
)
def test_an_answer_of_another_form_is_refused(changed):
    with pytest.raises(DescriptionError):
        checked(json.dumps(GOOD | changed))
    assert checked(f"```json\n{json.dumps(GOOD)}\n```").confidence_note == "Fairly sure."


def test_cost_is_known_before():
    found = cost([TABLE, "", TABLE], ENDPOINT)
    assert found["n_asked"] == 2 and found["tokens_out"] == 800
    assert found["price"] == pytest.approx((found["tokens_in"] + 8000) / 1e6)
    for address, model in (("file:///etc/passwd", "m"), ("http://x", "")):
        with pytest.raises(ConfigError):
            Endpoint(address, model)


def test_a_real_server_is_reached(tmp_path):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer(GOOD))

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.handle_request, daemon=True).start()
    endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "tiny")
    assert write_by_model(TABLE, endpoint, tmp_path).semantic_categories == ("toys",)
    server.server_close()
