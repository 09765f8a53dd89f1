"""A batch by a language model is priced before it starts, sends words alone, goes on where it was stopped, and says what failed."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mine_core.artifacts import ArtifactStore
from mine_core.cli import REFUSED, main
from mine_core.description.language_model import MOST_ANSWER, SYSTEM, word_table
from mine_core.errors import Cancelled, ConfigError, DescriptionError
from mine_core.instrument.profiling import table_of
from mine_core.instrument.tables import write_table
from mine_core.instrument.wanting import full_profile
from mine_core.instrument.written import endpoint_of, price, price_line, tables_of, write_batch


class Model(BaseHTTPRequestHandler):
    """Answers with the number of words in the table; refuses tables with a word that the server is told of."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        table = body["messages"][1]["content"]
        with self.server.guard:
            self.server.seen.append((self.path, table, self.headers["Authorization"]))
        said = {
            "primary_content": f"{table.count('| ') // 3 - 1} words",
            "scene_context": "any",
            "visual_attributes": ["plain", "small"],
            "semantic_categories": ["made up"],
            "confidence_note": "none",
        }
        refused = any(f"| {word} |" in table for word in self.server.refuses)
        content = "no JSON" if refused else json.dumps(said)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [{"message": {"content": content}}]}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    found.seen, found.refuses, found.guard = [], [], threading.Lock()
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def address(server: Any) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1"


def made_up(*phrases: tuple[str, ...]) -> pd.DataFrame:
    """Profiles of voxels that want some words each."""
    attribute = {"attribute": "colour", "word": "red", "score": 0.21, "stands": True}
    rows = [
        {
            "voxel": voxel,
            "r": 0.5,
            "phrases": list(words),
            "scores": json.dumps({word: 0.5 - 0.1 * i for i, word in enumerate(words)}),
            "tried": json.dumps([attribute, attribute | {"word": "blue", "stands": False}] if words else []),
            "company": ["dog beside ball"] if "ball" in words else [],
            "text": " ".join(words),
            "exemplars": ["image-7"],
        }
        for voxel, words in enumerate(phrases)
    ]
    return pd.DataFrame(rows)


def test_a_row_of_a_batch_gives_the_table_of_its_voxel(small: Any) -> None:
    voxels = np.flatnonzero(small.instrument.reliable)
    rows = tables_of(table_of(small.instrument, voxels))
    assert any(rows)
    assert rows == [word_table(full_profile(small.instrument, int(voxel))) for voxel in voxels]


def test_the_price_is_that_of_what_is_not_kept(tmp_path: Path, address: str) -> None:
    store, profiles = ArtifactStore(tmp_path), made_up(("ball", "cup"), (), ("ball", "cup"), ("tree",))
    endpoint = endpoint_of(address, "tiny", 2.0, 8.0)
    tables = tables_of(profiles)
    found = price(tables, endpoint, store)
    assert found["n_asked"] == 2 and found["tokens_out"] == 2 * MOST_ANSWER
    letters = 2 * len(SYSTEM) + len(tables[0]) + len(tables[3])
    assert found["price"] == pytest.approx((2.0 * letters / 4 + 8.0 * 2 * MOST_ANSWER) / 1e6)
    assert price_line(found, endpoint).startswith("2 calls, about") and "2 and 8 a million tokens" in price_line(found, endpoint)
    assert price_line(found, endpoint_of(address, "tiny")).endswith("no price was given")
    write_batch(profiles, endpoint, store)
    assert price(tables, endpoint, store)["n_asked"] == 0
    with pytest.raises(ConfigError, match="must be 0 or more"):
        endpoint_of(address, "tiny", -1.0)


