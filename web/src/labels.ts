// What people call a project's sessions, as the server last said. Knows no tab.

/** A project's labels. */
export class Labels {
  #all: ReadonlyMap<string, string> = new Map();

  /** A session's label, if it has one. */
  of(session: string): string | undefined {
    return this.#all.get(session);
  }

  /** Takes note of all there are. */
  take(labels: Readonly<Record<string, string>>): void {
    this.#all = new Map(Object.entries(labels));
  }
}
