// The charts: SVG in the pixels of the screen, coloured by the style sheet. Everything is text by textContent only.
const SVG = "http://www.w3.org/2000/svg";
const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const LEFT = 46, BOTTOM = 18, TOP = 6;

export function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

export const clock = (time) => new Date(time).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });

export function latency(us) {
  if (us == null) return "–";
  if (us < 9950) return `${(us / 1000).toFixed(1)} ms`;
  if (us < 999_500) return `${Math.round(us / 1000)} ms`;
  return us < 9_950_000 ? `${(us / 1e6).toFixed(1)} s` : `${Math.round(us / 1e6)} s`;
}

/**
 * Puts steps together by the minutes of the clock: messages in all, the median of the medians, the slowest p99. The
 * last minute is not over. `feed.end` is when the last step ended.
 */
export function byMinute(feed, length = MINUTE) {
  const bins = new Map();
  feed.messages.forEach((count, at) => {
    const end = feed.end - (feed.messages.length - 1 - at) * feed.step;
    const start = Math.floor((end - 1) / length) * length;
    const bin = bins.get(start) ?? { start, messages: 0, p50: [], p99: [] };
    bin.messages += count;
    if (feed.p50[at] != null) bin.p50.push(feed.p50[at]);
    if (feed.p99[at] != null) bin.p99.push(feed.p99[at]);
    bins.set(start, bin);
  });
  return [...bins.values()].map((bin) => (
    { ...bin, p50: median(bin.p50), p99: bin.p99.length ? Math.max(...bin.p99) : undefined }
  ));
}

/** Rounds up to a number whose half is a whole one as well, where there is any. */
function nice(value) {
  const ten = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 4, 6, 8, 10].map((n) => n * ten).find((n) => n >= value);
}

/** Is the one in the middle; none of none. */
const median = (list) => list.toSorted((a, b) => a - b)[Math.floor((list.length - 1) / 2)];

/** Is a chart that draws itself again where its size or its feed changes. */
class Chart {
  constructor(kind) {
    this.node = svg("svg", { class: kind, role: "img", "aria-label": "No data yet" });
    this.feed = null;
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  show(feed, label) {
    this.feed = feed;
    this.node.setAttribute("aria-label", label);
    this.draw();
  }

  /** Returns the size, or none while nothing is to be drawn. */
  begin() {
    const { width, height } = this.node.getBoundingClientRect();
    if (!this.feed || width < 10) return null;
    this.node.setAttribute("viewBox", `0 0 ${width} ${height}`);
    return { width, height };
  }
}

/** Draws bars of messages a minute in the width of a table's cell. */
export class Sparkline extends Chart {
  constructor() { super("small"); }

  draw() {
    const size = this.begin();
    if (!size) return;
    const bins = byMinute(this.feed);
    const max = Math.max(1, ...bins.map((bin) => bin.messages));
    const x = (time) => size.width * Math.min(1, Math.max(0, 1 - (this.feed.end - time) / HOUR));
    this.node.replaceChildren(bars(bins, x, size.height, (n) => (n / max) * (size.height - 1)));
  }
}

/** Draws a bar for each minute that had a message; also one of many is to be seen. */
function bars(bins, x, base, height) {
  const path = bins.filter((bin) => bin.messages > 0).map((bin) => {
    const left = x(bin.start);
    const wide = Math.max(1, x(bin.start + MINUTE) - left - 1);
    const high = Math.max(1.5, height(bin.messages));
    return `M${left.toFixed(1)} ${base}v${(-high).toFixed(1)}h${wide.toFixed(1)}V${base}z`;
  });
  return svg("path", { class: "bars", d: path.join("") });
}

/** Is a chart with axes: an hour, and a readout of what is pointed at. */
class Axes extends Chart {
  constructor(readout, standing) {
    super("chart");
    this.readout = readout;
    this.standing = standing;
    this.pointed = null;
    this.node.addEventListener("pointermove", (event) => this.point(event.clientX));
    this.node.addEventListener("pointerleave", () => this.point(null));
  }

  point(clientX) {
    this.pointed = clientX == null ? null : clientX - this.node.getBoundingClientRect().left;
    this.draw();
  }

