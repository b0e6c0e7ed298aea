import { repeat } from '@signalbox/api/repeat';
import { createSlots } from '@signalbox/api/slots';
import { formatStreamId } from '@signalbox/api/stream-id';
import { asFault } from '@signalbox/faults/fault';
import type { Consumer, Messaging } from '@signalbox/messaging/messaging';
import type { Database } from '@signalbox/postgres/database';
import type { ProbeDetail } from '@signalbox/readiness/board';
import type { Redis } from '@signalbox/redis/redis';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import type { DelegationGatewaySettings } from './settings.ts';
import { createTakeUpdates } from './take-updates.ts';
import type { TaskRef } from './task-event.ts';
import { createTaskFeeds, type TaskFeeds } from './task-feeds.ts';
import { eventsAfter, lastPlaces } from './update-store.ts';

export interface UpdateService {
  readonly feeds: TaskFeeds;
  /** Starts to take in delegation.updates. */
  consume(): Consumer;
  /**
   * Looks each second for events that no wake-up told of, until the signal aborts. Readers are sent to another replica when
   * the database has not answered this one for READY_GRACE_MS.
   */
  watchEvents(signal: AbortSignal): Promise<void>;
  /** What the board's `worker_pool` check shows: the reads of event streams. */
  detail(): ProbeDetail;
}

/** Readers that come back all at once must not take the database's pool: half of it at most. */
const maxReadsAtOnce = 8;
const lookEveryMs = 1_000;

/** Puts the way of an update together: from delegation.updates into Postgres, and out to whoever follows its task. */
export function createUpdateService(parts: {
  readonly settings: Pick<
    DelegationGatewaySettings,
    'streamEpoch' | 'redisKeyPrefix' | 'readyGraceMs' | 'databasePoolSize'
  >;
  readonly database: Database;
  readonly redis: Redis;
  readonly messaging: Messaging;
  readonly log: Logger;
  readonly metrics: Metrics;
}): UpdateService {
  const { settings, database, redis, messaging, log, metrics } = parts;
  const updates = metrics.counter('delegation_gateway_updates_total', {
    help: 'Records of delegation.updates by what became of them: applied, known, repeat, late, backwards or orphan.',
    labels: ['result'],
  });
  const channelOf = ({ tenant, taskId }: TaskRef) =>
    `${settings.redisKeyPrefix}delegation:{${tenant}:${taskId}}:wake`;
  const pool = { busy: 0, waiting: 0, completed: 0, failed: 0 };
  const readsAtOnce = Math.max(1, Math.min(maxReadsAtOnce, Math.floor(settings.databasePoolSize / 2)));
  const slots = createSlots(readsAtOnce);
  const feeds = createTaskFeeds({
    subscriber: redis.subscriber(),
    async readSlots(run) {
      pool.waiting += 1;
      return await slots(async () => {
        pool.waiting -= 1;
        pool.busy += 1;
        try {
          const read = await run();
          pool.completed += 1;
          return read;
        } catch (error) {
          pool.failed += 1;
          throw error;
        } finally {
          pool.busy -= 1;
        }
      });
    },
    readEvents: (task, after, limit) => eventsAfter(database, task, after, limit),
    lastPlaces: (tasks) => lastPlaces(database, tasks),
    channelOf,
    log,
  });
  const takeUpdates = createTakeUpdates({
    database,
    epoch: settings.streamEpoch,
    wake(task, last) {
      // A wake-up that fails costs the second until the next look.
      redis
        .run((client) => client.publish(channelOf(task), formatStreamId(last)))
        .catch((error: unknown) => log.debug('task_stream.wake_failed', { error }));
    },
    count: (result) => updates.add(1, { result }),
  });

  /** Since when the database has not answered the looks (monotonic, ms); undefined while it does. */
  let awaySince: number | undefined;
  async function look(): Promise<void> {
    try {
      await feeds.look();
      awaySince = undefined;
    } catch (error) {
      awaySince ??= performance.now();
      const graceEnded = performance.now() - settings.readyGraceMs;
      const streams = awaySince > graceEnded ? 0 : feeds.sendAway(graceEnded);
      if (streams > 0) log.warning('streams.sent_away', { streams });
      throw error;
    }
  }

  return {
    feeds,
    consume: () =>
      messaging.consumeRaw({
        topic: 'delegation.updates',
        group: 'delegation-gateway',
        handler: takeUpdates,
      }),
    watchEvents: (signal) =>
      repeat(
        lookEveryMs,
        look,
        (error) => {
          // Away is told by the readiness checks.
          if (!asFault(error).retryable) log.error('task_stream.look_failed', { error });
        },
        signal,
      ),
    detail: () => ({
      status: 'ok',
      size: readsAtOnce,
      busy: pool.busy,
      queued: pool.waiting,
      completed_total: pool.completed,
      failed_total: pool.failed,
    }),
  };
}
