import { asFault, fault } from '@signalbox/faults/fault';
import { failPoint } from '@signalbox/lifecycle/fail-point';
import { pause } from '@signalbox/lifecycle/pause';
import type { MessagingSettings } from '@signalbox/messaging/messaging';
import { replayTopic } from '@signalbox/messaging/replay-topic';
import type { Queryable } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { ReplicaStore } from './replica-store.ts';

export interface RebuildParts {
  readonly database: Queryable;
  readonly store: Pick<ReplicaStore, 'take'>;
  readonly settings: MessagingSettings;
  /** newId() of this run: what its lease is held by. */
  readonly owner: string;
  readonly signal: AbortSignal;
  readonly log: Logger;
  readonly leaseMs?: number;
  readonly onProgress?: (records: number) => void;
}

export interface Rebuilt {
  /** Records read from memory.wal, among them those that no consumer can read or replicate. */
  readonly records: number;
  readonly unreadable: number;
  readonly tookMs: number;
}

const defaultLeaseMs = 30_000;
/** Emptying a copy and the switch wait for readers who are just at it. */
const tries = 5;
const pauseMs = 1_000;
/** More records that cannot be replicated are a fault of this release, and the copy is no replica. */
const mostRefused = 100;

/**
 * Makes the replica again from memory.wal, beside the live one, and switches to it; migration 0072 tells why nothing is
 * lost meanwhile. One that was interrupted is begun anew, after its lease at the latest.
 * @throws CONFLICT while another one is under way, LEASE_LOST when this process stood still for too long (nothing was
 * switched), DATABASE_UNAVAILABLE, KAFKA_UNAVAILABLE, ABORTED.
 */
export async function rebuildReplica(parts: RebuildParts): Promise<Rebuilt> {
  const { database, store, settings, owner, signal, log, leaseMs = defaultLeaseMs } = parts;
  const startedAt = performance.now();
  const yes = async (call: string, values: readonly unknown[]): Promise<boolean> => {
    const [row] = await database.query<{ yes: boolean }>(`select memory_replicator.${call} as yes`, values);
    return row?.yes === true;
  };
  if (!(await patiently(() => yes('rebuild_begin($1, $2)', [owner, leaseMs]), signal))) {
    throw fault('CONFLICT', 'another rebuild is under way');
  }
  let refused = 0;
  const over = new AbortController();
  const lost = new AbortController();
  const holding = hold(over.signal);
  try {
    let read = 0;
    const replayed = await replayTopic({
      ...{ settings, topic: 'memory.wal', signal: AbortSignal.any([signal, lost.signal]), log },
      async onRecords(records) {
        await takeEach(records);
        failPoint('intake.committed');
        read += records.length;
        parts.onProgress?.(read);
      },
    });
    if (!(await patiently(() => yes('rebuild_switch($1)', [owner]), signal))) throw leaseLost();
    const { unreadable } = replayed;
    return {
      ...replayed,
      unreadable: unreadable + refused,
      tookMs: Math.round(performance.now() - startedAt),
    };
  } catch (error) {
    throw lost.signal.aborted ? leaseLost() : error;
  } finally {
    over.abort();
    await holding;
    // The copy that is not live any more, or was not finished: only its space is at stake.
    await database.query('select memory_replicator.rebuild_end($1)', [owner]).catch((error: unknown) => {
      log.warning('memory.rebuild_not_emptied', { error });
    });
  }

  /** A record that cannot be replicated has its dead letter from the intake, and stays in the topic: it is left out here too. */
  async function takeEach(records: Parameters<typeof store.take>[0]): Promise<void> {
    try {
      await patiently(() => store.take(records, owner), signal);
    } catch (error) {
      const known = asFault(error);
      if (known.retryable || known.code === 'LEASE_LOST' || signal.aborted) throw error;
      if (records.length > 1) {
        const half = Math.ceil(records.length / 2);
        await takeEach(records.slice(0, half));
        await takeEach(records.slice(half));
        return;
      }
      refused += 1;
      if (refused > mostRefused) throw error;
      const [record] = records;
      log.warning('memory.rebuild_left_out', { error, offset: record?.offset.toString() });
    }
  }

  /** Renews the lease. One that has lapsed ends the rebuild; an answer that fails is asked for again, while it may hold. */
  async function hold(ended: AbortSignal): Promise<void> {
    for (;;) {
      await pause(leaseMs / 4, ended);
      if (ended.aborted) return;
      const held = await yes('rebuild_hold($1, $2)', [owner, leaseMs]).catch(() => undefined);
      if (held === false && !ended.aborted) {
        lost.abort(leaseLost());
        return;
      }
    }
  }
}

function leaseLost(): Error {
  return fault('LEASE_LOST', 'the rebuild stood still for longer than its lease; nothing was switched');
}

/** Again after a fault that passes: all of these calls may be made twice. */
async function patiently<T>(call: () => Promise<T>, signal: AbortSignal): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await call();
    } catch (error) {
      const known = asFault(error);
      if (!known.retryable || known.code === 'LEASE_LOST' || attempt === tries || signal.aborted) throw error;
      await pause(pauseMs, signal);
    }
  }
}
