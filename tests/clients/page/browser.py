"""A page in a real Chromium: pictures are dropped on it as a file manager drops them, and everything is pressed and typed."""

import base64
import json
import os
import pathlib
import re
import time
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

# How long anything of the page may take.
PATIENCE = 30
# What Chromium itself says of an answer that is an error, which the page shows to people.
FAILED_LOAD = "Failed to load resource"


def screenshots() -> pathlib.Path:
    """Where screenshots are kept."""
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    folder = pathlib.Path(os.environ.get("TESSERA_SCREENSHOTS", pathlib.Path(target) / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Page:
    """The gateway's page, in a window of this size."""

    def __init__(self, url: str, size=(1280, 900), dark=False, is_let_in=True):
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.url = url
        self.driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
        self.logs = {"browser": [], "performance": []}
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.cdp("Emulation.setDeviceMetricsOverride", metrics)
        self.set_dark(dark)
        self.driver.get(url)
        if is_let_in:
            # It has asked what may be asked.
            self.wait(lambda: self.one("#model").get_attribute("textContent"))

    def cdp(self, command: str, parameters: dict):
        """Has the browser do what no page can."""
        return self.driver.execute_cdp_cmd(command, parameters)

    def set_dark(self, dark: bool):
        """What the system prefers."""
        value = "dark" if dark else "light"
        self.cdp("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": value}]})

    def all(self, selector: str):
        """The elements that are there now."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str):
        """The only element of its kind."""
        (found,) = self.all(selector)
        return found

    def text(self, selector: str) -> str:
        """What the only element of its kind shows, read at once: the page may show it anew the next moment."""
        return self.script("return document.querySelector(arguments[0]).innerText", selector)

    def wait(self, seen, patience=PATIENCE):
        """Waits until something is seen, and returns it."""
        return WebDriverWait(self.driver, patience, 0.02).until(lambda _: seen())

    def script(self, text: str, *arguments):
        """What a script says of the page."""
        return self.driver.execute_script(text, *arguments)

    def drop(self, *paths: pathlib.Path):
        """Drops files on the pictures, as the system does when somebody lets them go there."""
        self.script("document.querySelector('.pictures').scrollIntoView()")
        box = self.one(".pictures").rect
        top = self.script("return document.querySelector('.pictures').getBoundingClientRect().top")
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            place = {"x": box["x"] + 40, "y": max(top, 60) + 20}
            self.cdp("Input.dispatchDragEvent", {"type": kind, "data": data, **place})

    def add(self, *paths: pathlib.Path):
        """Drops files and waits until each is shown as it is cut."""
        before = len(self.all("#thumbs li"))
        self.drop(*paths)
        self.wait(lambda: len(self.all("#thumbs li")) == before + len(paths))

    def paste(self, path: pathlib.Path):
        """Pastes a picture, as the system's clipboard holds it."""
        content = base64.b64encode(path.read_bytes()).decode()
        self.script(
            """const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
               const clipboardData = new DataTransfer();
               clipboardData.items.add(new File([bytes], arguments[1], { type: "image/jpeg" }));
               document.activeElement.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));""",
            content,
            path.name,
        )

    def number(self, name: str) -> str:
        """A number of the picture that is shown."""
        return self.text(f'[data-number="{name}"]').replace("\u202f", "")

    def send(self, question: str):
        """Writes a question and sends it."""
        self.one("#question").clear()
        self.one("#question").send_keys(question, Keys.ENTER)

    def ask(self, question: str) -> str:
        """Asks, and waits for the whole answer."""
        before = len(self.all(".times"))
        self.send(question)
        self.wait(lambda: len(self.all(".times")) > before and self.is_idle())
        return self.all(".answer")[-1].text

    def is_idle(self) -> bool:
        """No answer is being made."""
        return self.text("#send") == "Send"

    def fact(self, name: str) -> str:
        """What is said of the last answer."""
        return self.all(f'[data-fact="{name}"]')[-1].text

    def part(self, name: str) -> float:
        """The milliseconds of a part of the last answer's time; 0 where it had none."""
        found = self.all(".times")[-1].find_elements(By.CSS_SELECTOR, f'[data-part="{name}"] b')
        if not found:
            return 0.0
        number, unit = found[0].text.split()
        return float(number) * (1000 if unit == "s" else 1)

    def press(self, *keys: str):
        """Presses keys, wherever the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def focused(self) -> str:
        """The id of what has the focus."""
        return self.driver.switch_to.active_element.get_attribute("id")

    def tab_to(self, element_id: str):
        """Goes on with Tab until an element has the focus, and sees that the focus is shown."""
        for _ in range(40):
            if self.focused() == element_id:
                is_shown = "return getComputedStyle(document.activeElement).outlineStyle !== 'none'"
                assert self.script(is_shown) or element_id == "question", f"the focus on {element_id} is not to be seen"
                return
            self.press(Keys.TAB)
        raise AssertionError(f"Tab does not come to {element_id}")

    def failure(self, place: str) -> dict:
        """What is said of something that failed."""
        card = self.wait(lambda: self.all(f"{place} .failure"))[-1]
        said = {name: card.find_elements(By.CLASS_NAME, name) for name in ("message", "advice", "reason")}
        return {name: found[0].text if found else "" for name, found in said.items()}

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        return self.script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def ground(self) -> int:
        """How bright the page's ground is, from 0 to 255."""
        colour = self.script("return getComputedStyle(document.body).backgroundColor")
        return max(int(number) for number in re.findall(r"\d+", colour)[:3])

    def keep(self, name: str):
        """Keeps a screenshot."""
        self.script("document.fonts.ready")
        assert self.driver.save_screenshot(str(screenshots() / f"{name}.png"))

    def log(self, kind: str) -> list:
        """All that the browser has logged so far."""
        self.logs[kind] += self.driver.get_log(kind)
        return self.logs[kind]

    def requests(self) -> list[dict]:
        """All requests so far, with their methods and URLs."""
        messages = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        return [told["params"]["request"] for told in messages if told["method"] == "Network.requestWillBeSent"]

    def hosts(self) -> set[str]:
        """Whom the page asked, besides itself about its own pictures."""
        urls = [urlsplit(request["url"]) for request in self.requests()]
        return {url.netloc for url in urls if url.scheme not in ("blob", "data")}

    def complaints(self, expected: str | None = None) -> list[str]:
        """What the console says went wrong, but for answers that are errors where some are `expected`."""
        wrong = [entry["message"] for entry in self.log("browser") if entry["level"] != "INFO"]
        return [line for line in wrong if expected is None or FAILED_LOAD not in line]

    def close(self):
        """Ends the browser."""
        self.driver.quit()


def settle(seconds: float):
    """Lets a moment pass in which something must not happen."""
    time.sleep(seconds)
