// The words of the status page: times, ages, sizes and causes as people read them.
import { clock } from "./chart.js";

export const count = (n) => (n == null ? "–" : n.toLocaleString("en-GB"));

export function when(text, now) {
  const time = new Date(text);
  if (Number.isNaN(time.getTime())) return text;
  if (time.toDateString() === now.toDateString()) return clock(time);
  const year = time.getFullYear() === now.getFullYear() ? undefined : "numeric";
  return `${time.toLocaleDateString("en-GB", { day: "numeric", month: "short", year })}, ${clock(time)}`;
}

/** Writes the times in a cause as this browser's. */
export const localized = (cause, now) => cause.replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ/g, (time) => when(time, now));

/** Is the cause in one line, with its since where it does not say it itself. */
export function why(entry, now) {
  const cause = localized(entry.cause ?? "", now);
  if (!cause || !entry.since || /\bsince\b/.test(cause)) return cause;
  return `${cause} (since ${when(entry.since, now)})`;
}

export function age(seconds) {
  if (seconds == null) return "–";
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const at = Math.max(0, units.findIndex(([, length]) => seconds >= length));
  if (seconds < 1) return seconds <= 0 ? "0 s" : "under 1 s";
  const [unit, length] = units[at];
  const first = `${Math.floor(seconds / length)} ${unit}`;
  const rest = at < 2 ? Math.floor((seconds % length) / units[at + 1][1]) : 0;
  return rest ? `${first} ${rest} ${units[at + 1][0]}` : first;
}

/** Is how long a queue takes to drain at this pace. */
export function drained(forward) {
  if (!forward.queue_depth) return "–";
  return forward.drained_in_seconds == null ? "not known" : age(forward.drained_in_seconds);
}

export function pace(perSecond) {
  if (perSecond == null) return "–";
  return perSecond > 0 && perSecond < 1 ? `${(perSecond * 60).toFixed(1)}/min` : `${perSecond.toFixed(1)}/s`;
}

export function bytes(n) {
  if (n == null) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (n >= 1000 && at < units.length - 1) { n /= 1024; at += 1; }
  return `${at && n < 10 ? n.toFixed(1) : Math.round(n)} ${units[at]}`;
}
