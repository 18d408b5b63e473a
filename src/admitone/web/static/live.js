// Live updates: one stream of small messages (server-sent events), from the moment the page was made.

import { announce, main, refresh } from "./page.js";

const OFFLINE_AFTER_MS = 4000;
const POLL_MS = 2000;
const RECONNECT_MS = 1000;
const RECONNECT_MS_MAX = 15000;
const STUB_WORDS = { available: "Admit one", reserved: "Being bought", sold: "Sold" };

let stream = null;
let lastId = document.body.dataset.liveSince;
let offlineTimer = 0;
let reconnectMs = RECONNECT_MS;
const newTickets = new Set();

export function startLiveUpdates(enhance) {
  const update = () => main().dataset.live && refresh(enhance, isUpToDate);

  function connect() {
    if (stream || document.hidden || !main().dataset.live) return;
    stream = new EventSource(`/live?since=${encodeURIComponent(lastId)}`);
    const on = (name, react) =>
      stream.addEventListener(name, (message) => {
        if (message.lastEventId) lastId = message.lastEventId;
        react(message.data ? JSON.parse(message.data) : {});
      });
    on("ticket", (ticket) => ticketChanged(ticket, update));
    on("order", (order) => orderChanged(order, update));
    on("reset", update);
    stream.addEventListener("open", () => {
      reconnectMs = RECONNECT_MS;
      showOffline(false);
    });
    stream.addEventListener("error", () => {
      showOffline(true);
      if (stream?.readyState !== EventSource.CLOSED) return; // the browser reconnects by itself, with the last id
      disconnect();
      setTimeout(connect, reconnectMs + Math.random() * 500);
      reconnectMs = Math.min(reconnectMs * 2, RECONNECT_MS_MAX);
    });
  }

  function disconnect() {
    stream?.close();
    stream = null;
  }

  // A hidden page holds no connection, since browsers allow six per site.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      disconnect();
      showOffline(false);
    } else {
      connect();
      if (main().dataset.live === "order") update(); // its countdown may have stopped while the machine slept
    }
  });
  window.addEventListener("pagehide", disconnect);
  window.addEventListener("pageshow", (shown) => {
    if (!shown.persisted) return;
    connect();
    update();
  });
  document.addEventListener("admitone:time-is-up", update);
  // A stream does not notice a network that is gone, as after unplugging it; the browser does.
  window.addEventListener("offline", () => {
    if (stream) showOffline(true);
  });
  window.addEventListener("online", () => {
    disconnect();
    connect();
  });

  // A page that waits for an outcome polls as well: it must not depend on the stream.
  setInterval(() => {
    if (!document.hidden && ["checking", "confirming"].includes(main().dataset.state)) update();
  }, POLL_MS);

  connect();
}

/** Show the notice if the connection stays lost. Every failed attempt to reconnect gets here: only the first counts. */
function showOffline(isOffline) {
  const notice = document.getElementById("offline");
  if (!isOffline) {
    clearTimeout(offlineTimer);
    offlineTimer = 0;
    notice.hidden = true;
  } else if (!offlineTimer) {
    offlineTimer = setTimeout(() => { notice.hidden = false; }, OFFLINE_AFTER_MS);
  }
}

/** Return whether the present content shows what the fetched one does, and need not be replaced. */
function isUpToDate(now, next) {
  const kind = now.dataset.live;
  if (kind === "edit") {
    updateLock(now, next);
    return true;
  }
  if (kind === "order" && now.dataset.state === next.dataset.state && now.dataset.version === next.dataset.version) {
    const countdown = next.querySelector("[data-countdown]");
    if (countdown && countdown.dataset.leftMs > 0) {
      document.dispatchEvent(new CustomEvent("admitone:time-left", { detail: Number(countdown.dataset.leftMs) }));
      return true;
    }
    return next.dataset.state !== "hold";
  }
  return kind === "ticket" && now.dataset.version === next.dataset.version;
}

/** The edit form keeps what was typed; only whether it can be saved changes. */
function updateLock(now, next) {
  const note = next.querySelector("#locked");
  now.querySelector("#locked").replaceWith(note);
  const [fields, etag] = [next.querySelector("#fields"), next.querySelector("[name=etag]")];
  now.querySelector("#fields").disabled = fields.disabled;
  const isSameTicket = [...fields.querySelectorAll("input[id], textarea")].every(
    (field) => now.querySelector(`#${field.id}`).defaultValue === field.defaultValue,
  );
  // A lock and its release only change the version; any other change must still be refused by the old ETag.
  if (isSameTicket) now.querySelector("[name=etag]").value = etag.value;
  now.dataset.version = next.dataset.version;
  if (!note.hidden) announce(note.querySelector("h2").textContent);
}

function ticketChanged(ticket, update) {
  const page = main();
  switch (page.dataset.live) {
    case "list":
      return updateCard(page, ticket);
    case "ticket":
    case "edit":
      if (page.dataset.ticket === ticket.id && ticket.version > Number(page.dataset.version)) update();
      return;
    case "order":
      // An order that ended offers its ticket again while it is available.
      if (page.dataset.ticket === ticket.id && page.dataset.state === "ended") update();
      return;
    case "listings":
      if (page.querySelector(`[data-ticket="${ticket.id}"]`)) update();
      return;
  }
}

function orderChanged(order, update) {
  const kind = main().dataset.live;
  if (kind === "orders" || kind === "ticket" || (kind === "order" && main().dataset.order === order.id)) update();
}

function updateCard(page, ticket) {
  const card = page.querySelector(`.ticket[data-ticket="${ticket.id}"]`);
  if (!card) {
    if ("followsNew" in page.dataset && ticket.state === "available" && ticket.version === 0) {
      newTickets.add(ticket.id);
      showNewTickets(page);
    }
    return;
  }
  if (ticket.version <= Number(card.dataset.version)) return;
  card.dataset.version = ticket.version;
  card.dataset.state = ticket.state;
  card.querySelector(".ticket-word").textContent = STUB_WORDS[ticket.state];
  card.querySelector(".ticket-title a").textContent = ticket.title;
  const price = card.querySelector(".ticket-price");
  price.textContent = ticket.price;
  price.classList.toggle("long", ticket.price.length > 9);
}

function showNewTickets(page) {
  const link = document.createElement("a");
  link.href = location.href;
  link.textContent = newTickets.size === 1 ? "1 new ticket: show it" : `${newTickets.size} new tickets: show them`;
  page.querySelector("#list-status").replaceChildren(link);
}
