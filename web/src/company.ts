// Who is attached to a session, and how that is told. Pure.

import type { Member } from "./wire";

/** Who holds a session. */
export interface Company {
  readonly you: number;
  readonly leader: number | null;
  readonly clients: readonly Member[];
}

/** Whether the session follows this client's size and hears its terminal's answers. */
export function leads(company: Company | undefined): boolean {
  return company !== undefined && company.leader === company.you;
}

/** Who is there in a few words, nothing while that is only oneself. */
export function companyOf(company: Company | undefined, view: boolean): string {
  const count = company?.clients.length ?? 1;
  const role = view ? "view only" : leads(company) ? "you lead" : "you watch";
  if (count > 1) return `${count} here · ${role}`;
  return view ? role : "";
}

/** Who is there, one line each. */
export function peopleOf(company: Company | undefined): string[] {
  if (company === undefined) return [];
  return company.clients.map(({ id, role, cols, rows }) => {
    const marks = [id === company.you && "you", id === company.leader && "leads", role === "viewer" && "views"].filter(Boolean);
    const size = cols === undefined || rows === undefined ? "" : ` ${cols} × ${rows}`;
    return `Client ${id}${size}${marks.length > 0 ? ` (${marks.join(", ")})` : ""}`;
  });
}
