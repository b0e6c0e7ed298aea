const tenantForm = /^[a-z0-9-]{1,40}$/;

/** A record key in its two parts: `tenant:session`, `tenant:name` (tool.catalog). */
export interface RecordKey {
  readonly tenant: string;
  readonly id: string;
}

/** Whether the text is a tenant's slug. A slug has no colon, so a key splits in one way only. */
export function isTenant(text: unknown): text is string {
  return typeof text === 'string' && tenantForm.test(text);
}

/** The key of every record of a session. It decides the partition, and so the order. */
export function sessionKey(tenant: string, sessionId: string): string {
  return `${tenant}:${sessionId}`;
}

/** The key of a tool's entry in the compacted tool.catalog. */
export function toolKey(tenant: string, tool: string): string {
  return `${tenant}:${tool}`;
}

/** The key of what is kept or asked for under an id of its own: a memory, a task, a request, a notification. */
export function idKey(tenant: string, id: string): string {
  return `${tenant}:${id}`;
}

/** The parts of a record key, or undefined when it has no valid tenant or nothing after it. */
export function parseKey(key: string): RecordKey | undefined {
  const colon = key.indexOf(':');
  const tenant = key.slice(0, Math.max(colon, 0));
  const id = key.slice(colon + 1);
  return isTenant(tenant) && id.length > 0 ? { tenant, id } : undefined;
}
