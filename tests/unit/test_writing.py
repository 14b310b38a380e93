"""Prompts that a language model writes: a real server of the protocol, the official client."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from flash_ray.data.alike import alike, plain
from flash_ray.data.writing import writer as writing
from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import listed_cases, load_benchmark
from flash_ray.recipe import load_recipe
from flash_ray.telemetry.progress import Steps
from flash_ray.workflows.write import Written, write_data
from tests.helpers.chat_server import KEY, Answer, ChatServer, trusted_server
from tests.helpers.writer import KEY_VARIABLE, lines, prompt_of, write_spec, writes

AT_ONCE = {"retry-after-ms": "1"}  # the client waits so long before it asks again
LANDSCAPE = {"rows": 9, "about": "wide views", "themes": ["a coast", "a town", "a desert"]}
POSTER = {"rows": 4, "about": "posters", "themes": ["a fair"], "rendered_text": 0.5}
T2I = {
    "languages": {
        "English": {"share": 2, "length": [40, 90]},
        "Chinese": {"share": 1, "length": [15, 40]},
    },
    "categories": {"landscape": LANDSCAPE, "poster": POSTER},
}


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with trusted_server(KEY_VARIABLE, writes) as running:
        yield running


def write(spec: Path, out: Path) -> Written:
    return write_data(str(spec), out, None, None, Steps())


def rows_of(out: Path, name: str = "t2i.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / name).read_text("utf-8").splitlines()]


def one_line(problem: object, *parts: str) -> None:
    assert "\n" not in str(problem)
    for part in parts:
        assert part in str(problem)


def test_rows_are_as_the_spec_wants_them(server, tmp_path):
    spec = write_spec(tmp_path, server, t2i=T2I, batch=4)
    written = write(spec, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert written.problem is None and written.dropped == {}
    assert Counter(row["category"] for row in rows) == {"landscape": 9, "poster": 4}
    landscape = [row for row in rows if row["category"] == "landscape"]
    assert Counter(row["language"] for row in landscape) == {"English": 6, "Chinese": 3}
    assert Counter(row["theme"] for row in landscape) == dict.fromkeys(LANDSCAPE["themes"], 3)
    texts = [row for row in rows if row["text"]]
    assert len(texts) == 2 and all(f'"{row["text"]}"' in row["prompt"] for row in texts)
    assert [row["rendered_text"] for row in rows] == [row["text"] is not None for row in rows]
    for row in rows:
        fewest, most = T2I["languages"][row["language"]]["length"]
        assert fewest <= len(row["prompt"]) <= most
    assert len({row["id"] for row in rows}) == 13
    by_request = Counter(row["request"] for row in rows)
    notes = rows_of(tmp_path / "out", "_requests.jsonl")
    assert {note["request"]: note["written"] for note in notes} == by_request
    assert max(by_request.values()) == 4
    assert {(note["model"], note["base_url"]) for note in notes} == {("author", server.base_url)}
    assert written.requests == len(server.asked) == len(notes)
    assert written.tokens == written.tokens_in_all == 100 * len(notes)
    assert KEY not in "".join(p.read_text() for p in (tmp_path / "out").iterdir())


def test_the_writer_is_told_what_a_category_is_and_what_is_written_already(server, tmp_path):
    writer = {"concurrency": 1, "parameters": {"temperature": 1}}
    spec = write_spec(tmp_path, server, t2i=T2I, batch=3, writer=writer)
    write(spec, tmp_path / "out")
    first, second = server.asked[:2]
    assert "The category is 'landscape': wide views" in first.rubric
    assert first.model == "author" and first.fields == {"temperature": 1}
    assert "There are these already" not in first.text
    for row in rows_of(tmp_path / "out")[:3]:
        assert f"- {row['prompt']}" in second.text


def test_a_second_command_asks_nothing_and_one_that_was_ended_goes_on(server, tmp_path):
    spec, out = write_spec(tmp_path, server, t2i=T2I, batch=2), tmp_path / "out"
    few = write_spec(tmp_path, server, t2i=T2I, batch=2, writer={"max_requests": 3})
    ended = write(few, out)
    one_line(ended.problem, "writer.max_requests: 3 do not suffice", "run again to go on")
    before = rows_of(out)
    assert ended.requests == 3 and len(before) == 6
    spec = write_spec(tmp_path, server, t2i=T2I, batch=2)
    went_on = write(spec, out)
    rows = rows_of(out)
    assert went_on.problem is None and rows[:6] == before and len(rows) == 13
    assert sum(len(lines(asked)) for asked in server.asked) == 13
    asked = len(server.asked)
    again = write(spec, out)
    assert len(server.asked) == asked and again.requests == 0 and rows_of(out) == rows
    assert again.tokens_in_all == 100 * asked


def test_a_row_that_the_user_takes_out_is_written_anew(server, tmp_path):
    spec, out = write_spec(tmp_path, server, t2i=T2I), tmp_path / "out"
    write(spec, out)
    file = out / "t2i.jsonl"
    taken, *kept = file.read_text("utf-8").splitlines(keepends=True)
    file.write_text("".join(kept), "utf-8")
    write(spec, out)
    new = rows_of(out)[-1]
    removed = json.loads(taken)
    assert new["prompt"] != removed["prompt"] and len(rows_of(out)) == 13
    same = ("category", "language", "theme", "rendered_text")
    assert [new[key] for key in same] == [removed[key] for key in same]


def test_a_line_that_was_cut_off_is_written_anew(server, tmp_path):
    spec, out = write_spec(tmp_path, server, t2i=T2I), tmp_path / "out"
    write(spec, out)
    file = out / "t2i.jsonl"
    file.write_bytes(file.read_bytes()[:-30])
    assert write(spec, out).problem is None
    assert len(rows_of(out)) == 13
    file.write_bytes(file.read_bytes()[:-1])  # an editor may leave out the last line's end
    assert write(spec, out).requests == 0
    file.write_text("no row\n" + file.read_text())
    with pytest.raises(UserError) as refusal:
        write(spec, out)
    one_line(refusal.value, f"{file}: line 1 is no JSON object")


def test_near_duplicates_are_counted_and_asked_for_again(server, tmp_path):
    def repeats(asked, number):
        rows = [prompt_of(line, "same" if number < 2 else number) for line in lines(asked)]
        if number < 2:
            rows = [
                {**row, "prompt": rows[0]["prompt"][:-1] + "xyz"[n]} for n, row in enumerate(rows)
            ]
        return Answer(json.dumps({"rows": rows}))

    server.script = repeats
    t2i = {"categories": {"landscape": {**LANDSCAPE, "rows": 3}}}
    written = write(
        write_spec(tmp_path, server, t2i=t2i, writer={"concurrency": 1}), tmp_path / "o"
    )
    assert written.dropped == {"near-duplicate": 3} and written.problem is None
    prompts = [plain(row["prompt"]) for row in rows_of(tmp_path / "o")]
    assert len(prompts) == 3
    assert not any(alike([p], [q for q in prompts if q != p]) for p in prompts)


def test_a_row_that_cannot_be_had_is_given_up_and_said(server, tmp_path):
    server.script = lambda asked, number: Answer(
        "\n".join(
            json.dumps({"number": int(n), "prompt": "always the same words, " * 4})
            for n, *_ in lines(asked)
        )
    )
    t2i = {"categories": {"landscape": LANDSCAPE}}
    written = write(write_spec(tmp_path, server, t2i=t2i), tmp_path / "out")
    assert len(rows_of(tmp_path / "out")) == 1
    assert written.dropped == {"near-duplicate": 8 * writing.TRIES}
    one_line(written.problem, "8 rows could not be had", "landscape", "near-duplicate", "run again")


def test_prompts_of_a_benchmark_are_not_written(server, tmp_path):
    case = listed_cases(load_benchmark("starter", load_recipe("miniature")), "t2i")[0]

    def leaks(asked, number):
        if number:
            return writes(asked, number)
        rows = [{"number": 1, "prompt": f"{case.prompt}!"}]
        return Answer(json.dumps(rows))

    server.script = leaks
    t2i = {"categories": {"landscape": {**LANDSCAPE, "rows": 1}}}
    spec = write_spec(tmp_path, server, t2i=t2i, against=["starter"])
    written = write(spec, tmp_path / "out")
    assert written.dropped == {"in a benchmark": 1} and len(rows_of(tmp_path / "out")) == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "short"}, "too short"),
        ({"prompt": "long " * 200}, "too long"),
        ({"prompt": 'a sign that says "OPEN" above a door in the rain'}, "that was not asked for"),
        ({"number": 7, "prompt": "a prompt that belongs to no line of the question"}, "not answer"),
        ({"prompt": ["a list"]}, "not answered"),
    ],
)
def test_what_is_not_as_asked_is_dropped(server, tmp_path, row, reason):
    server.script = lambda asked, number: (
        writes(asked, number) if number else Answer(json.dumps({"number": 1, **row}))
    )
    t2i = {"categories": {"landscape": {**LANDSCAPE, "rows": 1}}}
    written = write(write_spec(tmp_path, server, t2i=t2i), tmp_path / "out")
    ((why, count),) = written.dropped.items()
    assert reason in why and count == 1 and written.problem is None


def test_a_text_that_is_not_in_the_prompt_is_dropped(server, tmp_path):
    def forgets(asked, number):
        rows = [prompt_of(line, number) for line in lines(asked)]
        return Answer(
            json.dumps([{**row, "text": "OTHER"} if number == 0 else row for row in rows])
        )

    server.script = forgets
    t2i = {"categories": {"poster": {**POSTER, "rows": 1, "rendered_text": 1}}}
    written = write(write_spec(tmp_path, server, t2i=t2i), tmp_path / "out")
    assert written.dropped == {"without its text in quotation marks": 1}


def test_thoughts_and_an_answer_that_is_cut_off_do_not_spoil_the_rest(server, tmp_path):
    def thinks(asked, number):
        whole = writes(asked, number).text
        return Answer(f'<think>{{"number": 1, "prompt": "a draft"}}</think>```\n{whole[:-20]}')

    server.script = lambda asked, n: writes(asked, n) if n else thinks(asked, n)
    t2i = {"categories": {"landscape": LANDSCAPE}}
    written = write(write_spec(tmp_path, server, t2i=t2i), tmp_path / "out")
    assert written.dropped == {"not answered": 1} and len(server.asked) == 2
    assert {row["request"] for row in rows_of(tmp_path / "out")[:8]} == {1}


def test_halves_of_characters_are_taken_out(server, tmp_path):
    server.script = lambda asked, number: Answer(
        json.dumps({"number": 1, "prompt": "half a character \ud83d in a\nprompt of two lines"})
    )
    t2i = {"categories": {"landscape": {**LANDSCAPE, "rows": 1}}}
    write(write_spec(tmp_path, server, t2i=t2i), tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert row["prompt"] == "half a character in a prompt of two lines"


@pytest.mark.parametrize(
    ("answer", "said"),
    [(Answer("I had rather not."), "I had rather not"), (Answer(refusal="no"), "it refuses")],
    ids=["words", "refusals"],
)
def test_a_writer_of_no_use_is_not_asked_forever(server, tmp_path, answer, said):
    server.script = lambda asked, number: answer
    t2i = {"categories": {"landscape": {**LANDSCAPE, "rows": 90}}}
    spec = write_spec(tmp_path, server, t2i=t2i, batch=1, writer={"concurrency": 2})
    written = write(spec, tmp_path / "out")
    one_line(
        written.problem, "writer.model: 10 answers of author", said, "what was written is kept"
    )
    assert len(server.asked) <= 11


def test_what_is_in_flight_when_the_budget_ends_is_kept(server, tmp_path):
    last = Event()

    def slow(asked, number):
        if number == 0:
            last.wait(60)
        elif number == 3:
            last.set()
        return writes(asked, number)

    server.script = slow
    spec = write_spec(
        tmp_path, server, t2i=T2I, batch=1, writer={"concurrency": 2, "max_requests": 4}
    )
    written = write(spec, tmp_path / "out")
    one_line(written.problem, "writer.max_requests: 4 do not suffice")
    assert len(rows_of(tmp_path / "out")) == 4


def test_a_server_that_breaks_is_named_and_what_was_written_kept(server, tmp_path):
    server.script = lambda asked, number: (
        Answer(status=500, headers=AT_ONCE) if number else writes(asked, number)
    )
    spec = write_spec(tmp_path, server, t2i=T2I, batch=2, writer={"concurrency": 1})
    written = write(spec, tmp_path / "out")
    one_line(written.problem, "writer.base_url", "500", "writer.concurrency", "kept")
    assert len(rows_of(tmp_path / "out")) == 2
    server.script = writes
    assert write(spec, tmp_path / "out").problem is None


def test_a_wrong_key_is_said_and_not_shown(server, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "sk-wrong-4711")
    written = write(write_spec(tmp_path, server, t2i=T2I), tmp_path / "out")
    one_line(written.problem, "writer.base_url", f"correct the key in {KEY_VARIABLE}")
    assert "4711" not in written.problem


def test_a_folder_of_another_spec_is_refused_and_left(server, tmp_path):
    out = tmp_path / "out"
    write(write_spec(tmp_path, server, t2i=T2I), out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    more = {**T2I, "categories": {**T2I["categories"], "poster": {**POSTER, "rows": 5}}}
    with pytest.raises(UserError) as refusal:
        write(write_spec(tmp_path, server, t2i=more), out)
    one_line(refusal.value, "spec.t2i.categories.poster.rows=4, now it is 5", "new folder")
    with pytest.raises(UserError) as refusal:
        write(write_spec(tmp_path, server, t2i=T2I), tmp_path)
    one_line(refusal.value, "--out", "no `flash-ray data write` made")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    other = write_spec(tmp_path, server, t2i=T2I, writer={"model": "another"})
    assert write(other, out).problem is None  # who writes may change: each row says who did


def test_two_commands_do_not_write_into_one_folder(server, tmp_path):
    refusals = []

    def meanwhile(asked, number):
        if not number:
            with pytest.raises(UserError) as refusal:
                write(spec, tmp_path / "out")
            refusals.append(refusal.value)
        return writes(asked, number)

    server.script = meanwhile
    spec = write_spec(tmp_path, server, t2i=T2I)
    assert write(spec, tmp_path / "out").problem is None
    one_line(refusals[0], "--out", "another command writes into")
