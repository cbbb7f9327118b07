// The owner's token: taken from the address once, then kept by this tab alone. Knows not what it opens.

const KEY = "cloister.token";

// Storage may be forbidden; then the token lives as long as the page.
let held: string | undefined;

/** The token this tab was given, now or before; one in the address is taken out of the address bar and the history. */
export function takeToken(): string | undefined {
  const address = new URL(location.href);
  const fragment = new URLSearchParams(address.hash.slice(1));
  const given = fragment.get("token") ?? address.searchParams.get("token");
  if (given === null) return held ?? stored();
  address.hash = "";
  address.searchParams.delete("token");
  history.replaceState(null, "", address.pathname + address.search);
  if (given !== "") keepToken(given);
  return held ?? stored();
}

/** Keeps a token for this tab: it survives a reload, not the tab. */
export function keepToken(token: string): void {
  held = token;
  try {
    sessionStorage.setItem(KEY, token);
  } catch {
    // Held in memory, see above.
  }
}

/** Forgets a token the server refused. */
export function forgetToken(): void {
  held = undefined;
  try {
    sessionStorage.removeItem(KEY);
  } catch {
    // It was never stored.
  }
}

function stored(): string | undefined {
  try {
    return sessionStorage.getItem(KEY) ?? undefined;
  } catch {
    return undefined;
  }
}
