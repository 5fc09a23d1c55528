"""The status page in a real browser: a walk through it, at a desk and on a phone, by day and by night."""

import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, expect, sync_playwright
from werkzeug.serving import make_server

from app import Frontdesk, Settings, create_app
from app.migrations import runner
from app.web.status_page import page
from tests.processes import WAIT_TIMEOUT_SECONDS
from tests.servers import Server, execute
from tests.web.test_status import COMPANY

CHROMIUM = shutil.which("chromium")
TOKEN = "s3cret"
expect.set_options(timeout=WAIT_TIMEOUT_SECONDS * 1_000)
PARTS = [
    "Database",
    "Connection pool",
    "Queries",
    "WhatsApp sessions",
    "Sync with YClients",
    "Server's connections",
    "Slow queries",
]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt install chromium")

# The contrast of every text with what lies behind it, as WCAG counts it; large text may have less.
FAINT = """() => {
    const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
    const behind = element => {
        for (let each = element; each; each = each.parentElement) {
            const colour = numbers(getComputedStyle(each).backgroundColor);
            if (colour.length < 4 || colour[3]) return colour;
        }
        return [255, 255, 255];
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
        const style = getComputedStyle(element);
        if (!text || !element.getClientRects().length) continue;
        const shown = element instanceof SVGElement ? style.fill : style.color;
        const [dark, bright] = [light(numbers(shown)), light(behind(element))].sort((a, b) => a - b);
        const ratio = (bright + 0.05) / (dark + 0.05);
        if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) found.push(`${text}: ${ratio.toFixed(2)}`);
    }
    return found;
}"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that can be frozen."""
    server = Server()
    yield server
    server.delete()


@pytest.fixture(scope="module")
def address(server: Server) -> Iterator[str]:
    """The service on that server, with a salon whose WhatsApp is well; its page reloads each second."""
    runner.upgrade(server.url)
    settings = Settings(database_url=server.url, health_token=TOKEN, postgres_connection_timeout=1000)
    with pytest.MonkeyPatch.context() as patch, Frontdesk(settings) as desk:
        patch.setattr(page, "REFRESH_SECONDS", 1)
        salon = desk.company(COMPANY)
        salon.upsert_company({"title": "Salon"}).unwrap()
        salon.whatsapp.set_creds({"me": 1}, None).unwrap()
        salon.whatsapp.set_keys({"session": {f"{n}.0": {} for n in range(20)}}).unwrap()
        http = make_server("127.0.0.1", 0, create_app(desk), threaded=True)
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/status"
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    # Tests may run as root, for whom Chromium has no sandbox.
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    yield browser
    browser.close()


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """Opens the page as an operator: `visit(width=390, color_scheme="dark")`; nothing may go wrong in it."""
    wrong: list[str] = []

    def complain(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            wrong.append(message.text)

    def open_page(width: int = 1280, **options: Any) -> Page:
        options.setdefault("http_credentials", {"username": "operator", "password": TOKEN})
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        page = context.new_page()
        page.on("console", complain)
        page.on("request", lambda request: None if request.url == address else wrong.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(address)
        return page

    yield open_page
    for context in browser.contexts:
        context.close()
    assert [each for each in wrong if not each.startswith("data:")] == []  # the icon, in the page itself


def still(page: Page, address: str) -> Page:
    """What the page shows now, in a page beside it that does not reload while it is looked at."""
    beside = page.context.new_page()
    answer = httpx.get(
        address, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False, timeout=WAIT_TIMEOUT_SECONDS
    )
    beside.set_content(answer.text.replace('http-equiv="refresh"', ""))
    return beside


def headings(page: Page) -> list[str]:
    return [heading.inner_text() for heading in page.get_by_role("heading", level=2).all()]


@pytest.mark.parametrize(("width", "color_scheme"), [(390, "dark"), (1280, "light")])
def test_everything_fits_and_can_be_read(
    visit: Callable[..., Page], address: str, width: int, color_scheme: str
) -> None:
    page = still(visit(width, color_scheme=color_scheme), address)
    expect(page.get_by_role("heading", level=1)).to_contain_text("All is well")
    assert [each for each in headings(page) if each in PARTS] == PARTS
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(FAINT) == []
    backdrop = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert backdrop == {"light": "rgb(243, 244, 246)", "dark": "rgb(14, 17, 20)"}[color_scheme]
    drawings = page.get_by_role("img").all()
    assert drawings
    for drawing in drawings:
        box = drawing.bounding_box()
        assert drawing.get_attribute("aria-label")
        assert box is not None
        assert box["width"] > 250
        assert box["height"] > 5


def test_it_turns_by_itself_from_well_to_sick_and_back_without_javascript(
    visit: Callable[..., Page], server: Server, address: str
) -> None:
    page = visit(390, java_script_enabled=False)
    title = page.get_by_role("heading", level=1)
    expect(title).to_contain_text("All is well")
    expect(page.get_by_text("1 of 1 salons well")).to_be_visible()
    execute(server.url, "UPDATE whatsapp_keys SET updated_at = now() - interval '60 hours'")
    execute(server.url, "UPDATE whatsapp_auth SET updated_at = now() - interval '60 hours'")
    expect(title).to_contain_text("Needs attention")
    expect(page.get_by_label("What is wrong")).to_contain_text(f"WhatsApp of company {COMPANY}: critical.")
    assert still(page, address).evaluate(FAINT) == []
    server.freeze()
    try:
        expect(title).to_contain_text("Not working")
        assert still(page, address).evaluate(FAINT) == []
        expect(page.get_by_label("What is wrong")).to_contain_text("The database does not answer.")
    finally:
        server.thaw()
    execute(server.url, "UPDATE whatsapp_keys SET updated_at = now()")
    execute(server.url, "UPDATE whatsapp_auth SET updated_at = now()")
    expect(title).to_contain_text("All is well")
