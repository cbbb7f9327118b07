// Which keys are the page's and not the program's: none that a shell or an editor uses. Pure.

/** What a key does. */
export type Action =
  | { readonly kind: "search" | "copy" | "add" | "menu" | "leave" | "next" | "previous" }
  | { readonly kind: "tab"; readonly index: number }
  | { readonly kind: "zoom"; readonly steps: -1 | 0 | 1 };

/** The keys as they are told to people. */
export const SHORTCUTS: readonly (readonly [string, string])[] = [
  ["Ctrl+Shift+F", "search"],
  ["Ctrl+Shift+C, V", "copy, paste"],
  ["Ctrl + − 0", "font size"],
  ["Ctrl+Shift+Enter", "new session"],
  ["Alt+1 … 9", "a session, if there are several"],
  ["Alt+Page Up, Down", "the one before, the next"],
  ["F2 on a tab", "rename"],
  ["Ctrl+Shift+,", "this menu"],
  ["Ctrl+Shift+.", "to what is asked, or to the tabs"],
];

type Key = Pick<KeyboardEvent, "ctrlKey" | "shiftKey" | "altKey" | "metaKey" | "key" | "code">;

/** What the page does with a key pressed, if anything; `tabs` counts them, for with one there is nothing to choose. */
export function actionOf(key: Key, tabs: number, mac: boolean): Action | undefined {
  if (key.altKey) return key.ctrlKey || key.metaKey || key.shiftKey || tabs < 2 ? undefined : byAlt(key);
  const command = mac && key.metaKey && !key.ctrlKey;
  if (!command && (!key.ctrlKey || key.metaKey)) return undefined;
  const zoomed = zoomOf(key);
  if (zoomed !== undefined) return { kind: "zoom", steps: zoomed };
  if (command) return key.code === "KeyF" && !key.shiftKey ? { kind: "search" } : undefined;
  if (!key.shiftKey) return undefined;
  switch (key.code) {
    case "KeyF":
      return { kind: "search" };
    case "KeyC":
      return { kind: "copy" };
    case "Enter":
      return { kind: "add" };
    case "Comma":
      return { kind: "menu" };
    case "Period":
      return { kind: "leave" };
    default:
      return undefined;
  }
}

function byAlt(key: Key): Action | undefined {
  const digit = /^Digit([1-9])$/.exec(key.code)?.[1];
  if (digit !== undefined) return { kind: "tab", index: Number(digit) - 1 };
  if (key.code === "PageUp") return { kind: "previous" };
  if (key.code === "PageDown") return { kind: "next" };
  return undefined;
}

// By what is printed on the key, wherever it is; ^_ is the program's and on many keyboards has Shift.
function zoomOf(key: Key): -1 | 0 | 1 | undefined {
  if (key.key === "+" || key.key === "=") return 1;
  if (key.key === "-" && !key.shiftKey) return -1;
  if (key.key === "0" && !key.shiftKey) return 0;
  return undefined;
}
