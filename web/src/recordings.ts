// A project's recordings as the server tells of them: what there is, what is being recorded, and the requests that change
// either. Knows no element.

import { request } from "./server";

/** A recording as the server lists it. */
export interface Recording {
  readonly name: string;
  readonly session: string;
  readonly bytes: number;
  /** When it was last written, in seconds since 1970. */
  readonly written: number;
  /** Whether it is being written. */
  readonly recording: boolean;
}

// The server doesn't say by itself what is recorded: it is asked so long after something happened, and every so often.
const SOON_MS = 500;
const AGAIN_MS = 10_000;

/** The recordings of one project. */
export class Recordings {
  readonly #path: string;
  readonly #token: () => string | undefined;
  readonly #changed: () => void;
  #all: readonly Recording[] = [];
  #asked = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** `changed` is called when others are there, or other sessions are recorded. */
  constructor(project: string, token: () => string | undefined, changed: () => void) {
    this.#path = `/api/projects/${project}`;
    this.#token = token;
    this.#changed = changed;
  }

  /** All of them as far as is known, the newest first. */
  get all(): readonly Recording[] {
    return this.#all;
  }

  /** Whether a session is being recorded. */
  has(session: string): boolean {
    return this.#all.some((one) => one.recording && one.session === session);
  }

  /** Something happened after which others may be recorded. */
  stir(): void {
    this.#wait(SOON_MS);
  }

  /** Asks what there is. */
  async refresh(): Promise<void> {
    const turn = (this.#asked += 1);
    const all = (await (await this.#request("GET", "recordings")).json()) as Recording[];
    // Of several answers the one to the latest question counts.
    if (turn !== this.#asked) return;
    this.#all = all;
    this.#changed();
  }

  /** Records a session from now on. */
  async record(session: string): Promise<void> {
    await this.#request("PUT", `sessions/${session}/recording`);
    await this.refresh();
  }

  /** Records it no more. */
  async stop(session: string): Promise<void> {
    await this.#request("DELETE", `sessions/${session}/recording`);
    await this.refresh();
  }

  /** Removes a recording. */
  async remove(name: string): Promise<void> {
    await this.#request("DELETE", `recordings/${name}`);
    await this.refresh();
  }

  /** A recording's file, as far as it is written. It may take long; `end` ends it. */
  read(name: string, end: AbortSignal): Promise<Response> {
    return this.#request("GET", `recordings/${name}`, end);
  }

  #wait(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#look(), ms);
  }

  async #look(): Promise<void> {
    if (document.hidden) return;
    this.#wait(AGAIN_MS);
    // Why it can't be known is said where somebody wants to know.
    await this.refresh().catch(() => undefined);
  }

  #request(method: "GET" | "PUT" | "DELETE", what: string, end?: AbortSignal): Promise<Response> {
    return request(this.#token() ?? "", method, `${this.#path}/${what}`, end);
  }
}

/** When a recording began, which is in its name. */
export function beganAt(name: string): Date | undefined {
  const [, year, month, day, hour, minute, second] = /-(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z(?:-\d+)?\.cast$/.exec(name) ?? [];
  const at = new Date(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`);
  return Number.isNaN(at.getTime()) ? undefined : at;
}

/** The same as people here read it. */
export function beganText(name: string): string {
  return beganAt(name)?.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" }) ?? name;
}

/** How long a recording is, to the second. */
export function lengthS({ name, written }: Recording): number {
  const began = beganAt(name);
  return began === undefined ? 0 : Math.max(0, written - began.getTime() / 1000);
}
