// The pieces of the status page. Text goes in by textContent only; nodes stay where they are and change only where a
// value did, so that focus, selection and screen readers are not disturbed.
import { Latency, Rate, byMinute, clock, latency, svg } from "./chart.js";
import { inWords } from "./hour.js";
import { age, count, drained, pace, why } from "./words.js";

export const WORDS = { ok: "OK", unknown: "Unknown", degraded: "Degraded", down: "Down" };
const SHAPES = {
  ok: "M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1zm3.9 5.3-4.6 5a.8.8 0 0 1-1.2 0L4.2 9.4l1.2-1.1 1.3 1.4 4-4.4z",
  unknown: "M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1zm0 1.6a5.4 5.4 0 1 1 0 10.8A5.4 5.4 0 0 1 8 2.6zM4.8 7.2h6.4v1.6H4.8z",
  degraded: "M7.1 1.6a1 1 0 0 1 1.8 0l6.2 11.6a1 1 0 0 1-.9 1.5H1.8a1 1 0 0 1-.9-1.5zM7.2 6v4h1.6V6zm0 5.2v1.6h1.6v-1.6z",
  down: "M5 1h6l4 4v6l-4 4H5l-4-4V5zm.8 3.7L4.7 5.8 6.9 8l-2.2 2.2 1.1 1.1L8 9.1l2.2 2.2 1.1-1.1L9.1 8l2.2-2.2-1.1-1.1L8 6.9z",
};


