// The page as the server sees it now: fetched again and put in place without moving the reader.

const announcements = document.getElementById("announcements");

let running = null;
let wanted = false;

export function announce(text) {
  announcements.textContent = text;
}

export const main = () => document.getElementById("main");

/** Fetch this address again and return its `main` and title, or null when the answer is no page to put here. */
async function fetchMain() {
  const response = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store" });
  if (response.redirected || !response.ok) {
    // Signed out meanwhile, or gone: the browser shall show it as a page of its own.
    if (response.redirected || response.status === 403 || response.status === 404) location.reload();
    return null;
  }
  const next = new DOMParser().parseFromString(await response.text(), "text/html");
  return { main: next.getElementById("main"), title: next.title };
}

function restoreFocus(within, path) {
  if (!path) return;
  const target = (path.id && document.getElementById(path.id)) || within.querySelector("[data-focus]") || within;
  if (target === within || target.hasAttribute("tabindex")) target.focus({ preventScroll: true });
  else target.focus();
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
      const focused = now.contains(document.activeElement) ? { id: document.activeElement.id } : null;
      now.replaceWith(fetched.main);
      document.title = fetched.title;
      enliven();
      restoreFocus(fetched.main, focused);
      const standing = document.getElementById("standing");
      if (standing) announce(standing.textContent);
    } while (wanted);
  })().finally(() => {
    running = null;
  });
  return running;
}
