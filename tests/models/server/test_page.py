"""The pages in a real browser: digits that are drawn, pictures that are chosen, a token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

import crnn_search
from crnn_search.models.model import Model
from crnn_search.models.server.app import InProcess, build_app
from crnn_search.models.server.limits import Limits
from tests.browser import chromium, needs_axe, needs_chromium, serious_faults
from tests.models.conftest import FolderOf
from tests.models.networks import COLOUR
from tests.models.server.drawing import draw, wait_for
from tests.models.server.fakes import brightness
from tests.models.server.running import running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),
    needs_chromium,
    needs_axe,
]

PICTURES = sorted((Path(__file__).parents[3] / "examples" / "digits").glob("*.png"))
TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def model(folder_of: FolderOf) -> Model:
    return crnn_search.load_model(folder_of("embedding") / "model.onnx")


@pytest.fixture(scope="module")
def digits_url(model: Model) -> Iterator[str]:
    with running(build_app(model, InProcess(model, Limits(), 1))) as url:
        yield url


@pytest.fixture(params=[(1400, False), (390, True)], ids=["desktop", "phone in the dark"])
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    width, dark = request.param
    context = browser.new_context(
        viewport={"width": width, "height": 844}, color_scheme="dark" if dark else "light"
    )
    found, errors = context.new_page(), list[str]()
    found.on("console", lambda message: _note(message, errors))
    found.on("pageerror", lambda error: errors.append(str(error)))
    yield found
    context.close()
    assert not errors


def _note(message: Any, errors: list[str]) -> None:
    """Errors, but for the browser's own line for an answer with 4xx."""
    if message.type == "error" and "the server responded with a status of 4" not in message.text:
        errors.append(message.text)


def values(page: Page) -> list[float]:
    """The predictions after each image, as they are shown."""
    return [float(text.split()[1]) for text in page.locator("#images .after").all_inner_texts()]


def fits(page: Page) -> bool:
    width = page.viewport_size["width"] if page.viewport_size else 0
    return int(page.evaluate("document.documentElement.scrollWidth")) <= width


def test_digits_are_drawn_one_after_another(page: Page, digits_url: str, model: Model) -> None:
    page.goto(digits_url)
    wait_for(page, 0)
    assert page.locator("#next").is_disabled()
    for number, digit in enumerate((7, 5), start=1):
        draw(page, digit)
        wait_for(page, number)
        page.click("#next")
        wait_for(page, number)
    draw(page, 3)
    wait_for(page, 3)
    sums = values(page)
    assert len(sums) == 3
    assert page.inner_text("#value") == str(round(sums[-1]))
    seen = page.locator("#images img").evaluate_all("all => all.map((image) => image.src)")
    assert all(source.startswith("data:image/png;base64,") for source in seen)
    assert len(set(seen)) == 3
    sizes = page.locator("#images img").evaluate_all("all => all.map((one) => one.naturalWidth)")
    assert sizes == [28, 28, 28]
    assert not page.locator("#warnings li").count()
    assert fits(page)
    assert not serious_faults(page)

    page.get_by_role("button", name="Remove image 1").click()
    wait_for(page, 2)
    assert values(page) != sums[1:], "the sum of the others"
    page.click("#undo")  # the only stroke of the 3
    wait_for(page, 1)
    page.click("#clear")
    wait_for(page, 0)
    assert page.inner_text("#value") == "–"
    assert page.locator("#undo").is_disabled()


def test_a_drawing_that_is_cut_off_is_warned_of(page: Page, digits_url: str) -> None:
    page.goto(digits_url)
    wait_for(page, 0)
    box = page.locator("#canvas").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 2, steps=5)
    page.mouse.up()
    wait_for(page, 1)
    assert page.locator("#warnings li").first.inner_text().startswith("Image 1: ")
    assert not serious_faults(page)


def test_pictures_are_added_to_drawings(page: Page, digits_url: str) -> None:
    page.goto(digits_url)
    wait_for(page, 0)
    page.set_input_files("#files", PICTURES[:3])
    wait_for(page, 3)
    draw(page, 1)
    wait_for(page, 4)
    page.set_input_files("#files", [Path(__file__)])
    page.wait_for_selector("#problem:not([hidden])")
    assert "image 3 (test_page.py) cannot be decoded" in page.inner_text("#problem")
    assert not serious_faults(page)


def test_another_model_takes_pictures_and_the_page_asks_for_the_token(page: Page) -> None:
    model = brightness(COLOUR)
    with running(build_app(model, InProcess(model, Limits(), 1), token=TOKEN)) as url:
        page.goto(url)
        page.wait_for_selector("#token-form:not([hidden])")
        assert not page.locator("#problem").is_visible()
        assert not serious_faults(page)
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#problem:not([hidden])")
        assert page.inner_text("#problem") == "That is not the server's token."
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        wait_for(page, 0)
        assert not page.locator("#pad").is_visible()
        assert page.inner_text("h1") == "Predict growth"
        page.set_input_files("#files", PICTURES[:8])
        wait_for(page, 8)
        assert "more than any of training" in page.inner_text("#warnings")
        assert page.inner_text("#value").endswith(" µm")
        assert fits(page)
        page.reload()
        wait_for(page, 0)


def test_the_openapi_page(page: Page, digits_url: str) -> None:
    page.goto(f"{digits_url}docs")
    page.wait_for_selector("html[data-shown]", state="attached")
    titles = page.locator("h3 code").all_inner_texts()
    assert titles[:2] == ["POST /predict", "POST /predict/files"]
    assert "running" in page.inner_text("#requests")
    assert fits(page)
    assert not serious_faults(page)
