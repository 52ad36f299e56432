// What the site told of the last hour, feed by feed: at first all of it, then step by step.
const STEPS_MAX = 360;

export const feeds = new Map();

export function takeHistory(told) {
  const gone = new Set(feeds.keys());
  for (const feed of told.feeds) {
    const key = `${feed.kind}:${feed.name}`;
    const before = told.replace ? undefined : feeds.get(key);
    const join = (old, more) => [...(old ?? []), ...more].slice(-STEPS_MAX);
    feeds.set(key, {
      step: told.step_seconds * 1000,
      end: Date.parse(told.until),
      messages: join(before?.messages, feed.messages),
      p50: join(before?.p50, feed.ack_p50_us),
      p99: join(before?.p99, feed.ack_p99_us),
    });
    gone.delete(key);
  }
  gone.forEach((key) => feeds.delete(key));
}

const sum = (list) => list.reduce((all, one) => all + one, 0);
const last = (list) => list.findLast((value) => value != null);

/** Is what the charts say, in words. */
export function inWords(feed) {
  if (!feed || feed.messages.length === 0) return null;
  const now = sum(feed.messages.slice(-6));
  const slow = feed.p99.filter((value) => value != null);
  const worst = slow.length ? Math.max(...slow) : null;
  return { now, hour: sum(feed.messages), p50: last(feed.p50), p99: last(feed.p99), worst };
}