  draw() {
    const size = this.begin();
    if (!size) return;
    const { width, height } = size;
    const base = height - BOTTOM;
    const start = this.feed.end - HOUR;
    const x = (time) => LEFT + (width - LEFT) * Math.min(1, Math.max(0, (time - start) / HOUR));
    const scale = this.scale(base - TOP);
    const parts = scale.ticks.map(({ at, label }) => {
      const y = Math.round(base - at) + 0.5;
      const text = svg("text", { x: LEFT - 8, y: y + 3.5, "text-anchor": "end" });
      text.textContent = label;
      return svg("g", {}, svg("line", { class: "grid", x1: LEFT, x2: width, y1: y, y2: y }), text);
    });
    const quarter = 15 * MINUTE;
    for (let time = Math.ceil(start / quarter) * quarter; time <= this.feed.end; time += quarter) {
      const at = x(time);
      const anchor = at > width - 16 ? "end" : at < LEFT + 16 ? "start" : "middle";
      const text = svg("text", { x: at, y: height - 3, "text-anchor": anchor });
      text.textContent = clock(time);
      parts.push(svg("line", { class: "grid", x1: at, x2: at, y1: base, y2: base + 4 }), text);
    }
    parts.push(...this.marks(x, base, scale.y));
    const within = this.pointed != null && this.pointed >= LEFT;
    const time = within ? start + ((this.pointed - LEFT) / (width - LEFT)) * HOUR : null;
    if (time != null) parts.push(svg("line", { class: "rule", x1: this.pointed, x2: this.pointed, y1: TOP, y2: base }));
    this.node.replaceChildren(...parts);
    const said = time == null ? null : this.said(time);
    if (said == null) this.readout.replaceChildren(...this.standing());
    else this.readout.textContent = said;
  }
}

/** Draws messages a minute. */
export class Rate extends Axes {
  scale(room) {
    this.bins = byMinute(this.feed);
    const max = nice(Math.max(1, ...this.bins.map((bin) => bin.messages)));
    const values = max === 1 ? [0, 1] : [0, max / 2, max];
    const ticks = values.map((value) => ({ at: (value / max) * room, label: value.toLocaleString("en-GB") }));
    return { ticks, y: (value) => (value / max) * room };
  }

  marks(x, base, y) {
    const partial = bars(this.bins.slice(-1), x, base, y);
    partial.setAttribute("class", "partial");
    return [bars(this.bins.slice(0, -1), x, base, y), partial];
  }

  said(time) {
    const bin = minuteOf(this.bins, time);
    return `${clock(time)}: ${bin ? bin.messages.toLocaleString("en-GB") : "not seen"}`;
  }
}

/** Draws how long answers took, by a logarithm: what is common stays readable beside what is rare. */
export class Latency extends Axes {
  scale(room) {
    this.bins = byMinute(this.feed);
    const logs = this.bins.flatMap((bin) => [bin.p50, bin.p99]).filter((us) => us != null).map(log);
    const low = logs.length ? Math.floor(Math.min(...logs)) : 3;
    const high = logs.length ? Math.max(low + 1, Math.ceil(Math.max(...logs))) : 5;
    const y = (us) => ((log(us) - low) / (high - low)) * room;
    const decades = Array.from({ length: high - low + 1 }, (_, n) => 10 ** (low + n));
    const shown = decades.length > 4 ? decades.filter((_, n) => n % 2 === 0) : decades;
    const label = (us) => (us < 1e6 ? `${us / 1000} ms` : `${us / 1e6} s`);
    return { ticks: shown.map((us) => ({ at: y(us), label: label(us) })), y };
  }

  marks(x, base, y) {
    return ["p99", "p50"].flatMap((name) => {
      let path = "", points = "", before = null;
      const { bins } = this;
      bins.forEach((bin, at) => {
        if (bin[name] == null) { before = null; return; }
        const to = `${x(bin.start + MINUTE / 2).toFixed(1)} ${(base - y(bin[name])).toFixed(1)}`;
        path += `${before ? "L" : "M"}${to}`;
        if (!before && bins[at + 1]?.[name] == null) points += `M${to}h.01`;
        before = to;
      });
      return [svg("path", { class: name, d: path }), svg("path", { class: `${name} points`, d: points })];
    });
  }

  said(time) {
    const bin = minuteOf(this.bins, time);
    if (bin?.p50 == null) return `${clock(time)}: no answer`;
    return `${clock(bin.start)}: p50 ${latency(bin.p50)}, p99 ${latency(bin.p99)}`;
  }
}

/** Is where on a logarithmic axis a time stands; what is below a tenth of a millisecond stands there. */
const log = (us) => Math.log10(Math.max(us, 100));

const minuteOf = (bins, time) => bins.find((bin) => bin.start === Math.floor(time / MINUTE) * MINUTE);
