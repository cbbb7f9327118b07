// Timers that run when a test says so (Node 18 has none of its own).

/** Replaces the timers and the clock until the test ends; the answer lets time pass. */
export function clock(t) {
  const kept = { setTimeout, clearTimeout, setInterval, clearInterval, now: performance.now };
  const timers = new Map();
  let [nowMs, last] = [1000, 0];
  const add = (run, ms, every) => {
    timers.set((last += 1), { run, atMs: nowMs + (ms ?? 0), every });
    return last;
  };
  Object.assign(globalThis, {
    setTimeout: (run, ms) => add(run, ms, undefined),
    setInterval: (run, ms) => add(run, ms, ms),
    clearTimeout: (id) => timers.delete(id),
    clearInterval: (id) => timers.delete(id),
  });
  performance.now = () => nowMs;
  t.after(() => {
    const { now, ...rest } = kept;
    Object.assign(globalThis, rest);
    performance.now = now;
  });
  return (ms) => {
    const endMs = nowMs + ms;
    for (;;) {
      const due = [...timers].filter(([, { atMs }]) => atMs <= endMs).sort(([, a], [, b]) => a.atMs - b.atMs)[0];
      if (due === undefined) break;
      const [id, timer] = due;
      nowMs = timer.atMs;
      if (timer.every === undefined) timers.delete(id);
      else timer.atMs += timer.every;
      timer.run();
    }
    nowMs = endMs;
  };
}
