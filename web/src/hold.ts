// The hold on a session: attached, and again after every loss, with nothing shown twice and nothing typed twice. Knows
// frames, not sockets, and of the terminal only that it takes output.

import type { Terminal } from "@xterm/xterm";

import { leads, type Company } from "./company";
import { Input } from "./input";
import type { Link, Rider } from "./link";
import { Output } from "./output";
import { oneLine } from "./server";
import { ackFrame, answerFrame, inputFrame, type Bytes, type ChannelTell, type Frame, type Role, type Size } from "./wire";

/** How a hold is. */
export type HoldState =
  /** There is no link, or the server hasn't answered yet. */
  | { readonly kind: "coming" }
  | { readonly kind: "there" }
  /** The session ended, with status 0 if `well`. */
  | { readonly kind: "ended"; readonly reason: string; readonly well: boolean }
  | { readonly kind: "refused"; readonly reason: string };

/** What a hold asks and tells. */
export interface HoldEvents {
  /** Whether someone looks at the page. */
  seen(): boolean;
  state(state: HoldState): void;
  company(company: Company | undefined): void;
  /** What the session's program calls itself. */
  title(title: string): void;
  cwd(folder: string): void;
  bell(): void;
  /** Output came. */
  output(): void;
  /** Something that was typed before a loss may not have arrived. */
  doubt(): void;
}

/** What a hold needs of a link. */
export type Ride = Pick<Link, "sessions" | "join" | "leave" | "channel" | "free" | "ask" | "send">;

/** One page's hold on one session. */
export class Hold implements Rider {
  readonly session: string;
  readonly role: Role;
  readonly #link: Ride;
  readonly #events: HoldEvents;
  readonly #input = new Input();
  readonly #output: Output;
  // Of this page and this hold alone: a copied tab, or the page before a reload, counts its own input.
  #client = randomHex();
  #size: Size;
  #state: HoldState = { kind: "coming" };
  #company: Company | undefined;
  #channel: number | undefined;
  #life: string | undefined;
  #resumes = false;
  #online = false;
  #asleep = false;

