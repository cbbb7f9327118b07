// What the page's address names: a project and one of its sessions. Knows neither network nor token.

/** A session of a project. */
export interface Place {
  readonly project: string;
  readonly session: string;
}

const PROJECT_DEFAULT = "demo";

// The session that all clients of a project share unless they ask for another.
const SESSION_DEFAULT = "main";

// The server's rules. Checked here too because both become parts of paths, where `..` would name something else.
const PROJECT = /^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$/;
const SESSION = /^[A-Za-z0-9_-]{1,40}$/;

/** Reads `/p/<project>` or `?project=`, and `&session=`; undefined if these can't be names. */
export function placeOf(address: URL): Place | undefined {
  const query = address.searchParams;
  const named = /^\/p\/([^/]+)\/?$/.exec(address.pathname)?.[1];
  const project = named ?? (query.get("project") || PROJECT_DEFAULT);
  const session = query.get("session") || SESSION_DEFAULT;
  return PROJECT.test(project) && SESSION.test(session) ? { project, session } : undefined;
}
