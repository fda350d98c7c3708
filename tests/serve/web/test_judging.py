from __future__ import annotations

import re
from pathlib import Path

import pytest

from serve.problems import ProblemError
from tests.conftest import free_port
from tests.serve.web.page_server import Script, running
from tests.serve.web.steps import OpenPage, judge, marks, soon


def test_a_clip_is_uploaded_then_grows_then_has_a_verdict(
    opened: OpenPage, server: str, script: Script, footage: Path
) -> None:
    script.steps, script.hold = 3, True
    page = opened(server)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1}
    wire = page.context.new_cdp_session(page)
    wire.send("Network.emulateNetworkConditions", {**slow, "uploadThroughput": 100_000})
    page.set_input_files("#file", footage / "clip.webm")
    page.locator("#progress").get_by_text(re.compile(r"^Uploading: [1-9]\d? %$")).wait_for()
    wire.send("Network.emulateNetworkConditions", {**slow, "uploadThroughput": -1})
    page.get_by_text("Looking at the frames: 67 %").first.wait_for()
    assert marks(page) == 4
    assert page.locator("#headline").inner_text() == "Being judged"
    script.hold = False
    page.wait_for_selector("#actions:not([hidden])")
    assert page.locator("#headline").inner_text() == "Looks manipulated"
    assert "P(fake) 0.90, and between 0.84 and 0.95" in page.locator("#words").inner_text()
    assert "Looks manipulated" in page.locator("#live").inner_text()
    assert marks(page) == 6
    assert page.locator("#progress").is_hidden()
    soon(page, lambda: script.asked[-1] == "DELETE /jobs/j1")  # nothing stays on the server


def test_a_dropped_clip_is_judged_and_the_page_stays(
    opened: OpenPage, server: str, footage: Path
) -> None:
    page = opened(server)
    drop = """bytes => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
        for (const name of ["dragenter", "dragover", "drop"])
            document.querySelector("h1").dispatchEvent(
                new DragEvent(name, {dataTransfer: data, bubbles: true, cancelable: true}));
    }"""
    page.evaluate(drop, list((footage / "face.png").read_bytes()))
    page.wait_for_selector("#actions:not([hidden])")
    assert page.locator("#name").inner_text() == "dropped.png"


def test_a_pasted_image_is_judged(
    opened: OpenPage, server: str, script: Script, footage: Path
) -> None:
    script.scores, script.seconds = [[0.93]], 0
    page = opened(server)
    paste = """bytes => {
        const clipboardData = new DataTransfer();
        const file = new File([new Uint8Array(bytes)], "image.png", {type: "image/png"});
        clipboardData.items.add(file);
        document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData, bubbles: true}));
    }"""
    page.evaluate(paste, list((footage / "face.png").read_bytes()))
    page.wait_for_selector("#actions:not([hidden])")
    assert script.asked[1:] == ["POST /detect?model=main"]  # an image is no job
    assert "of one image" in page.locator("#words").inner_text()


def test_model_and_frames_are_asked_for(
    opened: OpenPage, server: str, script: Script, footage: Path
) -> None:
    page = opened(server)
    page.get_by_label("Detector").select_option("small")
    page.get_by_label("Frames").fill("32")
    judge(page, footage / "face.png")
    assert script.asked[1] == "POST /detect?model=small&frames=32"


def test_cancel_stops_the_job_on_the_server(
    opened: OpenPage, server: str, script: Script, footage: Path
) -> None:
    script.steps, script.hold = 3, True
    page = opened(server)
    page.set_input_files("#file", footage / "clip.webm")
    page.get_by_text("Looking at the frames").first.wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("heading", name="Not judged").wait_for()
    soon(page, lambda: "DELETE /jobs/j1" in script.asked)
    assert page.locator("#progress").is_hidden()


def test_it_works_below_any_path(opened: OpenPage, script: Script, footage: Path) -> None:
    with running(script, free_port(), below="/tools/detector") as url:
        page = opened(url)
        judge(page, footage / "clip.webm")
        assert page.locator("#headline").inner_text() == "Looks manipulated"


def test_a_key_is_asked_for_and_kept_in_memory_alone(
    opened: OpenPage, server: str, script: Script, footage: Path
) -> None:
    script.key = "secret"
    page = opened(server)
    assert "asks for an API key" in page.get_by_role("alert").inner_text()
    assert page.evaluate("document.activeElement.id") == "key"
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    page.get_by_text("This API key is not accepted").wait_for()
    page.get_by_label("API key").fill("secret")
    page.keyboard.press("Enter")
    page.wait_for_selector("#model-hint:not(:empty)")
    judge(page, footage / "clip.webm")
    assert script.keys[-1] == "secret"
    kept = "[localStorage.length, sessionStorage.length, document.cookie, location.href]"
    assert page.evaluate(kept) == [0, 0, "", server]


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_when_it_says(
    opened: OpenPage, server: str, script: Script, footage: Path, status: int
) -> None:
    script.refusals = [ProblemError(status, "too much at once", "busy", 1)]
    page = opened(server)
    page.set_input_files("#file", footage / "clip.webm")
    page.get_by_text("Too much at once. It is tried again in 1 s").wait_for()
    page.wait_for_selector("#actions:not([hidden])")


def test_what_takes_too_long_while_waiting_becomes_a_job(
    opened: OpenPage, server: str, script: Script, footage: Path
) -> None:
    script.refusals = [ProblemError(504, "it took longer than 60 seconds", "time budget")]
    page = opened(server)
    judge(page, footage / "face.png")
    assert script.asked[1:3] == ["POST /detect?model=main", "POST /jobs?model=main"]


def test_a_refused_file_gets_the_servers_sentence(
    opened: OpenPage, server: str, script: Script, footage: Path
) -> None:
    script.refusals = [ProblemError(422, "clip.webm cannot be read as a clip", "unreadable")]
    page = opened(server)
    page.set_input_files("#file", footage / "clip.webm")
    page.wait_for_selector("#problem:not([hidden])")
    said = page.get_by_role("alert").inner_text()
    assert "clip.webm cannot be read as a clip." in said
    assert "req-refused" in said
    page.get_by_role("button", name="Judge again").click()
    page.wait_for_selector("#actions:not([hidden])")
    assert page.locator("#problem").is_hidden()


def test_a_lost_connection_is_waited_for(
    opened: OpenPage, server: str, script: Script, footage: Path
) -> None:
    script.steps, script.hold = 3, True
    page = opened(server)
    page.set_input_files("#file", footage / "clip.webm")
    page.get_by_text("Looking at the frames: 67 %").first.wait_for()
    page.context.set_offline(True)
    page.get_by_text("This device is offline.").first.wait_for()
    script.hold = False
    page.context.set_offline(False)
    page.wait_for_selector("#actions:not([hidden])")
