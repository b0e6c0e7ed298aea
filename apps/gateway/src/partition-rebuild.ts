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
 *
 * A revocation ends all of it: nothing that was under way then has an effect on what is known of the next assignment.
 */
export type PartitionState =
  | { readonly name: 'unknown' }
  | { readonly name: 'ready' }
  | { readonly name: 'rebuilding'; readonly token: string; readonly until: bigint };

/** The log of the partitions as the consumer reaches it. */
export interface PartitionLog {
  /**
   * Sends the consumer back to the first record of the last `seconds`, never forward. Answers where it will go on and
   * the offset behind the last record now. Throws KAFKA_UNAVAILABLE, also where the partition is not assigned here.
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
  readonly streams: Pick<SessionStreams, 'bootOf' | 'markBoot'>;
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

/**
 * One assignment of a partition: a new object each time it is assigned, so that whatever returns from Redis or Kafka after
 * a revocation changes the state of nothing that is watched over.
 *   assigned → a batch asks for the boot value → revoked → the answer comes: were the partition put back, this replica
 *   would look after it for ever, and take each later rebuild away from its owner.
 */
interface Assignment {
  readonly partition: number;
  state: PartitionState;
  /** The start under way: the check and a batch may find the same loss. */
  starting: Promise<Started> | undefined;
}

/** Watches over `stream:boot` for the partitions that this replica owns (delivery rule 22). */
export function createPartitionRebuild(options: PartitionRebuildOptions): PartitionRebuild {
  const { streams, log, rebuildSeconds, epoch, logger, onRebuild } = options;
  const owned = new Map<number, Assignment>();

  function start(mine: Assignment): Promise<Started> {
    mine.starting ??= begin(mine).finally(() => {
      mine.starting = undefined;
    });
    return mine.starting;
  }

  async function begin(mine: Assignment): Promise<Started> {
    const { partition } = mine;
    mine.state = { name: 'unknown' };
    // Whatever stands there but `ready` belongs to a rebuild that this one replaces.
    const standing = await streams.bootOf(partition);
    if (standing === bootReady) {
      mine.state = { name: 'ready' };
      return 'ready';
    }
    // The seek comes before the token: it fails where the partition is not this replica's, and then nobody is disturbed.
    const { from, end } = await log.seekBack(partition, rebuildSeconds);
    if (owned.get(partition) !== mine) return 'not_yet';
    const token = newId();
    if (!(await streams.markBoot(partition, standing, token))) return 'not_yet'; // somebody was faster: found at the next look
    logger.info('stream.rebuild_started', { partition, from: from.toString(), end: end.toString() });
    onRebuild();
    mine.state = { name: 'rebuilding', token, until: end };
    if (from >= end) await finish(mine, end > 0n ? { epoch, position: end - 1n } : undefined);
    return 'not_yet';
  }

  async function finish(mine: Assignment, at: StreamPosition | undefined): Promise<void> {
    const { partition, state } = mine;
    if (state.name !== 'rebuilding') return;
    if (await streams.markBoot(partition, state.token, bootReady, at)) {
      mine.state = { name: 'ready' };
      logger.info('stream.rebuild_done', { partition, position: at?.position.toString() });
    } else mine.state = { name: 'unknown' };
  }

  return {
    assigned(partitions) {
      for (const partition of partitions)
        owned.set(partition, { partition, state: { name: 'unknown' }, starting: undefined });
    },
    revoked(partitions) {
      for (const partition of partitions) owned.delete(partition);
    },

    async bootFor(partition) {
      const mine = owned.get(partition);
      if (mine?.state.name === 'rebuilding') return mine.state.token;
      if (mine?.state.name === 'ready') return bootReady;
      if (mine !== undefined && (await start(mine)) === 'ready') return bootReady;
      throw mustComeAgain(partition);
    },

    async lost(partition, boot) {
      const mine = owned.get(partition);
      // The check may have found it first: a rebuild that is under way since then is not begun anew.
      if (mine !== undefined && (mine.state.name !== 'rebuilding' || mine.state.token === boot))
        await start(mine);
      throw mustComeAgain(partition);
    },

    async reached(partition, at) {
      const mine = owned.get(partition);
      if (mine?.state.name === 'rebuilding' && at.position + 1n >= mine.state.until) await finish(mine, at);
    },

    async check() {
      for (const mine of [...owned.values()]) {
        const { partition, state } = mine;
        if (mine.starting !== undefined) continue;
        const standing = await streams.bootOf(partition);
        if (owned.get(partition) !== mine || mine.state !== state) continue;
        const expected = state.name === 'rebuilding' ? state.token : bootReady;
        if (standing !== expected) await start(mine);
        else if (state.name === 'unknown') mine.state = { name: 'ready' };
      }
    },

    get rebuilding() {
      return [...owned.values()].filter(({ state }) => state.name !== 'ready').length;
    },
  };
}

function mustComeAgain(partition: number): Error {
  return fault('REDIS_UNAVAILABLE', 'the streams of the partition are not whole now', {
    details: { partition },
  });
}
