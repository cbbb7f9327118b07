// The server's addresses and answers, as the page uses them. Knows no state.

import type { Place } from "./place";

/** A terminal's size in cells. */
export interface Size {
  readonly cols: number;
  readonly rows: number;
}

/** Why the server doesn't open a terminal: its token is missing or wrong, it says no, or it isn't there just now. */
export type Refusal =
  | { readonly kind: "token" }
  | { readonly kind: "no"; readonly reason: string }
  | { readonly kind: "away"; readonly reason: string };

/** Close codes with a meaning of their own: RFC 6455 §7.4.1 and the registry it opened. */
export const CLOSE_NORMAL = 1000;
export const CLOSE_RESTART = 1012;

// An answer that takes longer is as good as none: the page tries again anyway.
const ANSWER_MS_MAX = 10_000;

// What is shown of a server's reason, in characters: one line.
const REASON_CHARS_MAX = 200;

/** Where a terminal's WebSocket is. Browsers can't send it a header, so the token is part of the address. */
export function terminalUrl(place: Place, size: Size, token: string): string {
  const query = new URLSearchParams({
    cols: String(size.cols),
    rows: String(size.rows),
    frames: "binary",
    session: place.session,
    token,
  });
  return `${location.origin.replace(/^http/, "ws")}${terminalPath(place)}?${query}`;
}

/** Asks over HTTP why a WebSocket failed to open, which the browser doesn't tell: the server answers as it did then. */
export async function askWhy(place: Place, token: string): Promise<Refusal> {
  try {
    const query = new URLSearchParams({ session: place.session });
    let answer = await fetch(`${terminalPath(place)}?${query}`, options(token));
    // An upgrade is all that was missing there: what kept the socket from opening came after that.
    if (answer.status === 426) answer = await fetch(sessionPath(place), { ...options(token), method: "PUT" });
    if (answer.status === 401) return { kind: "token" };
    if (answer.ok) return { kind: "away", reason: "the server opened no terminal" };
    const reason = await reasonOf(answer);
    const passing = answer.status >= 500 || answer.status === 408 || answer.status === 429;
    return passing ? { kind: "away", reason } : { kind: "no", reason };
  } catch {
    return { kind: "away", reason: "can't reach the server" };
  }
}

/** Tells the server the size of a session's terminal. */
export async function tellSize(place: Place, size: Size, token: string): Promise<void> {
  const { headers, ...rest } = options(token);
  await fetch(`${sessionPath(place)}/size`, {
    ...rest,
    method: "POST",
    headers: { ...headers, "Content-Type": "application/json" },
    body: JSON.stringify(size),
  });
}

/** One line of text from elsewhere, fit to be shown. */
export function oneLine(text: string): string {
  return text.replace(/\s+/g, " ").trim().slice(0, REASON_CHARS_MAX);
}

function terminalPath(place: Place): string {
  return `/ws/terminal/${place.project}/`;
}

function sessionPath(place: Place): string {
  return `/api/projects/${place.project}/sessions/${place.session}`;
}

function options(token: string) {
  return {
    headers: { Authorization: `Bearer ${token}` },
    cache: "no-store",
    credentials: "omit",
    signal: AbortSignal.timeout(ANSWER_MS_MAX),
  } as const;
}

async function reasonOf(answer: Response): Promise<string> {
  const body: unknown = await answer.json().catch(() => undefined);
  const message = at(at(body, "error"), "message");
  return (typeof message === "string" && oneLine(message)) || `the server answered ${answer.status}`;
}

function at(value: unknown, key: string): unknown {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>)[key] : undefined;
}
