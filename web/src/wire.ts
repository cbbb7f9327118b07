// The frames of `cloister.v1` as docs/protocol.md has them. Knows no socket, and not what a frame does.

/** The subprotocol's name. */
export const PROTOCOL = "cloister.v1";

/** A terminal's size in cells. */
export interface Size {
  readonly cols: number;
  readonly rows: number;
}

/** The server takes sizes up to this in both directions. */
export const CELLS_MAX = 2000;

/** What a client may do in a session: see, type and size, or see only. */
export type Role = "writer" | "viewer";

/** Up to where a client has everything, and of which session of this name. */
export interface Resume {
  readonly life: string;
  readonly offset: number;
}

/** Client to server, as JSON. */
export type Ask =
  | ({ readonly type: "attach"; readonly channel: number; readonly session: string; readonly client: string } & Size & {
        readonly role: Role;
        readonly resume?: Resume;
      })
  | ({ readonly type: "resize"; readonly channel: number } & Size)
  | { readonly type: "detach"; readonly channel: number }
  | { readonly type: "label"; readonly session: string; readonly label: string }
  | { readonly type: "close"; readonly session: string }
  | { readonly type: "ping"; readonly id: number };

/** Somebody who is attached to a session. */
export interface Member extends Partial<Size> {
  readonly id: number;
  readonly role: Role;
}

/** Server to client, as JSON, about one channel. */
export type ChannelTell =
  | ({ readonly type: "attached"; readonly life: string; readonly typed: number; readonly started: boolean } & Size)
  | { readonly type: "refused" | "lost"; readonly message: string }
  | ({ readonly type: "reset" | "resized" } & Size)
  | { readonly type: "painted"; readonly offset: number }
  | { readonly type: "clients"; readonly you: number; readonly leader: number | null; readonly clients: readonly Member[] }
  | { readonly type: "title"; readonly title: string }
  | { readonly type: "cwd"; readonly cwd: string }
  | { readonly type: "bell" }
  | { readonly type: "exited"; readonly code?: number; readonly signal?: number };

/** Server to client, as JSON. */
export type Tell =
  | { readonly type: "hello"; readonly version: string; readonly project: string }
  | { readonly type: "sessions"; readonly sessions: readonly string[]; readonly labels?: Readonly<Record<string, string>> }
  | { readonly type: "out_of_memory"; readonly kills: number; readonly limit_bytes: number; readonly victim?: string }
  | { readonly type: "out_of_pids"; readonly refusals: number; readonly limit: number }
  | { readonly type: "out_of_disk"; readonly times: number; readonly limit_bytes: number }
  | { readonly type: "frozen"; readonly since: number }
  | { readonly type: "thawed" }
  | { readonly type: "idle_stop"; readonly idle_s: number }
  | { readonly type: "pong"; readonly id: number }
  | ({ readonly channel: number } & ChannelTell);

/** Longest label of a session in characters. */
export const LABEL_CHARACTERS_MAX = 60;

/** The payload of a frame. */
export type Bytes = Uint8Array<ArrayBuffer>;

/** Server to client, binary. */
export type Frame =
  | { readonly kind: "output"; readonly channel: number; readonly offset: number; readonly bytes: Bytes }
  | { readonly kind: "picture"; readonly channel: number; readonly bytes: Bytes }
  | { readonly kind: "typed"; readonly channel: number; readonly seq: number };

const INPUT = 1;
const ANSWER = 2;
const ACK = 3;
const OUTPUT = 0x81;
const PICTURE = 0x82;
const TYPED = 0x83;

// A type, a channel, and for most a number.
const HEAD_BYTES = 3;
const NUMBER_BYTES = 8;

/** Typed bytes, numbered. */
export function inputFrame(channel: number, seq: number, bytes: Bytes): Bytes {
  return frame(INPUT, channel, seq, bytes);
}

/** What a terminal answers by itself. */
export function answerFrame(channel: number, bytes: Bytes): Bytes {
  return frame(ANSWER, channel, undefined, bytes);
}

/** Everything before this offset is parsed. */
export function ackFrame(channel: number, offset: number): Bytes {
  return frame(ACK, channel, offset, undefined);
}

/** Reads a binary message; undefined if it is of a kind that only later servers send. */
export function readFrame(message: ArrayBuffer): Frame | undefined {
  const view = new DataView(message);
  const channel = view.getUint16(1, true);
  // Offsets are u64; a session would have to write for a century to leave what a number holds exactly.
  const number = () => Number(view.getBigUint64(HEAD_BYTES, true));
  switch (view.getUint8(0)) {
    case OUTPUT:
      return { kind: "output", channel, offset: number(), bytes: new Uint8Array(message, HEAD_BYTES + NUMBER_BYTES) };
    case PICTURE:
      return { kind: "picture", channel, bytes: new Uint8Array(message, HEAD_BYTES) };
    case TYPED:
      return { kind: "typed", channel, seq: number() };
    default:
      return undefined;
  }
}

function frame(kind: number, channel: number, number: number | undefined, bytes: Bytes | undefined): Bytes {
  const head = HEAD_BYTES + (number === undefined ? 0 : NUMBER_BYTES);
  const whole = new Uint8Array(head + (bytes?.length ?? 0));
  const view = new DataView(whole.buffer);
  view.setUint8(0, kind);
  view.setUint16(1, channel, true);
  if (number !== undefined) view.setBigUint64(HEAD_BYTES, BigInt(number), true);
  if (bytes !== undefined) whole.set(bytes, head);
  return whole;
}