def test_a_batch_sends_words_alone_and_each_table_once(tmp_path: Path, server: Any, address: str, monkeypatch) -> None:
    monkeypatch.setenv("MINE_WRITER_KEY", "secret")
    store, profiles = ArtifactStore(tmp_path), made_up(("ball", "cup"), (), ("ball", "cup"), ("tree",))
    endpoint = endpoint_of(address, "tiny")
    found = write_batch(profiles, endpoint, store)
    assert found["written_by"].tolist() == ["tiny", "", "tiny", "tiny"]
    assert found["primary_content"].tolist() == ["2 words", "", "2 words", "1 words"]
    assert [list(cell) for cell in found["visual_attributes"]] == [["plain", "small"], [], ["plain", "small"], ["plain", "small"]]
    assert sorted(table for _, table, _ in server.seen) == sorted({table for table in tables_of(profiles) if table})
    assert all(path == "/v1/chat/completions" and key == "Bearer secret" for path, _, key in server.seen)
    assert not any("image-7" in table or "blue" in table for _, table, _ in server.seen)
    assert "secret" not in "".join(path.read_text() for path in tmp_path.rglob("*.json")) and "secret" not in str(found.to_dict())
    write_table(found.assign(regions=[[]] * 4), tmp_path / "p.csv")
    assert "plain; small" in (tmp_path / "p.csv").read_text()


def test_a_batch_goes_on_where_it_was_stopped(tmp_path: Path, server: Any, address: str) -> None:
    store, profiles = ArtifactStore(tmp_path), made_up(*((f"w{i}",) for i in range(10)))
    endpoint = endpoint_of(address, "tiny")
    with pytest.raises(Cancelled, match="after 4 of 10"):
        write_batch(profiles, endpoint, store, cancelled=lambda: len(server.seen) >= 4)
    assert len(server.seen) == 4
    assert (write_batch(profiles, endpoint, store)["written_by"] == "tiny").all()
    assert len(server.seen) == 10


def test_what_got_no_answer_is_said_and_a_server_of_no_use_ends_the_batch(
    tmp_path: Path, server: Any, address: str, monkeypatch
) -> None:
    monkeypatch.setattr("mine_core.description.language_model.time.sleep", lambda _: None)
    server.refuses = ["w3"]
    profiles = made_up(*((f"w{i}",) for i in range(10)))
    found = write_batch(profiles, _quick(address), ArtifactStore(tmp_path))
    assert (found["written_by"] == "tiny").sum() == 9 and "not JSON" in found["written_refused"][3]
    server.refuses = [f"w{i}" for i in range(100)]
    with pytest.raises(DescriptionError, match="no usable answer"):
        write_batch(made_up(*((f"w{i}",) for i in range(50, 90))), _quick(address), ArtifactStore(tmp_path))
    assert not any("| w70 |" in table for _, table, _ in server.seen)


def _quick(address: str) -> Any:
    from dataclasses import replace

    return replace(endpoint_of(address, "tiny"), tries=1)


def test_the_command_line_says_what_it_costs_and_waits_to_be_told(
    apart: Any, server: Any, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = [
        "profile",
        "--subject",
        "small",
        "--workers",
        "1",
        "--writer",
        address,
        "--writer-model",
        "tiny",
        "--writer-price",
        "1",
        "4",
    ]
    assert main(call) == REFUSED
    refusal = capsys.readouterr().err
    assert "calls, about" in refusal and "--writer-yes" in refusal and refusal.count("\n") == 1 and not server.seen
    out, answer = tmp_path / "p.parquet", tmp_path / "a.json"
    assert main([*call, "--writer-yes", "--out", str(out), "--json", str(answer)]) == 0
    told = json.loads(answer.read_text())["written"]
    table = pd.read_parquet(out)
    assert told["by"] == "tiny" and told["n_written"] == (table["written_by"] == "tiny").sum() == (table["text"] != "").sum() > 0
    assert len(server.seen) == told["n_asked"]
    assert main(call) == 0  # all is kept: nothing is asked for, so nothing needs a yes
    assert len(server.seen) == told["n_asked"]
    for options, said in ((["--writer", "ftp://x", "--writer-model", "m"], "http(s)"), (["--writer-model", "m"], "without --writer")):
        assert main(["profile", "--subject", "small", *options]) == REFUSED
        assert said in capsys.readouterr().err
