// The tabs of a page: which there are, and which is shown. Knows no element.

import { nameBeside } from "./names";
import { Tab, type Desk } from "./tab";

/** The list of tabs, in the order they came. */
export class Tabs {
  readonly #desk: Desk;
  readonly #changed: () => void;
  #all: Tab[] = [];
  #shown: Tab | undefined;

  /** `changed` is called when there are others, or another one is shown. */
  constructor(desk: Desk, changed: () => void) {
    this.#desk = desk;
    this.#changed = changed;
  }

  /** All tabs. */
  get all(): readonly Tab[] {
    return this.#all;
  }

  /** The tab that is shown. */
  get shown(): Tab | undefined {
    return this.#shown;
  }

  /** Shows a session's tab, made if there is none. */
  show(session: string): void {
    let tab = this.#all.find((tab) => tab.session === session);
    if (tab === undefined) this.#all.push((tab = new Tab(session, this.#desk)));
    if (tab === this.#shown) return tab.focus();
    this.#shown?.hide();
    this.#shown = tab;
    // First what is around it, so that the terminal starts with the size it will have.
    this.#changed();
    tab.show();
  }

  /** Shows the tab at a place, if there is one. */
  showAt(index: number): void {
    const tab = this.#all[index];
    if (tab !== undefined) this.show(tab.session);
  }

  /** Shows the next tab, or the one before. */
  turn(steps: 1 | -1): void {
    const at = this.#all.findIndex((tab) => tab === this.#shown);
    this.showAt((at + steps + this.#all.length) % this.#all.length);
  }

  /** Starts another session and shows it. */
  add(): void {
    this.show(nameBeside(this.#all.map((tab) => tab.session)));
  }

  /** These run: those that nobody opened here are offered, those that are gone are not. */
  sync(sessions: readonly string[]): void {
    const known = new Set(this.#all.map((tab) => tab.session));
    const kept = this.#all.filter((tab) => tab.state !== undefined || sessions.includes(tab.session));
    this.#all = [...kept, ...sessions.filter((name) => !known.has(name)).map((name) => new Tab(name, this.#desk))];
    this.#changed();
  }

  /** Takes a tab away; the last one stays. */
  remove(tab: Tab): void {
    const at = this.#all.indexOf(tab);
    if (at < 0 || this.#all.length === 1) return;
    if (tab === this.#shown) this.show(this.#all[at === 0 ? 1 : at - 1]!.session);
    this.#all.splice(at, 1);
    tab.close();
    this.#changed();
  }
}
