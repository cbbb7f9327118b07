// A session on the page: its pane and its hold, from the moment it is first shown. Knows neither the other tabs nor where it is drawn.
//
// A tab that was shown stays attached when another one is: its bell and title are heard, and it is there at once. What it
// costs is parsing, no drawing.

import { answersOf } from "./answers";
import { obeyClipboard } from "./clipboard";
import type { Company } from "./company";
import { Hold, type HoldState, type Ride } from "./hold";
import { Pane } from "./pane";
import { oneLine } from "./server";
import type { Settings } from "./settings";
import type { Theme } from "./themes";
import type { Role } from "./wire";

/** What all tabs share. */
export interface Desk {
  readonly stage: HTMLElement;
  readonly link: Ride;
  readonly role: Role;
  settings(): Settings;
  theme(): Theme;
  /** Enter was pressed: tries once more what is at its end. Says whether there was anything to try. */
  again(tab: Tab): boolean;
  /** Changes what is typed, by modifiers that are held down on the screen. */
  modified(data: string): string;
  /** Something about a tab changed. */
  changed(tab: Tab): void;
  /** A tab's session ended, or began. */
  state(tab: Tab, state: HoldState): void;
  rang(tab: Tab): void;
  /** A remark on what was typed. */
  remark(tab: Tab, text: string): void;
  /** A program wants to set the clipboard. */
  clip(tab: Tab, text: string): void;
}

// Several selections a second come from dragging; the last one counts.
const SELECTED_MS = 150;

/** One session's tab. */
export class Tab {
  readonly session: string;
  readonly #desk: Desk;
  #pane: Pane | undefined;
  #hold: Hold | undefined;
  #title = "";
  #cwd = "";
  #shown = false;
  #news: "none" | "output" | "bell" = "none";

  constructor(session: string, desk: Desk) {
    this.session = session;
    this.#desk = desk;
  }

  /** What the program calls itself; the session's name until then. */
  get title(): string {
    return this.#title || this.session;
  }

  /** The folder it is in, if known. */
  get cwd(): string {
    return this.#cwd;
  }

  /** What happened since it was last looked at. */
  get news(): "none" | "output" | "bell" {
    return this.#news;
  }

  /** How its hold is; undefined before it is first shown. */
  get state(): HoldState | undefined {
    return this.#hold?.state;
  }

  /** Who holds the session, if known. */
  get company(): Company | undefined {
    return this.#hold?.company;
  }

  /** Typed bytes that haven't arrived. */
  get waiting(): number {
    return this.#hold?.waiting ?? 0;
  }

  /** Its pane, once it was shown. */
  get pane(): Pane | undefined {
    return this.#pane;
  }

  /** Comes to the front. */
  show(): void {
    this.#shown = true;
    if (this.#pane === undefined) this.#open();
    else this.#pane.show();
    this.#seen();
    this.focus();
  }

  /** Another one comes to the front. */
  hide(): void {
    this.#shown = false;
    this.#pane?.hide();
  }

  /** Takes the keyboard. */
  focus(): void {
    this.#pane?.terminal.focus();
  }

  /** Someone looks at the page again. */
  look(): void {
    this.#hold?.look();
    if (this.#shown) this.#seen();
  }

  /** Takes settings and theme as they are now. */
  dress(): void {
    this.#pane?.dress(this.#desk.theme(), this.#desk.settings());
  }

  /** After an end or a refusal: tries once more. Says whether there was anything to try. */
  again(): boolean {
    return this.#hold?.again() ?? false;
  }

  /** Copies what is selected. Says whether anything is. */
  copy(): boolean {
    const text = this.#pane?.terminal.getSelection() ?? "";
    if (text !== "") void navigator.clipboard?.writeText(text).catch(() => undefined);
    return text !== "";
  }

  /** Lets go of the session and leaves the page. */
  close(): void {
    this.#hold?.release();
    this.#pane?.close();
  }

  #open(): void {
    const desk = this.#desk;
    const pane = new Pane(desk.stage, desk.theme(), desk.settings(), (size) => hold.resize(size));
    const { terminal } = pane;
    this.#pane = pane;
    const hold = new Hold(this.session, desk.role, pane.own, desk.link, terminal, {
      seen: () => !document.hidden,
      state: (state) => desk.state(this, state),
      company: () => desk.changed(this),
      title: (title) => this.#call(title),
      cwd: (folder) => (this.#cwd = oneLine(folder)),
      bell: () => this.#ring(),
      output: () => this.#notice("output"),
      doubt: () => desk.remark(this, "some of what was typed may not have arrived"),
    });
    this.#hold = hold;
    const isAnswer = answersOf(terminal);
    terminal.onData((data) => (isAnswer(data) ? hold.answer(encode(data)) : this.#typed(data)));
    terminal.onBinary((data) => this.#send(Uint8Array.from(data, (char) => char.charCodeAt(0))));
    terminal.onTitleChange((title) => this.#call(title));
    terminal.onBell(() => hold.painting || this.#ring());
    let selected: ReturnType<typeof setTimeout> | undefined;
    terminal.onSelectionChange(() => {
      clearTimeout(selected);
      if (desk.settings().copyOnSelect) selected = setTimeout(() => this.copy(), SELECTED_MS);
    });
    obeyClipboard(terminal, (text) => hold.painting || desk.clip(this, text));
    hold.open();
  }

  #typed(data: string): void {
    if (data === "\r" && this.#desk.again(this)) return;
    this.#send(encode(this.#desk.modified(data)));
  }

  #send(bytes: Uint8Array<ArrayBuffer>): void {
    const hold = this.#hold!;
    if (this.#desk.role === "viewer") return this.#desk.remark(this, "not typed: this page is to see only");
    if (hold.type(bytes)) {
      if (hold.state.kind === "coming") this.#desk.changed(this);
    } else if (hold.state.kind === "there") this.#desk.remark(this, "not typed: the program isn’t reading, and too much is waiting for it");
    else if (hold.state.kind === "coming") this.#desk.remark(this, "not typed: too much is waiting for the connection");
  }

  #call(title: string): void {
    const next = oneLine(title);
    if (next === this.#title) return;
    this.#title = next;
    this.#desk.changed(this);
  }

  #ring(): void {
    this.#notice("bell");
    this.#desk.rang(this);
  }

  #seen(): void {
    if (document.hidden) return;
    this.#news = "none";
    this.#desk.changed(this);
  }

  #notice(news: "output" | "bell"): void {
    if ((this.#shown && !document.hidden) || this.#news === news || this.#news === "bell") return;
    this.#news = news;
    this.#desk.changed(this);
  }
}

function encode(data: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(data);
}
