import type { Slots } from '@signalbox/api/slots';
import { comparePositions, formatStreamId, type StreamPosition } from '@signalbox/api/stream-id';
import type { Database } from '@signalbox/postgres/database';
import { eventsAfter } from './event-store.ts';
import { bootReady, type SessionRef, type SessionStreams, type StreamLook } from './session-stream.ts';
import type { StreamEntry } from './stream-event.ts';

/** What comes after a position, as far as it is known now. */
export type StreamPage =
  /** Redis was emptied and the partition's owner has not appended its events again yet: ask later. */
  | { readonly state: 'rebuilding' }
  | { readonly state: 'read'; readonly entries: readonly StreamEntry[]; readonly more: boolean };

export type ReadStream = (session: SessionRef, after: StreamPosition) => Promise<StreamPage>;

export interface ReadStreamOptions {
  readonly streams: Pick<SessionStreams, 'look'>;
  readonly database: Database;
  /** Runs a refill when one of the few slots is free. */
  readonly refillSlots: Slots;
  onRefill(): void;
  readonly pageEntries?: number;
}

/** Which part of a session's events Postgres must add before the entries of a look. */
export interface Gap {
  readonly upTo: StreamPosition;
}

/**
 * Whether events are missing between `after` and what was looked at (delivery rule 22).
 * - The first entry names the id before it: another one than `after`, or none that is known, and events may lie between.
 * - Without entries the stream was trimmed, has expired or never was: what the session had lies at or below the newest
 *   id that Redis knows of it, or of its partition. Nothing above that may be taken from Postgres: it is stored there
 *   first, and the deltas before it are still on their way into Redis.
 */
export function gapIn(look: StreamLook, after: StreamPosition): Gap | undefined {
  const first = look.entries[0];
  if (first !== undefined) {
    if (look.prev === formatStreamId(after)) return undefined;
    const { epoch, position } = first.at;
    return {
      upTo:
        position > 0n ? { epoch, position: position - 1n } : { epoch: epoch - 1, position: 2n ** 63n - 1n },
    };
  }
  const upTo = look.last ?? look.reached;
  return upTo !== undefined && comparePositions(after, upTo) < 0 ? { upTo } : undefined;
}

/** Reads on in a session's stream, from Redis and, where that has a gap, from Postgres. REDIS_/DATABASE_UNAVAILABLE. */
export function createReadStream(options: ReadStreamOptions): ReadStream {
  const { streams, database, refillSlots, onRefill, pageEntries = 256 } = options;
  return async (session, after) => {
    const look = await streams.look(session, after, pageEntries);
    if (look.boot !== bootReady) return { state: 'rebuilding' };
    const { more } = look;
    const gap = gapIn(look, after);
    if (gap === undefined) return { state: 'read', entries: look.entries, more };
    onRefill();
    const stored = await refillSlots(() => eventsAfter(database, session, after, gap.upTo, pageEntries));
    if (stored.length === pageEntries) return { state: 'read', entries: stored, more: true };
    return { state: 'read', entries: [...stored, ...look.entries], more };
  };
}
