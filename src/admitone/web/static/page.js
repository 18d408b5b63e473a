// Fetches the page again and replaces its content, keeping the reader's place, focus and typed text.

const RETRY_MS = 1000;
const RETRY_MS_MAX = 15000;

const announcements = document.getElementById("announcements");

let isRefreshing = false;
let isRefreshWanted = false;
let retryTimer = 0;
let retryMs = RETRY_MS;

/** Have a screen reader say a text. */
export function announce(text) {
  announcements.textContent = text;
}

export const main = () => document.getElementById("main");

/** The page's URL; the response to a posted form names it, since `location` is then the form's action. */
const address = () => main().dataset.address ?? location.href;

/** Fetch the page again; return its `main` and title, or null if the content must stay or the browser navigates. */
async function fetchPage() {
  const response = await fetch(address(), { headers: { accept: "text/html" }, cache: "no-store" });
  // The session ended, but what is typed must not be lost: saving the form leads to signing in and keeps it.
  if (response.redirected && main().dataset.live === "edit") return null;
  if (response.redirected || response.status === 403 || response.status === 404) {
    // The session ended or the page is gone: the browser shows the sign-in page or the error.
    location.assign(address());
    return null;
  }
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const content = page.getElementById("main");
  if (!response.ok || !content) throw new Error(`status ${response.status}`);
  return { main: content, title: page.title };
}

/** Return a selector that finds the focused element of the old content in the new one; null if the focus is elsewhere. */
function focusedIn(content) {
  const focused = document.activeElement;
  if (!focused || focused === content || !content.contains(focused)) return null;
  if (focused.id) return `#${CSS.escape(focused.id)}`;
  if (focused.matches("a[href]")) return `a[href="${CSS.escape(focused.getAttribute("href"))}"]`;
  const form = focused.form?.getAttribute("action");
  return form ? `form[action="${CSS.escape(form)}"] ${focused.localName}` : "[data-focus]";
}

/** Restore the focus; if the focused element is gone, move the focus to the heading that says what happened. */
function restoreFocus(content, selector) {
  const target = content.querySelector(selector) ?? content.querySelector("[data-focus]") ?? content;
  target.focus({ preventScroll: true });
}

/** Keep text that was typed and not submitted. */
function keepTypedText(old, next) {
  for (const field of old.querySelectorAll("input[id], textarea[id]")) {
    const same = next.querySelector(`#${CSS.escape(field.id)}`);
    if (same && field.value !== field.defaultValue) same.value = field.value;
  }
}

function replaceContent(page, enhance) {
  const old = main();
  const focused = focusedIn(old);
  keepTypedText(old, page.main);
  old.replaceWith(page.main);
  document.title = page.title;
  enhance();
  if (focused) restoreFocus(page.main, focused);
  const status = document.getElementById("status");
  if (status) announce(status.textContent);
}

/**
 * Replace the content by the page as it is now, unless `isUpToDate(old, new)`.
 *
 * If the page cannot be fetched, it is fetched again later: the message that announced the change does not come twice.
 */
export async function refresh(enhance, isUpToDate) {
  isRefreshWanted = true;
  if (isRefreshing) return;
  isRefreshing = true;
  clearTimeout(retryTimer);
  try {
    while (isRefreshWanted) {
      isRefreshWanted = false;
      let page;
      try {
        page = await fetchPage();
      } catch {
        retryTimer = setTimeout(() => refresh(enhance, isUpToDate), retryMs);
        retryMs = Math.min(retryMs * 2, RETRY_MS_MAX);
        return;
      }
      retryMs = RETRY_MS;
      if (!page) return;
      if (!isUpToDate(main(), page.main)) replaceContent(page, enhance);
    }
  } finally {
    isRefreshing = false;
  }
}
