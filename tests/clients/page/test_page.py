"""The gateway's page, as somebody uses it who has it open in a browser."""

import http.server
import json
import os
import re
import signal
import subprocess
import threading
import urllib.request

import pytest
from browser import Page, settle
from conftest import QUESTIONS, ROOT, SAMPLES, start
from selenium.webdriver.common.keys import Keys

PHOTOS = ROOT / "tests/fixtures/photos"
DESKTOP, PHONE, NARROW = (1280, 900), (390, 844), (360, 740)


def of_kind(kind: str) -> dict:
    """The first question of its kind that the embedded model answers as it should."""
    right = (one for one in QUESTIONS if one["kind"] == kind and one["turns"][-1]["answer"] == one["reference"])
    return next(right)


DESCRIBED = of_kind("describe")
PICTURE, QUESTION, ANSWER = SAMPLES / DESCRIBED["images"][0], DESCRIBED["turns"][0]["question"], DESCRIBED["reference"]
OTHER = of_kind("read word")
# An answer that may not end before its limit.
LONG = {"schema": '{"type": "string", "minLength": 20000}', "max_tokens": "3000"}


class Door(http.server.BaseHTTPRequestHandler):
    """Says what a gateway that wants a token says, and hands everything else on to one that wants none."""

    token = "open sesame"
    gateway = ""

    def do_GET(self):
        wants_token = self.path.startswith("/v1/") or self.path in (
            "/tessera/about",
            "/tessera/inspect",
            "/tessera/pools",
        )
        shown = self.headers.get("authorization")
        if wants_token and shown != f"Bearer {self.token}":
            reason = "TOKEN_UNKNOWN" if shown else "TOKEN_MISSING"
            details = {"kind": "Unauthenticated", "metadata": {}, "fields": []}
            error = {
                "message": "nobody knows who asks",
                "type": "authentication_error",
                "code": reason,
                "details": details,
            }
            return self.answer(401, "application/json", json.dumps({"error": error}).encode())
        body = self.rfile.read(int(self.headers.get("content-length", 0))) or None
        request = urllib.request.Request(self.gateway + self.path, body, method=self.command)
        with urllib.request.urlopen(request) as response:
            self.answer(response.status, response.headers["content-type"], response.read())

    do_POST = do_GET

    def answer(self, status: int, kind: str, body: bytes):
        """Sends an answer."""
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Is quiet."""


@pytest.fixture
def token_gateway(gateway):
    """A gateway that wants a token; returns its URL and the token."""
    Door.gateway = gateway.url
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", Door.token
        server.shutdown()


@pytest.fixture
def page(gateway):
    """The page in a desktop's window; nothing may go wrong in it."""
    page = Page(gateway.url)
    yield page
    complaints, hosts = page.complaints(), page.hosts()
    page.close()
    assert complaints == []
    assert hosts == {gateway.address}


