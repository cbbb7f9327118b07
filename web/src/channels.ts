// The numbers by which sessions are told apart on one connection. Knows no socket.

/** Most channels of one WebSocket: the server's bound. */
export const CHANNELS_MAX = 64;

/** Which channel is whose. */
export class Channels<Owner> {
  readonly #owners = new Map<number, Owner>();
  #last = 0;

  /** A channel, undefined if none is free. Never one that was used a moment ago: frames for that may still be on their way. */
  take(owner: Owner): number | undefined {
    if (this.#owners.size >= CHANNELS_MAX) return undefined;
    do this.#last = (this.#last + 1) & 0xffff;
    while (this.#owners.has(this.#last));
    this.#owners.set(this.#last, owner);
    return this.#last;
  }

  /** Whose a channel is, if anybody's. */
  of(channel: number): Owner | undefined {
    return this.#owners.get(channel);
  }

  /** A channel is over. */
  free(channel: number): void {
    this.#owners.delete(channel);
  }

  /** All of an owner's channels are over. */
  freeAll(owner: Owner): void {
    for (const [channel, other] of this.#owners) if (other === owner) this.#owners.delete(channel);
  }

  /** The connection is gone, and all channels with it. */
  clear(): void {
    this.#owners.clear();
  }
}
