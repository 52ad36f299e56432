// The status page: takes the events of the site and writes them down.
import { Sparkline, clock } from "./chart.js";
import { feeds, inWords, takeHistory } from "./hour.js";
import { Card, Figures, Table, WORDS, el, icon, write } from "./parts.js";
import { age, bytes, count, when, why } from "./words.js";

const SILENT_AFTER = 5_000;   // two events that did not come, and a busy network
const AGAIN_AFTER = 20_000;   // a stream that is silent for so long is opened anew
const RETRY_EVERY = 3_000;
const $ = (id) => document.getElementById(id);

// ---- the site ----

const cards = new Map();
const sparklines = new Map();
const siteFacts = new Figures("plain");
$("site-facts").replaceWith(siteFacts.node);
const services = new Table($("services"), [["Service"], ["State"], ["Receiver"], ["Connections", "number"],
  ["Last minute", "number"], ["Last hour", "number"], ["Messages per minute", "spark"]]);
const peers = new Table($("peers"), [["Peer"], ["State"], ["Endpoint"], ["Handshake", "number"], ["Received", "number"],
  ["Sent", "number"]]);
const orphans = new Table($("orphans"), [["Queue"], ["State"], ["Waiting", "number"], ["Parked", "number"],
  ["Oldest", "number"]]);

/** Lists what is wrong, each cause once with all that it stops, worst first. */
function faults(site) {
  const found = new Map();
  const queues = site.orphans ?? [];
  const kinds = { peer: site.peers, forward: site.forwards, service: site.services, queue: queues };
  for (const [kind, entries] of Object.entries(kinds)) {
    for (const entry of entries.filter((one) => one.status === "down" || one.status === "degraded")) {
      const cause = entry.cause ?? "no cause is known";
      const fault = found.get(cause) ?? { ...entry, cause, names: [] };
      fault.names.push([kind, entry.name]);
      found.set(cause, fault);
    }
  }
  const all = [...found.values()];
  for (const line of site.unready.filter((one) => !all.some(({ cause }) => one.endsWith(cause)))) {
    all.push({ status: "down", cause: line, names: [["site", site.site]] });
  }
  const of = (name, what, one) => {
    if (!one) return;
    const cause = `${what}: ${one.cause}`;
    all.push({ status: "degraded", cause, since: one.since ?? one.at, names: [["the", name]] });
  };
  of("configuration", "the last reload changed nothing", site.config.failed_reload);
  for (const one of site.certificates ?? []) {
    if (one.expired) of(one.of, "its certificate has expired", { cause: one.file, since: one.expires });
  }
  of("audit log", "it cannot be written", site.audit?.failed);
  if (site.audit?.atna?.failed) of("audit log", `it cannot be sent to ${site.audit.atna.server}`, site.audit.atna.failed);
  of("audit log", "it is not as it was written", site.audit?.contradicted);
  for (const { peer, fault } of site.audit?.peers ?? []) of(`audit log of ${peer}`, "it is not what it was", fault);
  return all.sort((a, b) => (a.status === b.status ? 0 : a.status === "down" ? -1 : 1));
}

function verdict(site, wrong) {
  const names = (status) => wrong.filter((fault) => fault.status === status).flatMap((fault) => fault.names);
  const told = (list) => {
    const rest = list.length - 3;
    const some = list.slice(0, 3).map(([kind, name]) => `${kind} ${name}`).join(", ");
    return rest > 0 ? `${some} and ${rest} more` : some;
  };
  const [down, degraded] = [names("down"), names("degraded")];
  if (down.length) return `Down: ${told(down)}`;
  if (degraded.length) return `Works, but needs a look: ${told(degraded)}`;
  return site.status === "ok" ? "Everything works" : "No fault; not everything is known yet";
}

/** Writes the causes; the list is made anew only where it is of other things: an age within a cause takes no focus. */
function showFaults(wrong, now) {
  const text = JSON.stringify(wrong.map((fault) => [fault.status, fault.names]));
  if (showFaults.shown !== text) {
    showFaults.shown = text;
    $("attention").hidden = wrong.length === 0;
    $("causes").replaceChildren(...wrong.map((fault) => {
      const what = el("span", { class: "what" }, el("span", {}, `${WORDS[fault.status]}: `));
      fault.names.forEach(([kind, name], at) => {
        if (at) what.append(" · ");
        what.append(kind === "forward" ? el("a", { href: `#forward-${name}` }, `forward ${name}`) : `${kind} ${name}`);
      });
      return el("li", { class: fault.status }, icon(fault.status), what, el("span", { class: "why" }));
    }));
  }
  wrong.forEach((fault, at) => write($("causes").children[at].lastChild, why(fault, now)));
}

/** Shows alarms where the site has them. */
function showAlarms(alarms, now) {
  $("alarms").hidden = !Array.isArray(alarms);
  if (!Array.isArray(alarms)) return;
  $("no-alarm").hidden = alarms.length > 0;
  const text = JSON.stringify(alarms);
  if (showAlarms.shown === text) return;
  showAlarms.shown = text;
  $("alarm-list").replaceChildren(...alarms.map((alarm) => {
    const what = `${alarm.of}: ${alarm.alarm.replaceAll("_", " ")}`;
    return el("li", { class: "degraded" }, icon("degraded"), el("span", { class: "what" }, what),
      el("span", { class: "why" }, why(alarm, now)));
  }));
}

