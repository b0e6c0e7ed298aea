import { newId } from '@signalbox/contracts/ids';
import { fault } from '@signalbox/faults/fault';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { bootReady, type SessionStreams } from './session-stream.ts';
import type { StreamPosition } from './stream-id.ts';

/**
 * What this replica knows of a partition of conversation.outbound that it owns:
 *
 * - `unknown`: just assigned; nothing may be appended before `stream:boot` was read.
 * - `ready`: all its events are in Redis up to where this consumer stands.
 * - `rebuilding`: Redis was emptied. The consumer was sent back and appends again; when it has passed `until` (the end of
 *   the log at that moment) the partition is ready. The token stands in `stream:boot`: if Redis is emptied once more, or
 *   another owner starts its own rebuild, the token is gone and this one starts anew. Appending twice does no harm.
 */
export type PartitionState =
  | { readonly name: 'unknown' }
  | { readonly name: 'ready' }
  | { readonly name: 'rebuilding'; readonly token: string; readonly until: bigint };

/** The log of the partitions as the consumer reaches it. */
export interface PartitionLog {
  /**
   * Sends the consumer back to the first record of the last `seconds`, never forward. Answers where it will go on and
   * the offset behind the last record now.
   */
  seekBack(partition: number, seconds: number): Promise<{ readonly from: bigint; readonly end: bigint }>;
}

export interface PartitionRebuild {
  assigned(partitions: readonly number[]): void;
  revoked(partitions: readonly number[]): void;
  /**
   * The boot value under which events may be appended now. Throws REDIS_UNAVAILABLE where there is none: the batch must
   * come again, from where the consumer was just sent back to or in its place.
   */
  bootFor(partition: number): Promise<string>;
  /** Redis did not have that boot value: sends the consumer back. Always throws, as bootFor does. */
  lost(partition: number, boot: string): Promise<never>;
  /** All events up to here are in the streams, and the append has kept that: ends a rebuild that has come so far. */
  reached(partition: number, at: StreamPosition): Promise<void>;
  /** Looks at every owned partition; a rebuild must also start where no record comes. Throws REDIS_UNAVAILABLE. */
  check(): Promise<void>;
  /** Owned partitions whose streams are not whole now. */
  readonly rebuilding: number;
}

export interface PartitionRebuildOptions {
  readonly streams: Pick<SessionStreams, 'bootOf' | 'markBoot' | 'markReached'>;
  readonly log: PartitionLog;
  readonly rebuildSeconds: number;
  readonly epoch: number;
  readonly logger: Logger;
  onRebuild(): void;
}

/**
 * What a start came to: `ready` means that somebody else has made the partition whole meanwhile. Otherwise nothing may be
 * appended by whoever asked: what it holds lies behind what comes now, and an id below a stream's last is never added.
 */
type Started = 'ready' | 'not_yet';

/** Watches over `stream:boot` for the partitions that this replica owns (delivery rule 22). */
export function createPartitionRebuild(options: PartitionRebuildOptions): PartitionRebuild {
  const { streams, log, rebuildSeconds, epoch, logger, onRebuild } = options;
  const states = new Map<number, PartitionState>();
  /** Starts under way: the check and a batch may find the same loss. */
  const starting = new Map<number, Promise<Started>>();

  function start(partition: number): Promise<Started> {
    let under = starting.get(partition);
    if (under === undefined) {
      under = begin(partition).finally(() => starting.delete(partition));
      starting.set(partition, under);
    }
    return under;
  }

  async function begin(partition: number): Promise<Started> {
    const token = newId();
    // Whatever stands there belongs to a rebuild that this one replaces; `ready` was checked before.
    const standing = await streams.bootOf(partition);
    if (standing === bootReady) {
      states.set(partition, { name: 'ready' });
      return 'ready';
    }
    if (!(await streams.markBoot(partition, standing, token))) return 'not_yet'; // somebody was faster: found at the next look
    const { from, end } = await log.seekBack(partition, rebuildSeconds);
    if (!states.has(partition)) return 'not_yet'; // revoked meanwhile: its new owner finds the token and starts anew
    logger.info('stream.rebuild_started', { partition, from: from.toString(), end: end.toString() });
    onRebuild();
    states.set(partition, { name: 'rebuilding', token, until: end });
    if (from >= end) await finish(partition, { epoch, position: end > 0n ? end - 1n : 0n });
    return 'not_yet';
  }

  async function finish(partition: number, at: StreamPosition): Promise<void> {
    const state = states.get(partition);
    if (state?.name !== 'rebuilding') return;
    await streams.markReached(partition, at);
    if (await streams.markBoot(partition, state.token, bootReady)) {
      states.set(partition, { name: 'ready' });
      logger.info('stream.rebuild_done', { partition, position: at.position.toString() });
    } else states.set(partition, { name: 'unknown' });
  }

  return {
    assigned(partitions) {
      for (const partition of partitions)
        if (!states.has(partition)) states.set(partition, { name: 'unknown' });
    },
    revoked(partitions) {
      for (const partition of partitions) states.delete(partition);
    },

    async bootFor(partition) {
      const state = states.get(partition) ?? { name: 'unknown' };
      if (state.name === 'rebuilding') return state.token;
      if (state.name === 'ready') return bootReady;
      states.set(partition, state);
      if ((await start(partition)) === 'ready') return bootReady;
      throw mustComeAgain(partition);
    },

    async lost(partition, boot) {
      const state = states.get(partition);
      // The check may have found it first: a rebuild that is under way since then is not begun anew.
      if (state?.name !== 'rebuilding' || state.token === boot) {
        states.set(partition, { name: 'unknown' });
        await start(partition);
      }
      throw mustComeAgain(partition);
    },

    async reached(partition, at) {
      const state = states.get(partition);
      if (state?.name === 'rebuilding' && at.position + 1n >= state.until) await finish(partition, at);
    },

    async check() {
      for (const [partition, state] of [...states]) {
        if (starting.has(partition)) continue;
        const standing = await streams.bootOf(partition);
        const expected = state.name === 'rebuilding' ? state.token : bootReady;
        if (!states.has(partition)) continue;
        if (standing !== expected) await start(partition);
        else if (state.name === 'unknown') states.set(partition, { name: 'ready' });
      }
    },

    get rebuilding() {
      return [...states.values()].filter(({ name }) => name !== 'ready').length;
    },
  };
}

function mustComeAgain(partition: number): Error {
  return fault('REDIS_UNAVAILABLE', 'the streams of the partition are not whole now', {
    details: { partition },
  });
}
