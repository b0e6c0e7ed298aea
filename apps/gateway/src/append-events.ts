import { isDeltaEvent } from '@signalbox/contracts/conversation-outbound';
import { fault } from '@signalbox/faults/fault';
import { failPoint } from '@signalbox/lifecycle/fail-point';
import type { IntakeRecord, SettledRange } from '@signalbox/messaging/messaging';
import { poisonRecord } from '@signalbox/messaging/poison-record';
import type { StoredEvents } from './event-store.ts';
import type { PartitionRebuild } from './partition-rebuild.ts';
import type { SessionStreams, Standing } from './session-stream.ts';
import { type StreamEvent, streamEventOf } from './stream-event.ts';

export interface AppendEventsOptions {
  readonly streams: Pick<SessionStreams, 'append'>;
  readonly rebuild: PartitionRebuild;
  /** Stores events, each answered at its place (event-store.ts). */
  storeEvents(events: readonly StreamEvent[]): Promise<readonly StoredEvents[]>;
  readonly epoch: number;
  /** Events handed on, by what became of them. */
  count(result: 'appended' | 'repeat' | 'stale', events: number): void;
}

/** SQLSTATE classes that say the row is bad, not the moment: data exception, constraint violation, limit exceeded. */
const badRow = /^(22|23|54)/;

export interface AppendEvents {
  append(partition: number, records: readonly IntakeRecord[]): Promise<void>;
  /** Keeps that the partition is whole so far where its last records are none to append: they were buried. */
  settled(range: SettledRange): Promise<void>;
}

/**
 * Takes one batch of one partition, in offset order (delivery rule 21): events that are no deltas to Postgres, then all to
 * their sessions' streams. When it returns, all of it is in both. Throws DATABASE_UNAVAILABLE or REDIS_UNAVAILABLE: the
 * whole batch must come again before anything later of the partition, since an id below a stream's last can never be
 * added; so it is when the consumer was sent back. Throws POISON_RECORD for a record that can never be stored; alone in
 * a batch it may be put aside.
 */
export function createAppendEvents(options: AppendEventsOptions): AppendEvents {
  const { streams, rebuild, storeEvents, epoch, count } = options;

  async function append(partition: number, records: readonly IntakeRecord[]): Promise<void> {
    const first = records[0];
    const last = records.at(-1);
    if (first === undefined || last === undefined) return;
    const footing = await rebuild.footing(partition, first.offset);

    const events: StreamEvent[] = [];
    for (const record of records) {
      const event = streamEventOf(record, epoch);
      if (event === undefined) throw poisonRecord(record.offset, 'the event names no turn');
      events.push(event);
    }
    const shown = await storedOnce(events);
    failPoint('stream.stored');
    await intoStreams(partition, footing, shown, last.offset);
    failPoint('stream.appended');
    count('appended', shown.length);
  }

  async function settled({ partition, first, next }: SettledRange): Promise<void> {
    await intoStreams(partition, await rebuild.footing(partition, first), [], next - 1n);
  }

  async function intoStreams(
    partition: number,
    footing: Standing,
    events: readonly StreamEvent[],
    position: bigint,
  ): Promise<void> {
    const reached = { epoch, position };
    if (!(await streams.append(partition, footing, events, reached)))
      return await rebuild.lost(partition, footing);
    await rebuild.reached(partition, footing, reached);
  }

  /** Without what was sent twice, and what its turn has left behind: an older attempt, or one that has ended. */
  async function storedOnce(events: readonly StreamEvent[]): Promise<readonly StreamEvent[]> {
    const kept = events.filter((event) => !isDeltaEvent(event.type));
    if (kept.length === 0) return events;
    const outcomes = await storeEvents(kept);
    const left = new Set<StreamEvent>();
    for (const [index, { outcome, sqlState }] of outcomes.entries()) {
      const event = kept[index];
      if (event === undefined) continue;
      if (outcome === 'clash') {
        throw poisonRecord(
          event.at.position,
          'another event holds this stream position: STREAM_EPOCH was not raised',
        );
      }
      if (outcome === 'failed') throw refused(sqlState);
      if (outcome === 'repeat' || outcome === 'stale') {
        left.add(event);
        count(outcome, 1);
      }
    }
    if (left.size === 0) return events;
    return events.filter((event) => !left.has(event));
  }

  return { append, settled };
}

function refused(sqlState: string | undefined): Error {
  const details = { sqlState };
  return badRow.test(sqlState ?? '')
    ? fault('POISON_RECORD', 'the database refuses the event', { details })
    : fault('DATABASE_UNAVAILABLE', 'the database could not store the events now', { details });
}
