// Follows the marketplace: one stream of small messages, from the moment the page was made.

import { announce, main, refresh } from "./page.js";

const OFFLINE_AFTER_MS = 4000;
const ASK_AGAIN_MS = 2000;
const WORDS = { available: "Admit one", reserved: "Being bought", sold: "Sold" };

let stream = null;
let lastId = document.body.dataset.liveSince;
let offlineTimer = 0;
let retryMs = 1000;
const fresh = new Set();

export function follow(enliven) {
  const update = () => main().dataset.live && refresh(enliven, showsTheSame);

  function connect() {
    if (stream || document.hidden || !main().dataset.live) return;
    stream = new EventSource(`/live?since=${encodeURIComponent(lastId)}`);
    const on = (name, act) =>
      stream.addEventListener(name, (message) => {
        if (message.lastEventId) lastId = message.lastEventId;
        act(message.data ? JSON.parse(message.data) : {});
      });
    on("ticket", (ticket) => ticketChanged(ticket, update));
    on("order", (order) => orderChanged(order, update));
    on("reset", update);
    stream.addEventListener("open", () => {
      retryMs = 1000;
      showOffline(false);
    });
    stream.addEventListener("error", () => {
      showOffline(true);
      if (stream?.readyState !== EventSource.CLOSED) return; // it reconnects by itself, with the last id
      disconnect();
      setTimeout(connect, retryMs + Math.random() * 500);
      retryMs = Math.min(retryMs * 2, 15000);
    });
  }

  function disconnect() {
    stream?.close();
    stream = null;
  }

  // A hidden page holds no connection: browsers allow six per site, and nobody is looking.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) disconnect();
    else {
      connect();
      if (main().dataset.live === "order") update(); // its clock may have slept with the machine
    }
  });
  window.addEventListener("pagehide", disconnect);
  window.addEventListener("pageshow", (shown) => {
    if (!shown.persisted) return;
    connect();
    update();
  });
  document.addEventListener("admitone:time-is-up", update);

  // Where an answer is awaited, ask now and then as well: the stream is a convenience, not the truth.
  setInterval(() => {
    if (!document.hidden && ["checking", "confirming"].includes(main().dataset.state)) update();
  }, ASK_AGAIN_MS);

  connect();
}

function showOffline(is) {
  const notice = document.getElementById("offline");
  clearTimeout(offlineTimer);
  if (!is) notice.hidden = true;
  else offlineTimer = setTimeout(() => { notice.hidden = false; }, OFFLINE_AFTER_MS);
}

/** Tell whether a fetched page shows what this one shows, so that a half-filled form need not be replaced. */
function showsTheSame(now, next) {
  const kind = now.dataset.live;
  if (kind === "edit") {
    takeLock(now, next);
    return true;
  }
  if (kind === "order" && now.dataset.state === next.dataset.state && now.dataset.version === next.dataset.version) {
    const clock = next.querySelector("[data-countdown]");
    if (clock && clock.dataset.leftMs > 0) {
      document.dispatchEvent(new CustomEvent("admitone:time-left", { detail: Number(clock.dataset.leftMs) }));
      return true;
    }
    return next.dataset.state !== "hold";
  }
  return kind === "ticket" && now.dataset.version === next.dataset.version;
}

/** The edit form keeps what was typed; only whether it may be saved changes. */
function takeLock(now, next) {
  const note = next.querySelector("#locked");
  now.querySelector("#locked").replaceWith(note);
  now.querySelector("#fields").disabled = next.querySelector("#fields").disabled;
  const [saved, edition] = [next.querySelector("#fields"), next.querySelector("[name=etag]")];
  const isSameTicket = [...saved.querySelectorAll("input[id], textarea")].every(
    (field) => now.querySelector(`#${field.id}`).defaultValue === field.defaultValue,
  );
  // A lock or its release is a new version of the same ticket; a change from elsewhere must still be refused as stale.
  if (isSameTicket) now.querySelector("[name=etag]").value = edition.value;
  now.dataset.version = next.dataset.version;
  if (!note.hidden) announce(note.querySelector("h2").textContent);
}

function ticketChanged(ticket, update) {
  const page = main();
  switch (page.dataset.live) {
    case "list":
      return cardChanged(page, ticket);
    case "ticket":
    case "edit":
      if (page.dataset.ticket === ticket.id && ticket.version > Number(page.dataset.version)) update();
      return;
    case "order":
      // An order that ended offers its ticket again while that is free.
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

function cardChanged(page, ticket) {
  const card = page.querySelector(`.ticket[data-ticket="${ticket.id}"]`);
  if (!card) {
    if ("followsNew" in page.dataset && ticket.state === "available" && ticket.version === 0) {
      fresh.add(ticket.id);
      showNews(page);
    }
    return;
  }
  if (ticket.version <= Number(card.dataset.version)) return;
  card.dataset.version = ticket.version;
  card.dataset.state = ticket.state;
  card.querySelector(".ticket-word").textContent = WORDS[ticket.state];
  card.querySelector(".ticket-title a").textContent = ticket.title;
  const price = card.querySelector(".ticket-price");
  price.textContent = ticket.price;
  price.classList.toggle("long", ticket.price.length > 9);
}

function showNews(page) {
  const news = page.querySelector("#news");
  const link = document.createElement("a");
  link.href = location.href;
  link.textContent = fresh.size === 1 ? "1 new ticket: show it" : `${fresh.size} new tickets: show them`;
  news.replaceChildren(link);
}
