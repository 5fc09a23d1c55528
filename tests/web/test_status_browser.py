"""The status page in a real browser: desktop and phone widths, light and dark colours."""

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
SECTIONS = [
    "Database",
    "Connection pool",
    "Queries",
    "WhatsApp sessions",
    "Sync with YClients",
    "Server connections",
    "Slow queries",
]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt install chromium")

# Texts whose contrast with the background is below the WCAG minimum, which is lower for large text.
FIND_LOW_CONTRAST = """() => {
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
    """Return a PostgreSQL server that the tests freeze."""
    server = Server()
    yield server
    server.delete()


@pytest.fixture(scope="module")
def address(server: Server) -> Iterator[str]:
    """Return the status page's URL of a service with a healthy salon; the page reloads each second."""
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
    # Chromium has no sandbox for root, and the tests may run as root.
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    yield browser
    browser.close()


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """Return a function that opens the page with the token: `visit(width=390, color_scheme="dark")`.

    Console errors, script errors and requests to other URLs fail the test at its end.
    """
    failures: list[str] = []

    def record_message(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            failures.append(message.text)

    def record_request(url: str) -> None:
        if url != address:
            failures.append(url)

    def open_page(width: int = 1280, **options: Any) -> Page:
        options.setdefault("http_credentials", {"username": "operator", "password": TOKEN})
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        page = context.new_page()
        page.on("console", record_message)
        page.on("request", lambda request: record_request(request.url))
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(address)
        return page

    yield open_page
    for context in browser.contexts:
        context.close()
    assert [text for text in failures if not text.startswith("data:")] == []  # the icon is a data: URL


def without_refresh(page: Page, address: str) -> Page:
    """Return a new page with the current content, which does not reload while a test inspects it."""
    copy = page.context.new_page()
    answer = httpx.get(
        address, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False, timeout=WAIT_TIMEOUT_SECONDS
    )
    copy.set_content(answer.text.replace('http-equiv="refresh"', ""))
    return copy


def headings(page: Page) -> list[str]:
    return [heading.inner_text() for heading in page.get_by_role("heading", level=2).all()]


@pytest.mark.parametrize(
    ("width", "color_scheme"), [(390, "dark"), pytest.param(1280, "light", marks=pytest.mark.full)]
)
def test_the_page_fits_the_window_and_has_sufficient_contrast(
    visit: Callable[..., Page], address: str, width: int, color_scheme: str
) -> None:
    page = without_refresh(visit(width, color_scheme=color_scheme), address)
    expect(page.get_by_role("heading", level=1)).to_contain_text("All is well")
    assert [heading for heading in headings(page) if heading in SECTIONS] == SECTIONS
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(FIND_LOW_CONTRAST) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(243, 244, 246)", "dark": "rgb(14, 17, 20)"}[color_scheme]
    charts = page.get_by_role("img").all()
    assert charts
    for chart in charts:
        box = chart.bounding_box()
        assert chart.get_attribute("aria-label")
        assert box is not None
        assert box["width"] > 250
        assert box["height"] > 5


def test_the_page_follows_changes_of_the_state_without_javascript(
    visit: Callable[..., Page], server: Server, address: str
) -> None:
    page = visit(390, java_script_enabled=False)
    title = page.get_by_role("heading", level=1)
    expect(title).to_contain_text("All is well")
    expect(page.get_by_text("1 of 1 salons healthy")).to_be_visible()
    execute(server.url, "UPDATE whatsapp_keys SET updated_at = now() - interval '60 hours'")
    execute(server.url, "UPDATE whatsapp_auth SET updated_at = now() - interval '60 hours'")
    expect(title).to_contain_text("Needs attention")
    expect(page.get_by_label("Problems")).to_contain_text(f"WhatsApp of company {COMPANY}: critical.")
    assert without_refresh(page, address).evaluate(FIND_LOW_CONTRAST) == []
    server.freeze()
    try:
        expect(title).to_contain_text("Not working")
        assert without_refresh(page, address).evaluate(FIND_LOW_CONTRAST) == []
        expect(page.get_by_label("Problems")).to_contain_text("The database does not answer.")
    finally:
        server.thaw()
    execute(server.url, "UPDATE whatsapp_keys SET updated_at = now()")
    execute(server.url, "UPDATE whatsapp_auth SET updated_at = now()")
    expect(title).to_contain_text("All is well")
