// The bar with a tab for each session, there only when there are several. Knows tabs, not what is in them.

import type { Labels } from "./labels";
import type { Recordings } from "./recordings";
import type { Tab } from "./tab";
import type { Tabs } from "./tabs";
import { LABEL_CHARACTERS_MAX } from "./wire";

/** What a person does with the bar. */
export interface BarEvents {
  show(tab: Tab): void;
  close(tab: Tab): void;
  add(): void;
  /** The bar came or went, and with it room for the terminal. */
  room(): void;
  /** A session is to be called something else, or what it was if this is empty. */
  label(tab: Tab, label: string): void;
  /** A name that was being written isn't any more. */
  written(): void;
  /** The keyboard goes back to the terminal. */
  left(): void;
}

// One tab's elements.
interface Drawn {
  readonly box: HTMLElement;
  readonly name: HTMLButtonElement;
  readonly close: HTMLButtonElement;
}

/** The tab bar. */
export class Bar {
  readonly #bar: HTMLElement;
  readonly #list: HTMLElement;
  readonly #tabs: Tabs;
  readonly #labels: Labels;
  readonly #recordings: Pick<Recordings, "has">;
  readonly #events: BarEvents;
  readonly #writable: boolean;
  readonly #drawn = new Map<Tab, Drawn>();
  readonly #wasShown = new WeakSet<Tab>();
  #renaming = false;

  constructor(bar: HTMLElement, tabs: Tabs, labels: Labels, recordings: Pick<Recordings, "has">, view: boolean, events: BarEvents) {
    this.#bar = bar;
    this.#list = bar.querySelector("[role=tablist]")!;
    this.#tabs = tabs;
    this.#labels = labels;
    this.#recordings = recordings;
    this.#events = events;
    this.#writable = !view;
    const add = bar.querySelector<HTMLButtonElement>(".add")!;
    add.hidden = view;
    add.onclick = () => events.add();
    this.#list.onkeydown = (event) => this.#key(event);
  }

  /** Draws the tabs as they are. What stays keeps its elements: a click may be under way. */
  draw(): void {
    // A name that is being written isn't drawn over.
    if (this.#renaming) return;
    const all = this.#tabs.all;
    for (const [tab, drawn] of this.#drawn) {
      if (all.includes(tab)) continue;
      drawn.box.remove();
      this.#drawn.delete(tab);
    }
    all.forEach((tab, at) => {
      const drawn = this.#drawn.get(tab) ?? this.#make(tab);
      this.#update(tab, drawn);
      if (this.#list.children[at] !== drawn.box) this.#list.insertBefore(drawn.box, this.#list.children[at] ?? null);
    });
    const wasHidden = this.#bar.hidden;
    this.#bar.hidden = all.length < 2;
    document.documentElement.classList.toggle("barred", all.length > 1);
    if (wasHidden !== this.#bar.hidden) this.#events.room();
  }

  /** Takes the keyboard. */
  focus(): void {
    this.#list.querySelector<HTMLElement>("[aria-selected=true]")?.focus();
  }

  #make(tab: Tab): Drawn {
    const box = element("div", "tab");
    box.setAttribute("role", "presentation");
    const name = element("button", "name");
    name.type = "button";
    name.setAttribute("role", "tab");
    name.setAttribute("aria-controls", "stage");
    name.onclick = () => this.#events.show(tab);
    name.onauxclick = (event) => {
      if (event.button === 1 && this.#writable) this.#events.close(tab);
    };
    name.ondblclick = () => this.#rename(tab, name);
    const close = element("button", "close");
    close.type = "button";
    close.textContent = "×";
    close.tabIndex = -1;
    close.hidden = !this.#writable;
    close.onclick = () => this.#events.close(tab);
    box.append(name, close);
    const drawn = { box, name, close };
    this.#drawn.set(tab, drawn);
    return drawn;
  }

  #update(tab: Tab, { box, name, close }: Drawn): void {
    const shown = tab === this.#tabs.shown;
    const label = this.#labels.of(tab.session) ?? tab.title;
    const news = { none: "", output: ", new output", bell: ", bell" }[tab.news];
    const recorded = this.#recordings.has(tab.session);
    box.classList.toggle("shown", shown);
    box.classList.toggle("recorded", recorded);
    box.dataset["news"] = tab.news;
    box.dataset["state"] = tab.state?.kind ?? "none";
    if (name.textContent !== label) name.textContent = label;
    name.setAttribute("aria-selected", String(shown));
    name.setAttribute("aria-label", `${label}${recorded ? ", recorded" : ""}${news}`);
    name.tabIndex = shown ? 0 : -1;
    name.title = [tab.session, tab.title, tab.cwd].filter((part, at, parts) => part !== "" && parts.indexOf(part) === at).join(" · ");
    close.setAttribute("aria-label", `Close ${label}`);
    if (shown && !this.#wasShown.has(tab)) box.scrollIntoView({ block: "nearest", inline: "nearest" });
    if (shown) this.#wasShown.add(tab);
    else this.#wasShown.delete(tab);
  }

  #key(event: KeyboardEvent): void {
    const tab = this.#tabs.shown;
    if (this.#renaming || tab === undefined) return;
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") this.#step(event.key === "ArrowLeft" ? -1 : 1);
    else if (event.key === "F2") this.#rename(tab, this.#list.querySelector("[aria-selected=true]")!);
    else if (event.key === "Escape") this.#events.left();
    else if (event.key === "Delete" && this.#writable) this.#events.close(tab);
    else return;
    event.preventDefault();
  }

  #step(steps: 1 | -1): void {
    this.#tabs.turn(steps);
    this.focus();
  }

  #rename(tab: Tab, button: HTMLElement): void {
    if (!this.#writable) return;
    const input = element("input", "rename");
    input.value = this.#labels.of(tab.session) ?? "";
    input.placeholder = tab.title;
    input.maxLength = LABEL_CHARACTERS_MAX;
    input.setAttribute("aria-label", `Name for ${tab.session}`);
    const done = (keep: boolean) => {
      if (!this.#renaming) return;
      this.#renaming = false;
      input.replaceWith(button);
      const label = input.value.trim();
      if (keep && label !== (this.#labels.of(tab.session) ?? "")) this.#events.label(tab, label);
      this.#events.written();
      this.#events.left();
    };
    input.onkeydown = (event) => {
      event.stopPropagation();
      if (event.key === "Enter" || event.key === "Escape") done(event.key === "Enter");
    };
    input.onblur = () => done(true);
    this.#renaming = true;
    button.replaceWith(input);
    input.select();
  }
}

function element<Name extends keyof HTMLElementTagNameMap>(name: Name, className: string): HTMLElementTagNameMap[Name] {
  const made = document.createElement(name);
  made.className = className;
  return made;
}