export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value != null) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function icon(status) {
  const path = svg("path", { d: SHAPES[status] ?? SHAPES.unknown, fill: "currentColor", "fill-rule": "evenodd" });
  return svg("svg", { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" }, path);
}

/** Is a state as a shape, a word and a colour. */
export class Badge {
  constructor() { this.node = el("span", { class: "badge" }); }

  show(status) {
    if (this.status === status) return;
    this.status = status;
    this.node.className = `badge ${status in WORDS ? status : "unknown"}`;
    this.node.replaceChildren(icon(status), WORDS[status] ?? status);
  }
}

/** Is a list of terms and values, which come and go. */
export class Figures {
  constructor(className) {
    this.node = el("dl", { class: className });
    this.rows = new Map();
  }

  show(figures) {
    for (const [name, row] of this.rows) {
      if (!figures.some((figure) => figure[0] === name)) { row.remove(); this.rows.delete(name); }
    }
    figures.forEach(([name, value, more, className], at) => {
      let row = this.rows.get(name);
      if (!row) {
        row = el("div", { class: className }, el("dt", {}, name), el("dd", {}, el("span"), " ", el("small")));
        this.rows.set(name, row);
      }
      if (this.node.children[at] !== row) this.node.insertBefore(row, this.node.children[at] ?? null);
      const [main, small] = row.lastChild.children;
      write(main, value);
      write(small, more ?? "");
    });
  }
}

/** Is a chart with its caption. */
export function figure(title, Kind, standing) {
  const readout = el("span", { class: "readout" });
  const chart = new Kind(readout, standing);
  const node = el("figure", {}, el("figcaption", {}, el("span", { class: "name" }, title), readout), chart.node);
  return { node, chart };
}

export function key(name, className) {
  return el("span", { class: "key" }, el("i", { class: className, "aria-hidden": "true" }), name);
}

/** Is a forward: its state, its figures, its last hour. */
export class Card {
  constructor(name) {
    const id = `forward-${name}`;
    this.badge = new Badge();
    this.route = el("p", { class: "route" });
    this.why = el("p", { class: "why" });
    this.figures = new Figures("figures");
    this.queue = new Figures("figures queue");
    this.peak = null;
    this.rate = figure("Messages per minute", Rate, () => (this.peak == null ? [] : [`peak ${count(this.peak)}`]));
    this.latency = figure("Time to the ACK", Latency, () => [key("p50", ""), key("p99", "slow")]);
    this.rows = el("tbody");
    const heads = ["From", "Messages", "ACK p50", "slowest p99"].map((text) => el("th", { scope: "col" }, text));
    this.details = el("details", {}, el("summary", {}, "The last hour in figures"),
      el("table", {}, el("thead", {}, el("tr", {}, ...heads)), this.rows));
    this.details.addEventListener("toggle", () => this.tabulate());
    const title = el("h3", { id, tabindex: "-1" }, name);
    this.node = el("article", { class: "card", "aria-labelledby": id },
      el("div", { class: "head" }, title, this.badge.node, this.route), this.why, this.figures.node, this.queue.node,
      el("div", { class: "charts" }, this.rate.node, this.latency.node), this.details);
  }

  show(forward, now) {
    this.node.className = `card ${forward.status}`;
    this.badge.show(forward.status);
    write(this.route, `${forward.listen} → ${forward.target} at ${forward.peer} · ${forward.delivery}`);
    write(this.why, why(forward, now));
    this.why.hidden = !forward.cause;
    this.forward = forward;
    this.showFigures();
  }

  showHistory(feed) {
    this.feed = feed;
    const said = inWords(feed);
    if (said) {
      const minutes = byMinute(feed).map((bin) => bin.messages);
      this.peak = Math.max(0, ...minutes);
      this.rate.chart.show(feed, `Messages per minute over the last hour: ${count(said.now)} in the last minute, `
        + `at most ${count(this.peak)}, ${count(said.hour)} in all`);
      this.latency.chart.show(feed, said.p50 == null ? "Time to the ACK over the last hour: no answer"
        : `Time to the ACK over the last hour: latest p50 ${latency(said.p50)}, p99 ${latency(said.p99)}, `
        + `slowest p99 ${latency(said.worst)}`);
    }
    this.tabulate();
    this.showFigures();
  }

  showFigures() {
    const { forward } = this;
    if (!forward) return;
    const said = inWords(this.feed);
    const queued = forward.queue_depth_max != null;
    const oldest = forward.unanswered ? `oldest ${age(forward.oldest_unanswered_age_seconds)}` : "";
    this.figures.show([
      ["Last minute", said ? count(said.now) : "–", said?.now === 1 ? "message" : "messages"],
      ["Last hour", said ? count(said.hour) : "–", said?.hour === 1 ? "message" : "messages"],
      ["ACK p50", said ? latency(said.p50) : "–"],
      ["ACK p99", said ? latency(said.p99) : "–"],
      ["Senders", count(forward.connections), forward.held ? `${count(forward.held)} held` : ""],
      ["Unanswered", count(forward.unanswered), oldest],
    ]);
    this.queue.node.hidden = !queued;
    this.queue.show(!queued ? [] : [
      ["Queue", forward.queue?.state ?? "–"],
      ["Waiting", count(forward.queue_depth), `of ${count(forward.queue_depth_max)}`],
      ["Oldest", forward.queue_depth ? age(forward.oldest_queued_age_seconds) : "–"],
      ["Parked", count(forward.parked_messages)],
      ["Drained in", drained(forward)],
      ["Settled", pace(forward.settled_per_second)],
    ]);
  }

  /** Writes the hour as a table, while it is open: five minutes a row, the latest first. */
  tabulate() {
    if (!this.details.open || !this.feed) return;
    const bins = byMinute(this.feed, 300_000).reverse();
    this.rows.replaceChildren(...bins.map((bin) => el("tr", {}, el("th", { scope: "row" }, clock(bin.start)),
      el("td", {}, count(bin.messages)), el("td", {}, latency(bin.p50)), el("td", {}, latency(bin.p99)))));
  }
}

/** Is a table of things with a state; on a phone each row is a block. The roles hold whatever the display is. */
export class Table {
  constructor(section, columns) {
    this.columns = columns;
    this.rows = new Map();
    this.body = el("tbody", { role: "rowgroup" });
    const heads = columns.map(([name, className]) => (
      el("th", { scope: "col", role: "columnheader", class: className === "number" ? "number" : null }, name)
    ));
    const title = section.querySelector("h2").id;
    const head = el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads));
    const table = el("table", { role: "table", "aria-labelledby": title }, head, this.body);
    section.append(el("div", { class: "list" }, table));
  }

  show(entries, now, values) {
    const gone = new Set(this.rows.keys());
    entries.forEach((entry, at) => {
      let row = this.rows.get(entry.name);
      if (!row) {
        row = this.row(entry.name);
        this.rows.set(entry.name, row);
      }
      gone.delete(entry.name);
      if (this.body.children[at] !== row.node) this.body.insertBefore(row.node, this.body.children[at] ?? null);
      row.badge.show(entry.status);
      write(row.why, why(entry, now));
      row.why.hidden = !entry.cause;
      values(entry).forEach((value, n) => {
        const cell = row.cells[n];
        if (typeof value === "string") write(cell, value);
        else if (cell.firstChild !== value) cell.replaceChildren(value);
      });
    });
    gone.forEach((name) => { this.rows.get(name).node.remove(); this.rows.delete(name); });
  }

  row(name) {
    const badge = new Badge();
    const because = el("p", { class: "why" });
    const cells = this.columns.slice(2).map(([label, className]) => (
      el("td", { role: "cell", class: className, "data-label": label })
    ));
    const state = el("td", { role: "cell", class: "state" }, badge.node, because);
    const node = el("tr", { role: "row" }, el("th", { scope: "row", role: "rowheader" }, name), state, ...cells);
    return { node, badge, why: because, cells };
  }
}
