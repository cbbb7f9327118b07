// The dialog that lists a project's recordings, and what is done with one. Knows not how one is played.

import { bytesText, clockText } from "./amounts";
import { beganAt, beganText, lengthS, type Recording, type Recordings } from "./recordings";

/** What the dialog asks and tells. */
export interface ShelfEvents {
  /** What a session is called. */
  label(session: string): string;
  /** The session that is shown. */
  session(): string | undefined;
  play(recording: Recording): void;
  /** Whether to go on with what can't be undone. */
  confirmed(question: string, verb: string): Promise<boolean>;
  /** The dialog is gone. */
  closed(): void;
}

// One recording's elements.
interface Drawn {
  readonly item: HTMLElement;
  readonly facts: HTMLElement;
  readonly now: HTMLElement;
  readonly play: HTMLButtonElement;
}

/** The dialog of recordings. */
export class Shelf {
  readonly #dialog: HTMLDialogElement;
  readonly #list: HTMLElement;
  readonly #reason: HTMLElement;
  readonly #none: HTMLElement;
  readonly #record: HTMLButtonElement;
  readonly #recordings: Recordings;
  readonly #view: boolean;
  readonly #events: ShelfEvents;
  readonly #drawn = new Map<string, Drawn>();
  #known = false;

  constructor(dialog: HTMLDialogElement, recordings: Recordings, view: boolean, events: ShelfEvents) {
    this.#dialog = dialog;
    this.#list = dialog.querySelector("ul")!;
    this.#reason = dialog.querySelector(".reason")!;
    this.#none = dialog.querySelector(".none")!;
    this.#record = dialog.querySelector(".record")!;
    this.#recordings = recordings;
    this.#view = view;
    this.#events = events;
    this.#record.hidden = view;
    this.#record.onclick = () => void this.#try(this.#record, () => this.toggle());
    dialog.querySelector<HTMLButtonElement>(".close")!.onclick = () => dialog.close();
    dialog.onclose = () => events.closed();
  }

  /** Opens it, with what there is now. */
  async open(): Promise<void> {
    if (this.#dialog.open) return;
    this.#known = false;
    this.draw();
    this.#dialog.showModal();
    await this.#try(undefined, () => this.#recordings.refresh());
    if (this.#dialog.contains(document.activeElement)) this.#dialog.querySelector<HTMLElement>("ul button, .record:not([hidden])")?.focus();
  }

  /** Records the session that is shown, or ends that. */
  async toggle(): Promise<void> {
    const session = this.#events.session();
    if (session === undefined) return;
    if (this.#recordings.has(session)) await this.#recordings.stop(session);
    else await this.#recordings.record(session);
  }

  /** Draws what is there. What stays keeps its elements: one of them may have the keyboard. */
  draw(): void {
    const { all } = this.#recordings;
    for (const [name, { item }] of this.#drawn) {
      if (all.some((one) => one.name === name)) continue;
      const heir = item.contains(document.activeElement) ? (item.nextElementSibling ?? item.previousElementSibling) : undefined;
      item.remove();
      this.#drawn.delete(name);
      if (heir !== undefined) (heir?.querySelector("button") ?? this.#dialog.querySelector<HTMLElement>(".close")!).focus();
    }
    all.forEach((recording, at) => {
      const drawn = this.#drawn.get(recording.name) ?? this.#make(recording);
      this.#update(recording, drawn);
      if (this.#list.children[at] !== drawn.item) this.#list.insertBefore(drawn.item, this.#list.children[at] ?? null);
    });
    this.#none.hidden = all.length > 0 || !this.#known;
    const session = this.#events.session();
    this.#record.disabled = session === undefined;
    const verb = session !== undefined && this.#recordings.has(session) ? "Stop recording" : "Start recording";
    this.#record.textContent = session === undefined ? "Start recording" : `${verb} “${this.#events.label(session)}”`;
  }

  #make(recording: Recording): Drawn {
    const { name, session } = recording;
    const item = document.createElement("li");
    const time = Object.assign(document.createElement("time"), { dateTime: beganAt(name)?.toISOString() ?? "", textContent: beganText(name) });
    const label = this.#events.label(session);
    const [what, facts, now] = [make("p", label), make("p", ""), make("span", "recording now")];
    [what.className, facts.className, now.className] = ["what", "facts", "now"];
    what.title = name;
    const about = `${label}, ${time.textContent}`;
    const play = button("Play", about, () => this.#events.play(recording));
    const download = button("Download", about, () => void this.#try(download, () => this.#download(name)));
    const remove = button("Delete", about, () => void this.#try(remove, () => this.#remove(recording, about)));
    remove.hidden = this.#view;
    const row = make("div", "");
    row.className = "row";
    row.append(play, download, remove);
    what.append(" ", now);
    facts.append(time, make("span", ""));
    item.append(what, facts, row);
    const drawn = { item, facts: facts.lastElementChild as HTMLElement, now, play };
    this.#drawn.set(name, drawn);
    return drawn;
  }

  #update(recording: Recording, { facts, now, play }: Drawn): void {
    const told = ` · ${clockText(lengthS(recording))} · ${bytesText(recording.bytes)}`;
    if (facts.textContent !== told) facts.textContent = told;
    now.hidden = !recording.recording;
    play.onclick = () => this.#events.play(recording);
  }

  async #remove({ name }: Recording, about: string): Promise<void> {
    if (await this.#events.confirmed(`Delete the recording of ${about}?`, "Delete it")) await this.#recordings.remove(name);
  }

  // Through memory: a link to the file would need the token in its address, and the browser would keep that.
  async #download(name: string): Promise<void> {
    const file = await (await this.#recordings.read(name, new AbortController().signal)).blob();
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: name });
    link.click();
    // Once the browser has begun to read it.
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  // Does something with the server, and says why if it can't be done.
  async #try(pressed: HTMLButtonElement | undefined, act: () => Promise<void>): Promise<void> {
    this.#reason.hidden = true;
    pressed?.classList.add("busy");
    try {
      await act();
      this.#known = true;
    } catch (error) {
      this.#reason.textContent = error instanceof Error ? error.message : String(error);
      this.#reason.hidden = false;
    } finally {
      pressed?.classList.remove("busy");
      this.draw();
    }
  }
}

function make(name: string, text: string): HTMLElement {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

function button(text: string, about: string, pressed: () => void): HTMLButtonElement {
  const made = make("button", text) as HTMLButtonElement;
  made.type = "button";
  made.setAttribute("aria-label", `${text} ${about}`);
  made.onclick = pressed;
  return made;
}
