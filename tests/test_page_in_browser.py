"""The demo's page in a browser of a phone's size: what is seen first, the slider by key and by finger, the dark."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from demo_page import DemoPage
from devtools import Page, chromium_page

from apps.profiling.browser.chromium import find_chromium
from edge_sr.errors import MissingToolError

PHONE = (412, 915)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DemoPage:
    return DemoPage(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    try:
        find_chromium()
    except MissingToolError as error:
        pytest.skip(f"Chromium is missing: {error}")
    with chromium_page() as page:
        yield page


@pytest.fixture
def phone(browser: Page, made: DemoPage) -> Page:
    browser.emulate(*PHONE, dark=False)
    browser.open(made.page.as_uri())
    browser.wait_for("document.readyState === 'complete' && document.querySelector('.slider') !== null")
    return browser


def test_a_phone_shows_psnr_drop_and_latency_first_and_never_scrolls_sideways(phone: Page) -> None:
    assert phone.ask("document.documentElement.scrollWidth") <= PHONE[0]
    boxes = phone.ask(
        "[...document.querySelectorAll('.summary tbody tr')].flatMap(row => [...row.cells].slice(0, 4))"
        ".map(cell => cell.getBoundingClientRect()).map(box => [box.left, box.right, box.bottom])"
    )
    assert len(boxes) == 7 * 4
    assert all(left >= 0 and right <= PHONE[0] and bottom <= PHONE[1] for left, right, bottom in boxes)
    sizes = phone.ask(
        "[...document.querySelectorAll('.bars span')].filter(one => one.innerText.trim())"
        ".map(one => parseFloat(getComputedStyle(one).fontSize))"
    )
    assert min(sizes) >= 10


def test_line_of_the_slider_follows_the_keyboard(phone: Page) -> None:
    place = "getComputedStyle(document.querySelector('.slider')).getPropertyValue('--at')"
    assert phone.ask(place) == "50%"
    phone.ask("document.querySelector('.slider input').focus()")
    for kind in ("rawKeyDown", "keyUp"):
        phone.call("Input.dispatchKeyEvent", type=kind, key="Home", code="Home", windowsVirtualKeyCode=36)
    assert phone.wait_for(f"{place} === '0%'")


@pytest.mark.parametrize("share", [0.05, 0.25, 0.9])
def test_line_of_the_slider_comes_to_the_finger(phone: Page, share: float) -> None:
    phone.ask("document.querySelector('.slider').scrollIntoView({block: 'center', behavior: 'instant'})")
    box = phone.ask("document.querySelector('.slider').getBoundingClientRect().toJSON()")
    x, y = box["left"] + share * box["width"], box["top"] + box["height"] / 3
    for kind in ("mousePressed", "mouseReleased"):
        phone.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    line = phone.ask("document.querySelector('.slider hr').getBoundingClientRect().left")
    # A step of the slider is half a percent; the line is three pixels wide.
    assert line + 1.5 == pytest.approx(x, abs=0.005 * box["width"] + 1)


def test_page_is_dark_where_the_reader_wants_it(phone: Page) -> None:
    ask = "[document.body, document.querySelector('td.main')].map(one => getComputedStyle(one))"
    sums = f"{ask}.map((style, index) => (index ? style.color : style.backgroundColor).match(/\\d+/g).slice(0, 3))"
    brightness = f"{sums}.map(rgb => rgb.reduce((sum, value) => sum + Number(value), 0) / 3)"
    paper, ink = phone.ask(brightness)
    assert paper > 200 > 80 > ink
    phone.emulate(*PHONE, dark=True)
    paper, ink = phone.ask(brightness)
    assert ink > 200 > 80 > paper
