// How long to wait before the next attempt to connect. Pure: knows neither clock nor socket.

/** Before the first attempt, in ms: a restarted server is back within a few of these. */
export const BACKOFF_MS_MIN = 250;

/** Between late attempts, in ms: soon enough for someone who looks at the page, rare enough for the server. */
export const BACKOFF_MS_MAX = 5000;

/** The wait before attempt `n` (from 0) in ms: doubling, and cut by up to half so that many pages don't come back at once. */
export function backoffMs(attempt: number, random: number): number {
  const whole = Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** attempt);
  return whole * (1 - random / 2);
}