function heading(id, entries) {
  $(id).hidden = entries.length === 0;
  const title = $(`${id}-title`);
  const number = title.querySelector(".count") ?? title.appendChild(el("span", { class: "count" }));
  write(number, String(entries.length));
}

function showForwards(forwards, now) {
  heading("forwards", forwards);
  const gone = new Set(cards.keys());
  forwards.forEach((forward, at) => {
    let card = cards.get(forward.name);
    if (!card) {
      card = new Card(forward.name);
      cards.set(forward.name, card);
      card.showHistory(feeds.get(`forward:${forward.name}`));
    }
    gone.delete(forward.name);
    if ($("cards").children[at] !== card.node) $("cards").insertBefore(card.node, $("cards").children[at] ?? null);
    card.show(forward, now);
  });
  gone.forEach((name) => { cards.get(name).node.remove(); cards.delete(name); });
}

function sparkline(name) {
  if (!sparklines.has(name)) sparklines.set(name, new Sparkline());
  const spark = sparklines.get(name);
  const feed = feeds.get(`service:${name}`);
  const said = inWords(feed);
  if (said && spark.feed !== feed) {
    const [now, hour] = [count(said.now), count(said.hour)];
    spark.show(feed, `Messages per minute over the last hour: ${now} in the last minute, ${hour} in all`);
  }
  return spark.node;
}

let latest = null;

function show(event) {
  const { now: time, site } = event;
  const now = new Date(time);
  latest = event;
  const wrong = faults(site);
  write($("site-name"), site.site);
  document.title = `${WORDS[site.status] ?? site.status} · ${site.site} · wardlink`;
  const text = verdict(site, wrong);
  if ($("verdict").textContent !== text) {
    $("verdict").className = `verdict ${site.status}`;
    $("verdict").replaceChildren(icon(site.status), el("span", {}, text));
  }
  siteFacts.show([
    ["Running since", when(site.started, now)],
    ["Configuration loaded", when(site.config.loaded, now)],
    ["Version", site.version],
  ]);
  showFaults(wrong, now);
  showAlarms(site.alarms, now);
  showForwards(site.forwards, now);
  showTables(site, now);
}

function showTables(site, now) {
  heading("services", site.services);
  services.show(site.services, now, (service) => {
    const said = inWords(feeds.get(`service:${service.name}`));
    const waiting = service.waiting ? ` + ${count(service.waiting)} waiting` : "";
    const [minute, hour] = said ? [count(said.now), count(said.hour)] : ["–", "–"];
    return [service.target, count(service.connections) + waiting, minute, hour, sparkline(service.name)];
  });
  heading("peers", site.peers);
  peers.show(site.peers, now, (peer) => {
    const seconds = peer.latest_handshake_age_seconds;
    const handshake = seconds == null ? "never" : `${age(seconds)} ago`;
    const endpoint = peer.endpoint ?? peer.endpoint_configured ?? "not known yet";
    return [endpoint, handshake, bytes(peer.rx_bytes), bytes(peer.tx_bytes)];
  });
  heading("orphans", site.orphans ?? []);
  orphans.show(site.orphans ?? [], now, (queue) => (
    [count(queue.queue_depth), count(queue.parked_messages), age(queue.oldest_queued_age_seconds)]
  ));
}

// ---- the stream ----

let source = null;
let lastWord = null;
let opened = 0;

function hear() {
  lastWord = Date.now();
  document.body.className = "";
  $("lost").hidden = true;
  write($("live-text"), `Live, ${new Date(lastWord).toLocaleTimeString("en-GB")}`);
}

/** Says that what is shown is of the past. */
function lose(more = "") {
  document.body.className = lastWord ? "stale" : "waiting";
  write($("live-text"), "Not live");
  const since = lastWord ? `since ${clock(lastWord)}. What is below is how it was then` : "yet";
  const text = `No word from the site ${since}. ${more || "Trying again."}`;
  write($("lost"), text);
  $("lost").hidden = false;
}

/** Tells a site that is away from one that has no place for another page. */
async function explain() {
  let isThere = false;
  try {
    // the token is another one, or was shown long ago: the form asks for it
    if ((await fetch("/page.js", { method: "HEAD", cache: "no-store" })).status === 401) location.reload();
    isThere = (await fetch("/livez", { cache: "no-store" })).ok;
  } catch { /* it is away */ }
  lose(isThere ? "It is there, but as many pages are open as may be: close one. Trying again." : "");
}

function connect() {
  source?.close();
  opened = Date.now();
  source = new EventSource("/events");
  source.addEventListener("state", (event) => { hear(); show(JSON.parse(event.data)); });
  source.addEventListener("history", (event) => {
    takeHistory(JSON.parse(event.data));
    cards.forEach((card, name) => card.showHistory(feeds.get(`forward:${name}`)));
    if (latest) showTables(latest.site, new Date(latest.now));
  });
  source.addEventListener("error", () => {
    if (source.readyState !== EventSource.CLOSED) { lose(); return; }
    explain();
    setTimeout(connect, RETRY_EVERY);
  });
}

setInterval(() => {
  const silent = Date.now() - Math.max(lastWord ?? 0, opened);
  if (silent > SILENT_AFTER) lose();
  if (silent > AGAIN_AFTER) connect();
}, 1000);
connect();
