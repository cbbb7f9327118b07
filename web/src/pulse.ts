// Tells a live connection from one that is dead without a word, and measures its lag. Knows no socket.

// Between pings. Idle connections die in a minute at the most impatient proxies, and a lag should be today's.
const PING_MS = 10_000;

// Silence after a ping that means death. A laden link may need seconds, and has other messages to show for it.
const SILENCE_MS_MAX = 8000;

// The same after something that often kills connections: sleep, another network. Someone waits in front of it.
const DOUBT_MS_MAX = 2500;

/** What a pulse asks and tells. */
export interface PulseEvents {
  ping(id: number): void;
  lag(ms: number): void;
  dead(): void;
}

/** The pulse of one connection. */
export class Pulse {
  readonly #events: PulseEvents;
  readonly #beat: ReturnType<typeof setInterval>;
  #id = 0;
  #sentMs = 0;
  #heardMs = 0;
  // There while a ping waits for its answer.
  #deadline: ReturnType<typeof setTimeout> | undefined;

  constructor(events: PulseEvents) {
    this.#events = events;
    this.#beat = setInterval(() => this.#deadline === undefined && this.#ping(SILENCE_MS_MAX), PING_MS);
    this.#ping(SILENCE_MS_MAX);
  }

  /** Any message came. */
  heard(): void {
    this.#heardMs = performance.now();
  }

  /** A ping's answer came. */
  pong(id: number): void {
    if (id !== this.#id || this.#deadline === undefined) return;
    clearTimeout(this.#deadline);
    this.#deadline = undefined;
    this.#events.lag(performance.now() - this.#sentMs);
  }

  /** Something happened that often kills connections: finds out soon. */
  doubt(): void {
    clearTimeout(this.#deadline);
    this.#ping(DOUBT_MS_MAX);
  }

  /** The connection is gone. */
  stop(): void {
    clearInterval(this.#beat);
    clearTimeout(this.#deadline);
  }

  #ping(silenceMs: number): void {
    this.#id += 1;
    this.#sentMs = performance.now();
    this.#watch(silenceMs);
    this.#events.ping(this.#id);
  }

  #watch(silenceMs: number): void {
    const sinceMs = performance.now();
    this.#deadline = setTimeout(() => {
      if (this.#heardMs < sinceMs) this.#events.dead();
      else this.#watch(silenceMs);
    }, silenceMs);
  }
}
