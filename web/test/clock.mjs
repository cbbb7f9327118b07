// Timers that run when a test says so (Node 18 has none of its own).

/** Replaces the timers and the clock until the test ends; the answer lets time pass. */
export function clock(t) {
  const kept = { setTimeout, clearTimeout, setInterval, clearInterval, performance };
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
  // Node makes it an accessor of the global object.
  const put = (value) => Object.defineProperty(globalThis, "performance", { value, configurable: true, writable: true });
  put({ now: () => nowMs });
  t.after(() => {
    const { performance, ...timers } = kept;
    Object.assign(globalThis, timers);
    put(performance);
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
