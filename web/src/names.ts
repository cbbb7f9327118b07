// What a new session is called. Pure.

import { SESSION_DEFAULT } from "./place";

/** A name for a session beside these. */
export function nameBeside(taken: readonly string[]): string {
  if (!taken.includes(SESSION_DEFAULT)) return SESSION_DEFAULT;
  for (let n = 2; ; n += 1) if (!taken.includes(`shell-${n}`)) return `shell-${n}`;
}
