/** The Redis keys of the streams. Braces keep the two keys of a session in one cluster slot. */
export interface StreamKeys {
  /** Entries of the session: id, type, data, prev. */
  entries(tenant: string, sessionId: string): string;
  /** What the append script knows of the session: last id, open turn, attempt, lengths. */
  state(tenant: string, sessionId: string): string;
  /** Channel that wakes the session's readers. */
  channel(tenant: string, sessionId: string): string;
  /** Hash by partition: `ready`, or the token of the rebuild under way. No field: Redis was emptied. */
  readonly boot: string;
  /** Hash by partition: the last position whose events are all in the streams. */
  readonly reached: string;
}

export function streamKeys(prefix: string): StreamKeys {
  return {
    entries: (tenant, sessionId) => `${prefix}stream:{${tenant}:${sessionId}}:entries`,
    state: (tenant, sessionId) => `${prefix}stream:{${tenant}:${sessionId}}:state`,
    channel: (tenant, sessionId) => `${prefix}stream:{${tenant}:${sessionId}}:wake`,
    boot: `${prefix}stream:boot`,
    reached: `${prefix}stream:reached`,
  };
}
