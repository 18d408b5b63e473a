// The page as the server sees it now: fetched again and put in place without moving the reader.

const announcements = document.getElementById("announcements");

let running = null;
let wanted = false;

export function announce(text) {
  announcements.textContent = text;
}

export const main = () => document.getElementById("main");

/** Where the page is found again: a page that answered a form is at the form's address only by chance. */
const address = () => main().dataset.address ?? location.href;

/** Fetch this address again and return its `main` and title, or null when the answer is no page to put here. */
async function fetchMain() {
  const response = await fetch(address(), { headers: { accept: "text/html" }, cache: "no-store" });
  if (response.redirected || !response.ok) {
    // Signed out meanwhile, or gone: the browser shall show it as a page of its own.
    if (response.redirected || response.status === 403 || response.status === 404) location.assign(address());
    return null;
  }
  const next = new DOMParser().parseFromString(await response.text(), "text/html");
  return { main: next.getElementById("main"), title: next.title };
}

/** Return a selector that finds in the new content what has the focus in the old; null when nothing there has it. */
function focusedIn(content) {
  const focused = document.activeElement;
  if (!focused || focused === content || !content.contains(focused)) return null;
  if (focused.id) return `#${CSS.escape(focused.id)}`;
  if (focused.matches("a[href]")) return `a[href="${CSS.escape(focused.getAttribute("href"))}"]`;
  const form = focused.form?.getAttribute("action");
  return form ? `form[action="${CSS.escape(form)}"] ${focused.localName}` : "[data-focus]";
}

/** Give the focus back; where what had it is gone, to the heading that says what happened. */
function restoreFocus(content, selector) {
  const target = content.querySelector(selector) ?? content.querySelector("[data-focus]") ?? content;
  target.focus({ preventScroll: true });
}

/** Keep what was typed and not sent yet. */
function carryTyped(old, next) {
  for (const field of old.querySelectorAll("input[id], textarea[id]")) {
    const same = next.querySelector(`#${CSS.escape(field.id)}`);
    if (same && field.value !== field.defaultValue) same.value = field.value;
  }
}

/** Replace the content with the present one; nothing happens when `isSame(old, new)` says that it shows the same. */
export async function refresh(enliven, isSame = () => false) {
  if (running) {
    wanted = true;
    return running;
  }
  running = (async () => {
    do {
      wanted = false;
      let fetched = null;
      try {
        fetched = await fetchMain();
      } catch {
        return; // the network is away; the live connection notices and asks again
      }
      if (!fetched?.main) return;
      const now = main();
      if (isSame(now, fetched.main)) continue;
      const focused = focusedIn(now);
      carryTyped(now, fetched.main);
      now.replaceWith(fetched.main);
      document.title = fetched.title;
      enliven();
      if (focused) restoreFocus(fetched.main, focused);
      const standing = document.getElementById("standing");
      if (standing) announce(standing.textContent);
    } while (wanted);
  })().finally(() => {
    running = null;
  });
  return running;
}
