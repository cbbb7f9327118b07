// Names that a person gave to sessions, remembered by this browser for a project. Knows no tab.

/** A project's names. */
export class Labels {
  readonly #key: string;
  #names: Record<string, string>;

  constructor(project: string) {
    this.#key = `cloister.labels.${project}`;
    this.#names = stored(this.#key);
  }

  /** A session's name, if it was given one. */
  of(session: string): string | undefined {
    return Object.hasOwn(this.#names, session) ? this.#names[session] : undefined;
  }

  /** Names a session; the empty name takes it back. */
  set(session: string, label: string): void {
    const { [session]: _, ...others } = this.#names;
    this.#names = label === "" ? others : { ...others, [session]: label };
    try {
      localStorage.setItem(this.#key, JSON.stringify(this.#names));
    } catch {
      // Storage may be forbidden; then it lasts as long as the page.
    }
  }
}

function stored(key: string): Record<string, string> {
  try {
    const value: unknown = JSON.parse(localStorage.getItem(key) ?? "{}");
    if (typeof value !== "object" || value === null) return {};
    return Object.fromEntries(Object.entries(value).filter((entry): entry is [string, string] => typeof entry[1] === "string"));
  } catch {
    return {};
  }
}
