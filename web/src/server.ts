// Where the server is, and what it says over HTTP when a WebSocket won't open. Knows no state.

import type { Place } from "./place";

/** Why the server opens no WebSocket: its token is missing or wrong, it says no, or it isn't there just now. */
export type Refusal =
  | { readonly kind: "token" }
  | { readonly kind: "no"; readonly reason: string }
  | { readonly kind: "away"; readonly reason: string };

// An answer that takes longer is as good as none: the page tries again anyway.
const ANSWER_MS_MAX = 10_000;

// What is shown of a server's reason, in characters: one line.
const REASON_CHARS_MAX = 200;

// The terminal is there, and an upgrade is all that was missing.
const UPGRADE_REQUIRED = 426;

/** Where a project's WebSocket is. Browsers can't send it a header, so the token is part of the address. */
export function socketUrl(place: Place, token: string): string {
  return `${location.origin.replace(/^http/, "ws")}${terminalPath(place)}?${new URLSearchParams({ token })}`;
}

/** Asks over HTTP why a WebSocket failed to open, which the browser doesn't tell: the server answers as it did then. */
export async function askWhy(place: Place, token: string): Promise<Refusal> {
  try {
    const answer = await ask(terminalPath(place), token, { signal: AbortSignal.timeout(ANSWER_MS_MAX) });
    if (answer.status === 401) return { kind: "token" };
    if (answer.ok || answer.status === UPGRADE_REQUIRED) return { kind: "away", reason: "the server opened no terminal" };
    const reason = await reasonOf(answer);
    const passing = answer.status >= 500 || answer.status === 408 || answer.status === 429;
    return passing ? { kind: "away", reason } : { kind: "no", reason };
  } catch {
    return { kind: "away", reason: absence() };
  }
}

/** Asks for something else than a terminal; an error's message says why the answer was no. */
export async function request(token: string, method: "GET" | "PUT" | "DELETE", path: string, end?: AbortSignal): Promise<Response> {
  const answer = await ask(path, token, { method, signal: end ?? AbortSignal.timeout(ANSWER_MS_MAX) }).catch(() => undefined);
  if (answer === undefined) throw new Error(absence());
  if (!answer.ok) throw new Error(await reasonOf(answer));
  return answer;
}

/** One line of text from elsewhere, fit to be shown. */
export function oneLine(text: string): string {
  return text.replace(/\s+/g, " ").trim().slice(0, REASON_CHARS_MAX);
}

function ask(path: string, token: string, more: RequestInit): Promise<Response> {
  return fetch(path, { headers: { Authorization: `Bearer ${token}` }, cache: "no-store", credentials: "omit", ...more });
}

function absence(): string {
  return navigator.onLine ? "can't reach the server" : "offline";
}

function terminalPath(place: Place): string {
  return `/ws/terminal/${place.project}/`;
}

async function reasonOf(answer: Response): Promise<string> {
  const body: unknown = await answer.json().catch(() => undefined);
  const message = at(at(body, "error"), "message");
  return (typeof message === "string" && oneLine(message)) || `the server answered ${answer.status}`;
}

function at(value: unknown, key: string): unknown {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>)[key] : undefined;
}
