// What was typed and hasn't arrived yet: kept in order, numbered, and sent again when a connection is lost. Pure: knows no socket.

import type { Bytes } from "./wire";

// What may wait for a program that doesn't read, or for a connection: a large paste, not a runaway key.
const UNTYPED_BYTES_MAX = 1024 * 1024;

// What may be on its way. Small, since acknowledgements go the same way behind it, and a server stops to read while a
// program doesn't.
const AWAY_BYTES_MAX = 32 * 1024;

// Well below the server's limit on a message.
const PIECE_BYTES_MAX = 16 * 1024;

/** Input from one client into one life of a session. */
export class Input {
  #pieces: Bytes[] = [];
  // Numbers of the first byte kept, of the next to be sent, and of the next to be typed.
  #first = 0;
  #sent = 0;
  #end = 0;

  /** Bytes that haven't arrived. */
  get waiting(): number {
    return this.#end - this.#first;
  }

  /** Takes bytes, whole or not at all: false if too much is waiting. */
  push(bytes: Bytes): boolean {
    if (this.waiting + bytes.length > UNTYPED_BYTES_MAX) return false;
    for (let at = 0; at < bytes.length; at += PIECE_BYTES_MAX) this.#pieces.push(bytes.subarray(at, at + PIECE_BYTES_MAX));
    this.#end += bytes.length;
    return true;
  }

  /** What may be sent now, each piece once. */
  *take(): Generator<{ readonly seq: number; readonly bytes: Bytes }> {
    let at = this.#first;
    for (const piece of this.#pieces) {
      const [seq, end] = [at, at + piece.length];
      at = end;
      if (end <= this.#sent) continue;
      if (end - this.#first > AWAY_BYTES_MAX) return;
      this.#sent = end;
      yield { seq, bytes: piece };
    }
  }

  /** Everything before this number has arrived. */
  arrived(seq: number): void {
    if (seq > this.#sent) return;
    while (this.#first < seq) {
      const piece = this.#pieces[0]!;
      const gone = Math.min(piece.length, seq - this.#first);
      this.#first += gone;
      if (gone === piece.length) this.#pieces.shift();
      else this.#pieces[0] = piece.subarray(gone);
    }
  }

  /** A new connection, where everything before this number has arrived: the rest goes again. False if the server's count
   * can't be ours; then what was sent may or may not have been typed, so it is dropped. */
  again(typed: number): boolean {
    if (typed >= this.#first && typed <= this.#sent) {
      this.arrived(typed);
      this.#sent = typed;
      return true;
    }
    const sane = this.#sent === this.#first;
    this.arrived(this.#sent);
    this.#end += typed - this.#first;
    this.#first = typed;
    this.#sent = typed;
    return sane;
  }

  /** Another life of the session, which nobody has typed into but who typed this much: nothing waits any more. */
  restart(typed: number): void {
    this.#pieces = [];
    this.#first = this.#sent = this.#end = typed;
  }
}