  constructor(session: string, role: Role, size: Size, link: Ride, terminal: Pick<Terminal, "write" | "resize">, events: HoldEvents) {
    this.session = session;
    this.role = role;
    this.#size = size;
    this.#link = link;
    this.#events = events;
    this.#output = new Output(terminal, {
      ack: (offset) => this.#attached((channel) => link.send(ackFrame(channel, offset))),
      seen: () => events.seen(),
      overrun: () => this.#sleep(),
    });
  }

  /** Begins to hold. */
  open(): void {
    this.#link.join(this);
  }

  /** How the hold is. */
  get state(): HoldState {
    return this.#state;
  }

  /** Who else is there. */
  get company(): Company | undefined {
    return this.#company;
  }

  /** Whether the terminal just shows what was said before. */
  get painting(): boolean {
    return this.#output.painting;
  }

  /** Bytes typed that haven't arrived. */
  get waiting(): number {
    return this.#input.waiting;
  }

  /** Types: now, or once the hold is there again. False if the bytes were not taken. */
  type(bytes: Bytes): boolean {
    if (this.role === "viewer" || (this.#state.kind !== "there" && this.#state.kind !== "coming")) return false;
    if (!this.#input.push(bytes)) return false;
    this.#flush();
    return true;
  }

  /** Passes on what the terminal says of itself, which only the leader's may. */
  answer(bytes: Bytes): void {
    if (leads(this.#company) && !this.#output.painting) this.#attached((channel) => this.#link.send(answerFrame(channel, bytes)));
  }

  /** The size this client would have. */
  resize(size: Size): void {
    if (size.cols === this.#size.cols && size.rows === this.#size.rows) return;
    this.#size = size;
    if (this.#channel !== undefined) this.#link.ask({ type: "resize", channel: this.#channel, ...size });
  }

  /** Someone looks again. */
  look(): void {
    if (!this.#asleep) return;
    this.#asleep = false;
    this.#return();
  }

  /** After an end or a refusal: tries once more, which starts the session. Says whether there was anything to try. */
  again(): boolean {
    if (this.#state.kind !== "ended" && this.#state.kind !== "refused") return false;
    this.#become({ kind: "coming" });
    this.#attach();
    return true;
  }

  /** Lets go; the session goes on. */
  release(): void {
    this.#letGo();
    this.#link.leave(this);
  }

  opened(): void {
    this.#online = true;
    if (this.#state.kind === "coming") this.#return();
  }

  closed(broken: boolean): void {
    this.#online = false;
    this.#channel = undefined;
    this.#gather(undefined);
    // What the server and this client think of each other differs: begins from nothing.
    if (broken) {
      this.#life = undefined;
      this.#client = randomHex();
      if (this.#input.waiting > 0) this.#events.doubt();
      this.#input.restart(0);
    }
    if (this.#state.kind === "there") this.#become({ kind: "coming" });
  }

  told(tell: ChannelTell): void {
    switch (tell.type) {
      case "attached":
        return this.#begin(tell.life, tell.typed, tell);
      case "refused":
        if (this.#input.waiting > 0) this.#events.doubt();
        return this.#end({ kind: "refused", reason: oneLine(tell.message) || "the server refuses" });
      case "reset":
        return this.#output.reset(tell);
      case "painted":
        return this.#output.painted(tell.offset);
      case "resized":
        return this.#output.resized(tell);
      case "clients":
        return this.#gather(tell);
      case "title":
        return this.#events.title(tell.title);
      case "cwd":
        return this.#events.cwd(tell.cwd);
      case "bell":
        return this.#events.bell();
      case "exited":
        return this.#end({ kind: "ended", reason: exitOf(tell), well: tell.code === 0 });
      case "lost":
        return this.#end({ kind: "ended", reason: oneLine(tell.message) || "the cell ended", well: false });
    }
  }

  frame(frame: Frame): void {
    switch (frame.kind) {
      case "output":
        if (!this.#output.write(frame.offset, frame.bytes)) return this.#mend();
        return this.#events.output();
      case "picture":
        return this.#output.picture(frame.bytes);
      case "typed":
        this.#input.arrived(frame.seq);
        return this.#flush();
    }
  }

  // Attaches again, unless the shell ended meanwhile: it isn't followed by another one unasked.
  #return(): void {
    const gone = this.#online && this.#life !== undefined && !this.#link.sessions.includes(this.session);
    if (gone) this.#end({ kind: "ended", reason: "ended while away", well: false });
    else this.#attach();
  }

  #attach(): void {
    if (!this.#online || this.#asleep || this.#channel !== undefined) return;
    const channel = this.#link.channel(this);
    if (channel === undefined) return this.#become({ kind: "refused", reason: "this page has too many sessions open" });
    this.#channel = channel;
    const [life, offset] = [this.#life, this.#output.offset];
    this.#resumes = life !== undefined && offset !== undefined;
    const resume = life !== undefined && offset !== undefined ? { resume: { life, offset } } : {};
    this.#link.ask({ type: "attach", channel, session: this.session, client: this.#client, role: this.role, ...this.#size, ...resume });
  }

  #begin(life: string, typed: number, size: Size): void {
    const same = life === this.#life;
    const known = this.#life !== undefined;
    this.#life = life;
    if (same && this.#resumes) {
      this.#output.resume();
      this.#output.resized(size);
    } else this.#output.begin(size);
    if (known && !same) {
      // It was typed for a program that is no more.
      if (this.#input.waiting > 0) this.#events.doubt();
      this.#input.restart(typed);
    } else if (!this.#input.again(typed)) this.#events.doubt();
    this.#become({ kind: "there" });
    this.#flush();
  }

  #flush(): void {
    if (this.#state.kind !== "there" || this.#channel === undefined) return;
    for (const { seq, bytes } of this.#input.take()) this.#link.send(inputFrame(this.#channel, seq, bytes));
  }

  // Output that isn't what comes next: a snapshot makes it good.
  #mend(): void {
    this.#letGo();
    this.#output.forget();
    this.#attach();
  }

  #sleep(): void {
    this.#asleep = true;
    this.#letGo();
  }

  #letGo(): void {
    if (this.#channel === undefined) return;
    this.#link.ask({ type: "detach", channel: this.#channel });
    this.#link.free(this.#channel);
    this.#channel = undefined;
    this.#gather(undefined);
    if (this.#state.kind === "there") this.#become({ kind: "coming" });
  }

  #end(state: HoldState): void {
    if (this.#channel !== undefined) this.#link.free(this.#channel);
    this.#channel = undefined;
    this.#life = undefined;
    this.#input.restart(0);
    this.#gather(undefined);
    this.#become(state);
  }

  #attached(send: (channel: number) => void): void {
    if (this.#channel !== undefined && this.#state.kind === "there") send(this.#channel);
  }

  #gather(company: Company | undefined): void {
    this.#company = company;
    this.#events.company(company);
  }

  #become(state: HoldState): void {
    this.#state = state;
    this.#events.state(state);
  }
}

function exitOf(exit: { readonly code?: number; readonly signal?: number }): string {
  return exit.signal === undefined ? `exited with status ${exit.code ?? "unknown"}` : `killed by signal ${exit.signal}`;
}

function randomHex(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
