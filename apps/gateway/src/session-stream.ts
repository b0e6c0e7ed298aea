import { formatStreamId, parseStreamId, type StreamPosition } from '@signalbox/api/stream-id';
import { sessionKey } from '@signalbox/contracts/keys';
import { topics } from '@signalbox/contracts/topics';
import { fault } from '@signalbox/faults/fault';
import { partitionOf } from '@signalbox/messaging/murmur2';
import type { Redis } from '@signalbox/redis/redis';
import { entryOf, pieceData, type StreamEntry, type StreamEvent } from './stream-event.ts';
import type { StreamKeys } from './stream-keys.ts';
import { appendScript, markBootScript, readScript } from './stream-scripts.ts';

/** What stands under a partition in `stream:boot` when all its events are in the streams. */
export const bootReady = 'ready';

export interface SessionRef {
  readonly tenant: string;
  readonly sessionId: string;
}

/** What stands in Redis of a partition, and what must stand there for a batch to be appended. */
export interface Standing {
  /** `ready`, the token of a rebuild, or empty after Redis was emptied. */
  readonly boot: string;
  /** Up to here all events of the partition are, or were, in the streams. It never goes back while Redis keeps its data. */
  readonly reached: StreamPosition | undefined;
}

/** One look at a stream: all of it is of one instant. */
export interface StreamLook extends Standing {
  /** The newest entry that the stream ever had, while its state is kept. */
  readonly last: StreamPosition | undefined;
  readonly entries: readonly StreamEntry[];
  /** The id before the first entry; undefined when that is not known. */
  readonly prev: string | undefined;
  /** There may be entries behind these. */
  readonly more: boolean;
}

export interface SessionStreams {
  /**
   * Appends events of one partition, lowest first, to their sessions' streams and keeps that all up to `reached` are in
   * them; see appendScript for what is left out. Answers false when another boot value stands there than expected, or less
   * was reached: nothing was appended. REDIS_UNAVAILABLE: part of it may be, repeat all of it.
   */
  append(
    partition: number,
    expected: Standing,
    events: readonly StreamEvent[],
    reached: StreamPosition | undefined,
  ): Promise<boolean>;
  /** Entries after a position, at most `count`. Throws REDIS_UNAVAILABLE. */
  look(session: SessionRef, after: StreamPosition, count: number): Promise<StreamLook>;
  standingOf(partition: number): Promise<Standing>;
  /**
   * Sets the boot value if it is still `from` ('' for none), and with it how far all is appended; `anew` takes that away,
   * for the rebuild that begins. False when it was not.
   */
  markBoot(partition: number, from: string, to: string, reached?: StreamPosition | 'anew'): Promise<boolean>;
  channelOf(session: SessionRef): string;
  /** What a wake-up carries; undefined when it only says that there is something to read. */
  readWake(message: string): StreamWake | undefined;
}

/** Entries that follow each other and the one before them, as the append script made them. */
export interface StreamWake {
  readonly prev: string;
  readonly entries: readonly StreamEntry[];
}

export interface SessionStreamOptions {
  readonly redis: Redis;
  readonly keys: StreamKeys;
  readonly ttlSeconds: number;
  readonly maxEntries: number;
}

/** Of one look, about. */
const maxLookBytes = 1_048_576;
/** Each replica that follows the session gets a wake-up, whether its readers stand where it begins or not. */
const maxWakeBytes = 8_192;

const partitions = topics['conversation.outbound'].partitions;