def inspected(path) -> dict:
    """What the program says of a picture."""
    command = [os.environ["TESSERA_PROGRAM"], "inspect", "--json", str(path)]
    (found,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def set_to(page, **settings):
    """Fills settings in."""
    if not page.one("#settings").is_displayed():
        page.one("#settings-toggle").click()
    for name, value in settings.items():
        field = page.one(f"#{name.replace('_', '-')}")
        field.clear()
        field.send_keys(value)


@pytest.mark.feature("Chromium", "what the system did with an image")
@pytest.mark.parametrize(
    "path",
    [PICTURE, PHOTOS / "landscape.jpg", PHOTOS / "portrait.jpg", PHOTOS / "rotated.jpg"],
    ids=lambda path: path.name,
)
def test_a_dropped_picture_is_cut_as_the_program_says(page, path):
    page.add(path)
    plan = inspected(path)
    assert page.number("image-tokens") == str(plan["image_tokens"])
    assert page.number("tiles").startswith(f"{plan['tiles']} (")
    assert page.number("features").startswith(f"{plan['rows']} × {plan['columns']} ")
    assert page.number("size").startswith(f"{plan['width']} × {plan['height']} pixels")
    grid, resized = plan["grid"], plan["resized"]
    expected = f"{resized['width']} × {resized['height']} of {grid['width']} × {grid['height']} pixels"
    assert page.number("resized") == expected
    # What is drawn: each tile, and what un-padding keeps.
    assert len(page.all(".grid .tile")) + len(page.all(".base .tile")) == plan["tiles"]
    kept = page.one(".grid .kept")
    patch = grid["height"] / len({tile.get_attribute("y") for tile in page.all(".grid .tile")}) / 8
    assert float(kept.get_attribute("height")) == plan["rows"] * patch
    assert float(kept.get_attribute("width")) == plan["columns"] * patch
    # And nothing was encoded for it.
    assert not any("/v1/chat" in request["url"] for request in page.requests())


@pytest.mark.feature("Chromium", "ask about an image")
def test_a_picture_is_asked_about_and_asked_about_again_by_its_handle(page):
    page.add(PICTURE)
    assert page.ask(QUESTION) == ANSWER
    assert "reused" in page.fact("reused") and "stored before" in page.fact("stored")
    assert page.part("prefill") > 0
    bodies = [request["postData"] for request in page.requests() if "/v1/chat" in request["url"]]
    assert "data:image/jpeg;base64," in bodies[0]
    # The second turn sends the handle that the first answer told, and the history.
    again = page.ask(QUESTION)
    body = [json.loads(request["postData"]) for request in page.requests() if "/v1/chat" in request["url"]][-1]
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert [part["type"] for part in body["messages"][0]["content"]] == ["image_embedding", "text"]
    assert body["messages"][1]["content"] == ANSWER
    assert page.fact("stored") == "1 of 1 picture stored before"
    assert int(re.match(r"\d+", page.fact("reused"))[0]) > 0 and again
    assert page.part("encode") == 0


@pytest.mark.feature("Chromium", "several images")
def test_pictures_come_by_dropping_pasting_and_choosing_and_leave_again(page):
    page.add(PICTURE)
    page.paste(PICTURE)
    page.wait(lambda: len(page.all("#thumbs li")) == 2)
    page.one("#files").send_keys(str(SAMPLES / OTHER["images"][0]))
    page.wait(lambda: len(page.all("#thumbs li")) == 3)
    page.one("#thumbs li:first-child .remove").click()
    page.one("#thumbs li:first-child .remove").click()
    assert len(page.all("#thumbs li")) == 1
    assert page.ask(OTHER["turns"][0]["question"]) == OTHER["reference"]
    page.one("#new").click()
    assert page.all("#thumbs li") == [] and page.all(".turn") == []
    assert page.one("#hint").is_displayed()


@pytest.mark.feature("Chromium", "limits")
def test_more_pictures_than_the_gateway_takes_are_refused(page):
    page.drop(*[PICTURE] * 17)
    said = page.failure("#picture-failures")
    assert (said["reason"], len(page.all("#thumbs li"))) == ("TOO_MANY_IMAGES", 16)
    assert "16 pictures" in said["message"] and said["advice"]


@pytest.mark.feature("Chromium", "stream an answer")
def test_an_answer_grows_and_stops_when_it_is_told_to(page):
    set_to(page, **LONG)
    page.add(PICTURE)
    page.send(QUESTION)
    page.wait(lambda: page.text(".answer"))
    assert page.text("#send") == "Stop" and page.one(".answer").get_attribute("aria-busy") == "true"
    first = len(page.text(".answer"))
    page.wait(lambda: len(page.text(".answer")) > first + 20)
    page.press(Keys.ESCAPE)
    page.wait(page.is_idle)
    stopped = page.text(".answer")
    settle(0.5)
    assert page.text(".answer") == stopped and page.text(".stopped") == "Stopped"
    assert page.text("#status") == "Stopped."
    # The gateway lets go of it, and the conversation goes on.
    page.one("#tab-pools").click()
    page.wait(lambda: page.text('[data-pool="language"] [data-figure="in-flight"] dd') == "0")
    page.one("#tab-ask").click()
    set_to(page, max_tokens="8", schema='{"enum": ["yes", "no"]}')
    assert json.loads(page.ask("Is that all?")) in ("yes", "no")


@pytest.mark.feature("Chromium", "sampling settings")
def test_settings_hold_and_a_seed_of_all_its_digits_gives_the_same_answer(page):
    seed = str(2**64 - 59)
    set_to(page, temperature="1.5", seed=seed, max_tokens="12")
    assert page.text("#settings-told") == f"max tokens 12, temperature 1.5, seed {seed}"
    page.add(PICTURE)
    first = page.ask(QUESTION)
    assert page.fact("seed") == f"seed {seed}"
    assert page.fact("tokens").startswith("12 new") or page.all(".times")
    page.one("#new").click()
    page.add(PICTURE)
    assert page.ask(QUESTION) == first


@pytest.mark.feature("Chromium", "forms of answers")
def test_an_answer_has_the_form_of_a_schema(page):
    set_to(page, schema='{"enum": ["red", "blue"]}')
    page.add(PICTURE)
    assert json.loads(page.ask("What colour is it?")) in ("red", "blue")
    set_to(page, schema="{")
    page.send(QUESTION)
    assert page.failure("#notice")["reason"] == "SETTING_INVALID"


@pytest.mark.feature("Chromium", "sampling settings")
def test_a_setting_that_is_wrong_is_said_beside_it(page):
    page.one("#settings-toggle").click()
    page.one("#max-tokens").send_keys("many")
    page.one("#settings-toggle").click()
    page.send(QUESTION)
    assert page.one("#settings").is_displayed() and page.focused() == "max-tokens"
    assert page.all(".turn") == []


@pytest.mark.feature("Chromium", "errors with their reasons")
def test_what_is_no_image_is_said(gateway):
    page = Page(gateway.url)
    page.drop(ROOT / "LICENSE")
    said = page.failure("#picture-failures")
    assert said["reason"] == "IMAGE_FORMAT_UNKNOWN" and said["message"].startswith("LICENSE: ")
    assert "JPEG" in said["advice"]
    page.one("#picture-failures .leave").click()
    assert page.all("#picture-failures .failure") == []
    # What the gateway says of a request is shown as it says it.
    set_to(page, schema='{"type": "nonsense"}')
    page.send("Is it so?")
    said = page.failure(".turn")
    assert "nonsense" in said["message"] and said["reason"].isupper()
    assert page.one("#question").get_attribute("value") == "Is it so?", "it can be sent again"
    assert page.complaints(expected="errors") == []
    page.close()


@pytest.mark.feature("Chromium", "errors with their reasons")
def test_a_gateway_that_is_gone_is_said():
    process, gateway = start()
    page = Page(gateway.url)
    page.add(PICTURE)
    set_to(page, **LONG)
    page.send(QUESTION)
    page.wait(lambda: page.text(".answer"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    said = page.failure(".turn")
    assert said["reason"] in ("CONNECTION_LOST", "GATEWAY_UNREACHABLE") and said["advice"]
    assert page.is_idle() and page.text(".answer")
    page.send("Are you there?")
    page.wait(lambda: len(page.all(".turn .failure")) == 2)
    said = page.failure(".turn")
    assert said["reason"] == "GATEWAY_UNREACHABLE" and "tessera up" in said["advice"]
    page.one("#tab-pools").click()
    assert page.failure("#pools-failure")["reason"] == "GATEWAY_UNREACHABLE"
    assert page.text("#live") == "No report"
    assert page.complaints(expected="errors") == []
    page.close()


@pytest.mark.feature("Chromium", "pools")
def test_the_pools_show_both_workers_and_what_they_do(page, gateway):
    page.one("#tab-pools").click()
    page.wait(lambda: page.all("[data-worker]"))
    states = {node.get_attribute("data-worker"): node.get_attribute("data-state") for node in page.all("[data-worker]")}
    assert states == {f"http://{gateway.host}:{gateway.port + offset}": "ready" for offset in (1, 2)}
    assert page.text("#live") == "Live"

    def figure(pool: str, name: str) -> str:
        return page.text(f'[data-pool="{pool}"] [data-figure="{name}"] dd').replace("\u202f", "")

    page.wait(lambda: re.match(r"\d+\s+of \d{3,}", figure("language", "blocks")))
    assert re.match(r"[\d.]+ (KiB|MiB|B)\s+of 1.0 GiB", figure("vision", "memory"))
    # While an answer is being made it is seen there.
    page.one("#tab-ask").click()
    set_to(page, **LONG)
    page.add(PICTURE)
    page.send(QUESTION)
    page.wait(lambda: page.text(".answer"))
    page.one("#tab-pools").click()
    page.wait(lambda: figure("language", "tokens") != "0" or page.is_idle())
    assert int(figure("language", "tokens")) > 0
    # Nobody asks while nobody looks.
    page.one("#tab-ask").click()
    page.press(Keys.ESCAPE)
    page.wait(page.is_idle)
    asked = sum("/tessera/pools" in request["url"] for request in page.requests())
    settle(2.5)
    assert sum("/tessera/pools" in request["url"] for request in page.requests()) == asked


@pytest.mark.feature("Chromium", "keyboard")
def test_everything_is_reached_and_done_with_the_keyboard(page):
    page.tab_to("tab-ask")
    page.press(Keys.ARROW_RIGHT)
    assert page.focused() == "tab-pools" and page.one("#panel-pools").is_displayed()
    assert page.one("#tab-pools").get_attribute("aria-selected") == "true"
    page.press(Keys.ARROW_RIGHT)
    assert page.focused() == "tab-ask" and page.one("#panel-ask").is_displayed()
    page.press(Keys.END)
    page.press(Keys.HOME)
    for element in ("theme", "choose", "drop", "turns", "question", "settings-toggle"):
        page.tab_to(element)
    page.press(Keys.ENTER)
    assert page.focused() == "max-tokens"
    page.press("8")
    page.one("#files").send_keys(str(PICTURE))
    page.wait(lambda: page.all("#thumbs li") and page.focused() == "question")
    page.press("One line", Keys.SHIFT, Keys.ENTER, Keys.SHIFT, "and another")
    assert page.one("#question").get_attribute("value") == "One line\nand another"
    page.press(Keys.CONTROL, "a", Keys.CONTROL, QUESTION, Keys.ENTER)
    page.wait(lambda: page.all(".times") and page.is_idle())
    assert page.text(".answer") == ANSWER
    assert page.text("#status") == "The answer is complete." and page.focused() == "question"


@pytest.mark.feature("Chromium", "a token")
def test_a_token_is_asked_for_and_kept_in_memory_only(token_gateway):
    url, token = token_gateway
    page = Page(url, is_let_in=False)
    page.wait(lambda: page.one("#token-form").is_displayed())
    assert "TOKEN_MISSING" in page.text("#token-why")
    page.one("#token").send_keys("wrong", Keys.ENTER)
    page.wait(lambda: "TOKEN_UNKNOWN" in page.text("#token-why"))
    page.one("#token").send_keys(token, Keys.ENTER)
    page.wait(lambda: page.text("#model"))
    assert not page.one("#token-form").is_displayed()
    page.add(PICTURE)
    kept = page.script("return JSON.stringify(localStorage) + JSON.stringify(sessionStorage) + document.cookie")
    assert token not in kept
    page.driver.refresh()
    page.wait(lambda: page.one("#token-form").is_displayed())
    page.close()


@pytest.mark.feature("Chromium", "light and dark")
def test_colours_follow_the_system_and_the_button(page):
    assert page.ground() > 200
    page.set_dark(True)
    assert page.ground() < 60
    page.one("#theme").click()
    assert (page.text("#theme"), page.ground() > 200) == ("Light", True)
    page.one("#theme").click()
    page.set_dark(False)
    assert (page.text("#theme"), page.ground() < 60) == ("Dark", True)
    page.driver.refresh()
    page.wait(lambda: page.text("#theme") == "Dark")
    assert page.ground() < 60
    page.one("#theme").click()
    page.wait(lambda: page.text("#theme") == "Auto")


@pytest.mark.feature("Chromium", "narrow windows")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE, NARROW], ids=["desktop", "phone", "narrow"])
def test_nothing_is_wider_than_the_window(gateway, size, dark):
    page = Page(gateway.url, size, dark)
    name = f"{dict(zip((DESKTOP, PHONE, NARROW), ('desktop', 'phone', 'narrow')))[size]}-{'dark' if dark else 'light'}"
    assert page.overflow() == 0
    page.keep(f"empty-{name}")
    page.add(PHOTOS / "landscape.jpg", PICTURE)
    assert page.overflow() == 0
    page.keep(f"picture-{name}")
    page.ask(QUESTION)
    page.ask("What is shown?")
    set_to(page, seed=str(2**64 - 1))
    page.one("#settings-toggle").click()
    assert page.overflow() == 0
    page.keep(f"ask-{name}")
    page.one("#tab-pools").click()
    page.wait(lambda: len(page.all(".worker .curve")) == 2)
    settle(1.2)
    assert page.overflow() == 0
    page.keep(f"pools-{name}")
    assert (page.complaints(), page.hosts()) == ([], {gateway.address})
    page.close()


@pytest.mark.feature("Chromium", "text as text")
def test_what_is_written_is_shown_and_never_run(page):
    text = "<img src=x onerror=\"document.title='run'\"><b>Describe</b>"
    page.ask(text)
    assert page.text(".asked p") == text and page.all(".turns img, .turns b:not(.legend b)") == []
    assert page.driver.title == "Tessera"
