// What the page's address names: a project, one of its sessions, and whether to see only. Knows neither network nor token.

/** A session of a project, and what its page is for. */
export interface Place {
  readonly project: string;
  readonly session: string;
  /** To see, not to type. */
  readonly view: boolean;
}

/** The session that all clients of a project share unless they ask for another. */
export const SESSION_DEFAULT = "main";

const PROJECT_DEFAULT = "demo";

// The server's rules. Checked here too because a project becomes part of a path, where `..` would name something else.
const PROJECT = /^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$/;
const SESSION = /^[A-Za-z0-9_-]{1,40}$/;

/** Reads `/p/<project>` or `?project=`, `&session=` and `&view=1`; undefined if these can't be names. */
export function placeOf(address: URL): Place | undefined {
  const query = address.searchParams;
  const named = /^\/p\/([^/]+)\/?$/.exec(address.pathname)?.[1];
  const project = named ?? (query.get("project") || PROJECT_DEFAULT);
  const session = query.get("session") || SESSION_DEFAULT;
  const view = query.get("view") === "1";
  return PROJECT.test(project) && SESSION.test(session) ? { project, session, view } : undefined;
}

/** The same address for another session. */
export function addressFor(address: URL, session: string): string {
  const next = new URL(address);
  if (session === SESSION_DEFAULT) next.searchParams.delete("session");
  else next.searchParams.set("session", session);
  return next.pathname + next.search;
}