/** The streams in Redis. The partition of a session is that of its records: producer and reader compute the same. */
export function createSessionStreams({
  redis,
  keys,
  ttlSeconds,
  maxEntries,
}: SessionStreamOptions): SessionStreams {
  const append = redis.script('stream_append', appendScript);
  const read = redis.script('stream_read', readScript);
  const mark = redis.script('stream_mark_boot', markBootScript);

  return {
    async append(partition, expected, events, reached) {
      const { boot } = expected;
      const bySession = new Map<string, StreamEvent[]>();
      for (const event of events) {
        const channel = keys.channel(event.tenant, event.sessionId);
        const found = bySession.get(channel);
        if (found === undefined) bySession.set(channel, [event]);
        else found.push(event);
      }
      const keyList = [keys.boot, keys.reached];
      // Before the partition is ready nobody is sent anything, so nothing need be carried.
      const room = boot === bootReady ? maxWakeBytes : -1;
      const args: (string | number)[] = [partition, boot, ttlSeconds, maxEntries, room];
      args.push(idOrNone(reached), idOrNone(expected.reached));
      for (const [channel, own] of bySession) {
        const [first] = own;
        if (first === undefined) continue;
        keyList.push(keys.entries(first.tenant, first.sessionId), keys.state(first.tenant, first.sessionId));
        args.push(channel, own.length);
        for (const { at, kind, type, turnId, attempt, offset, points, body } of own)
          args.push(at.epoch, at.position.toString(), kind, type, turnId, attempt, offset, points, body);
      }
      return (await append(keyList, args)) !== -1;
    },

    async look({ tenant, sessionId }, after, count) {
      const partition = partitionOf(sessionKey(tenant, sessionId), partitions);
      const reply = await read(
        [keys.entries(tenant, sessionId), keys.state(tenant, sessionId), keys.boot, keys.reached],
        [partition, formatStreamId(after), count, maxLookBytes],
      );
      return readLook(reply);
    },

    async standingOf(partition) {
      const field = String(partition);
      const [boot, reached] = await redis.run((client) =>
        Promise.all([client.hget(keys.boot, field), client.hget(keys.reached, field)]),
      );
      return { boot: boot ?? '', reached: parseStreamId(reached ?? '') };
    },

    async markBoot(partition, from, to, reached) {
      const upTo = reached === 'anew' ? '-' : idOrNone(reached);
      return (await mark([keys.boot, keys.reached], [partition, from, to, upTo])) === 1;
    },

    channelOf: ({ tenant, sessionId }) => keys.channel(tenant, sessionId),
    readWake,
  };
}

function idOrNone(at: StreamPosition | undefined): string {
  return at === undefined ? '' : formatStreamId(at);
}

function readLook(reply: unknown): StreamLook {
  if (!Array.isArray(reply)) throw unreadable();
  const [boot, reached, last, raw, more]: unknown[] = reply;
  if (
    typeof boot !== 'string' ||
    typeof reached !== 'string' ||
    typeof last !== 'string' ||
    !Array.isArray(raw)
  ) {
    throw unreadable();
  }
  const entries: StreamEntry[] = [];
  let prev: string | undefined;
  for (const each of raw) {
    const { entry, before } = readEntry(each);
    if (entries.length === 0) prev = before === '' ? undefined : before;
    entries.push(entry);
  }
  return {
    boot,
    reached: parseStreamId(reached),
    last: parseStreamId(last),
    entries,
    prev,
    more: more === 1,
  };
}

function readEntry(raw: unknown): { entry: StreamEntry; before: string } {
  const [id, list]: unknown[] = Array.isArray(raw) ? raw : [];
  const at = typeof id === 'string' ? parseStreamId(id) : undefined;
  if (at === undefined || !Array.isArray(list)) throw unreadable();
  const fields = new Map<unknown, unknown>();
  for (let i = 0; i < list.length; i += 2) fields.set(list[i], list[i + 1]);
  const [type, before, body, from] = ['e', 'p', 'd', 'a'].map((name) => fields.get(name));
  if (typeof type !== 'string' || typeof before !== 'string' || typeof body !== 'string') throw unreadable();
  return { entry: entryOf(at, type, typeof from === 'string' ? pieceData(from, body) : body), before };
}

function readWake(message: string): StreamWake | undefined {
  if (!message.startsWith('[')) return undefined;
  const wake: unknown = JSON.parse(message);
  const [prev, list]: unknown[] = Array.isArray(wake) ? wake : [];
  if (typeof prev !== 'string' || !Array.isArray(list)) throw unreadable();
  const entries = list.map((each: unknown) => {
    const [id, type, body, from]: unknown[] = Array.isArray(each) ? each : [];
    const at = typeof id === 'string' ? parseStreamId(id) : undefined;
    if (at === undefined || typeof type !== 'string' || typeof body !== 'string') throw unreadable();
    return entryOf(at, type, typeof from === 'string' ? pieceData(from, body) : body);
  });
  return { prev, entries };
}

function unreadable(): Error {
  return fault('INTERNAL_ERROR', 'a stream in Redis does not have the form that the append script gives it');
}
