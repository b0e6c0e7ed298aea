import { comparePositions, type StreamPosition } from '@signalbox/api/stream-id';
import { newId } from '@signalbox/contracts/ids';
import { fault } from '@signalbox/faults/fault';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { bootReady, type SessionStreams, type Standing } from './session-stream.ts';

/**
 * What this replica knows of a partition of conversation.outbound that it owns:
 *
 * - `unknown`: just assigned; nothing may be appended before `stream:boot` was read.
 * - `ready`: all its events are in Redis up to where this consumer stands.
 * - `rebuilding`: Redis has lost events. The consumer was sent back and appends again; when it has passed `until` (the end
 *   of the log at that moment) the partition is ready. The token stands in `stream:boot`: if Redis is emptied once more, or
 *   another owner starts its own rebuild, the token is gone and this one starts anew. Appending twice does no harm.
 *
 * Redis may lose everything: then the boot value is gone. Or it comes back with old data, and the boot value with it:
 *   events up to 33 are appended and their offsets committed → Redis starts again from a snapshot of 30 → 34 is appended,
 *   names 30 as the one before it, and 31 to 33 are seen by nobody.
 * So the owner knows how far Redis must have come at least: to where its own last append came, or, newly assigned, to the
 * record before the first it is given, for an offset is finished only after `stream:reached` has passed it. Whatever is
 * less is a loss.
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
   * Sends the consumer back to the first record of the last `seconds`, and at least to `notAfter` where one is given, never
   * forward. Answers where it will go on and the offset behind the last record now. Throws KAFKA_UNAVAILABLE, also where
   * the partition is not assigned here.
   */
  seekBack(
    partition: number,
    seconds: number,
    notAfter: bigint | undefined,
  ): Promise<{ readonly from: bigint; readonly end: bigint }>;
}

export interface PartitionRebuild {
  assigned(partitions: readonly number[]): void;
  revoked(partitions: readonly number[]): void;
  /**
   * What must stand in Redis for records from the offset `first` on to be appended now. Throws REDIS_UNAVAILABLE where
   * nothing may be: the batch must come again, from where the consumer was just sent back to or in its place.
   */
  footing(partition: number, first: bigint): Promise<Standing>;
  /** That did not stand in Redis: sends the consumer back. Always throws, as `footing` does. */
  lost(partition: number, expected: Standing): Promise<never>;
  /** All up to here is in the streams, appended on that footing: ends a rebuild that has come so far. */
  reached(partition: number, footing: Standing, at: StreamPosition): Promise<void>;
  /** Looks at every owned partition; a rebuild must also start where no record comes. Throws REDIS_UNAVAILABLE. */
  check(): Promise<void>;
  /** Owned partitions whose streams are not whole now. */
  readonly rebuilding: number;
}

export interface PartitionRebuildOptions {
  readonly streams: Pick<SessionStreams, 'standingOf' | 'markBoot'>;
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
  /** How far Redis must have come, as far as this replica knows; of a rebuild, how far it has come. */
  reached: StreamPosition | undefined;
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
    const known = mine.reached;
    const standing = await streams.standingOf(partition);
    if (standing.boot === bootReady && !isBelow(standing.reached, known)) {
      mine.state = { name: 'ready' };
      return 'ready';
    }
    // Whatever else stands there belongs to a rebuild that this one replaces, or to data that is old.
    // The seek comes before the token: it fails where the partition is not this replica's, and then nobody is disturbed.
    const { from, end } = await log.seekBack(partition, rebuildSeconds, firstMissing(standing.reached));
    if (owned.get(partition) !== mine) return 'not_yet';
    const token = newId();
    if (!(await streams.markBoot(partition, standing.boot, token, 'anew'))) return 'not_yet'; // somebody was faster: found at the next look
    logger.info('stream.rebuild_started', { partition, from: from.toString(), end: end.toString() });
    onRebuild();
    mine.state = { name: 'rebuilding', token, until: end };
    mine.reached = undefined;
    if (from >= end) await finish(mine, end > 0n ? { epoch, position: end - 1n } : undefined);
    return 'not_yet';
  }

  /**
   * Data may be older than a rebuild goes back. Where it ends, the rest must follow: a session that has entries is not
   * asked for in Postgres behind its last one.
   */
  function firstMissing(reached: StreamPosition | undefined): bigint | undefined {
    if (reached === undefined) return undefined;
    return reached.epoch === epoch ? reached.position + 1n : 0n;
  }

  async function finish(mine: Assignment, at: StreamPosition | undefined): Promise<void> {
    const { partition, state } = mine;
    if (state.name !== 'rebuilding') return;
    if (await streams.markBoot(partition, state.token, bootReady, at)) {
      mine.state = { name: 'ready' };
      mine.reached = at;
      logger.info('stream.rebuild_done', { partition, position: at?.position.toString() });
    } else mine.state = { name: 'unknown' };
  }

  return {
    assigned(partitions) {
      for (const partition of partitions)
        owned.set(partition, {
          partition,
          state: { name: 'unknown' },
          reached: undefined,
          starting: undefined,
        });
    },
    revoked(partitions) {
      for (const partition of partitions) owned.delete(partition);
    },

    async footing(partition, first) {
      const mine = owned.get(partition);
      if (mine === undefined) throw mustComeAgain(partition);
      if (mine.state.name === 'rebuilding') return { boot: mine.state.token, reached: mine.reached };
      if (mine.reached === undefined && first > 0n) mine.reached = { epoch, position: first - 1n };
      if (mine.state.name === 'unknown' && (await start(mine)) !== 'ready') throw mustComeAgain(partition);
      return { boot: bootReady, reached: mine.reached };
    },

    async lost(partition, { boot }) {
      const mine = owned.get(partition);
      // The check may have found it first: a rebuild that is under way since then is not begun anew.
      if (mine !== undefined && (mine.state.name !== 'rebuilding' || mine.state.token === boot))
        await start(mine);
      throw mustComeAgain(partition);
    },

    async reached(partition, { boot }, at) {
      const mine = owned.get(partition);
      if (mine === undefined || boot !== expectedBoot(mine.state)) return;
      if (isBelow(mine.reached, at)) mine.reached = at;
      if (mine.state.name === 'rebuilding' && at.position + 1n >= mine.state.until) await finish(mine, at);
    },

    async check() {
      for (const mine of [...owned.values()]) {
        const { partition, state, reached } = mine;
        if (mine.starting !== undefined) continue;
        const standing = await streams.standingOf(partition);
        if (owned.get(partition) !== mine || mine.state !== state) continue;
        if (standing.boot !== expectedBoot(state) || isBelow(standing.reached, reached)) await start(mine);
        else if (state.name === 'unknown') mine.state = { name: 'ready' };
      }
    },

    get rebuilding() {
      return [...owned.values()].filter(({ state }) => state.name !== 'ready').length;
    },
  };
}

function expectedBoot(state: PartitionState): string {
  return state.name === 'rebuilding' ? state.token : bootReady;
}

/** Whether Redis has come less far than it must have. */
function isBelow(stands: StreamPosition | undefined, known: StreamPosition | undefined): boolean {
  return known !== undefined && (stands === undefined || comparePositions(stands, known) < 0);
}

function mustComeAgain(partition: number): Error {
  return fault('REDIS_UNAVAILABLE', 'the streams of the partition are not whole now', {
    details: { partition },
  });
}
