import { repeat } from '@signalbox/api/repeat';
import { createSlots } from '@signalbox/api/slots';
import { asFault } from '@signalbox/faults/fault';
import type { Consumer, Messaging } from '@signalbox/messaging/messaging';
import { seekBack } from '@signalbox/messaging/seek-back';
import type { Database } from '@signalbox/postgres/database';
import type { Redis } from '@signalbox/redis/redis';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import { createAppendEvents } from './append-events.ts';
import { findPlaces, type PlaceRequest, type SessionPlace, storeEvents } from './event-store.ts';
import { createPartitionRebuild } from './partition-rebuild.ts';
import { createReadStream } from './read-stream.ts';
import { createSessionFeeds, type SessionFeeds } from './session-feeds.ts';
import { createSessionStreams } from './session-stream.ts';
import type { GatewaySettings } from './settings.ts';
import { streamKeys } from './stream-keys.ts';
import { createTickBatcher } from './tick-batcher.ts';

export interface StreamService {
  readonly feeds: SessionFeeds;
  /** Where a session stands, asked together with all others of the tick. */
  findPlace(request: PlaceRequest): Promise<SessionPlace | 'missing'>;
  /** Starts to take in conversation.outbound. */
  consume(): Consumer;
  /** Looks after `stream:boot` of the owned partitions, until the signal aborts. */
  watchBoot(signal: AbortSignal): Promise<void>;
  /**
   * Sends clients away that this process cannot tell anything: Redis has not answered it for longer than READY_GRACE_MS,
   * the service is unready by then. One that comes back meanwhile is given the same time. Until the signal aborts.
   */
  watchRedis(signal: AbortSignal): Promise<void>;
  /** The readiness probe of Redis, which tells watchRedis: a stream ends when the service becomes unready, not before. */
  probeRedis(signal: AbortSignal): Promise<void>;
}

/** Delivery rule 22: refills at once; the others wait with keepalive. */
const refillsAtOnce = 32;
const bootCheckMs = 1_000;
const redisAnswerMs = 2_000;
const awayCheckMs = 1_000;

/** Puts the streams together: from conversation.outbound into Postgres and Redis, and out to whoever follows. */
export function createStreamService(parts: {
  readonly settings: GatewaySettings;
  readonly database: Database;
  readonly redis: Redis;
  readonly messaging: Messaging;
  readonly log: Logger;
  readonly metrics: Metrics;
}): StreamService {
  const { settings, database, redis, messaging, log, metrics } = parts;
  const streams = createSessionStreams({
    redis,
    keys: streamKeys(settings.redisKeyPrefix),
    ttlSeconds: settings.streamTtlSeconds,
    maxEntries: settings.streamMaxEntries,
  });
  const refills = metrics.counter('gateway_stream_refills_total', {
    help: 'Reads of a stream that Postgres had to fill a gap of.',
  });
  const rebuilds = metrics.counter('gateway_stream_rebuilds_total', {
    help: 'Partitions that were appended again because Redis had been emptied.',
  });
  const events = metrics.counter('gateway_stream_events_total', {
    help: 'Events of conversation.outbound by what became of them: appended, repeat on the wire, or stale.',
    labels: ['result'],
  });
  const slots = createSlots(refillsAtOnce);
  const feeds = createSessionFeeds({
    subscriber: redis.subscriber(),
    readStream: createReadStream({ streams, database, refillSlots: slots, onRefill: () => refills.add(1) }),
    channelOf: (session) => streams.channelOf(session),
    readWake: (message) => streams.readWake(message),
    log,
  });
  const places = createTickBatcher<PlaceRequest, SessionPlace | 'missing'>({
    run: (requests) => findPlaces(database, requests),
    maxItems: 512,
    maxGroups: 64,
    groupOf: (request) => request.tenant,
    concurrency: 1,
    maxWaiting: 50_000,
  });

  let consumer: Consumer | undefined;
  const rebuild = createPartitionRebuild({
    streams,
    log: {
      async seekBack(partition, seconds, notAfter) {
        if (consumer === undefined) throw new Error('not consuming');
        const timestampMs = Date.now() - seconds * 1000;
        return await seekBack({ settings, consumer, partition, timestampMs, notAfter, log });
      },
    },
    rebuildSeconds: settings.streamRebuildSeconds,
    epoch: settings.streamEpoch,
    logger: log,
    onRebuild: () => rebuilds.add(1),
  });
  metrics.gauge(
    'gateway_streams_rebuilding',
    { help: 'Owned partitions whose streams are not whole in Redis.' },
    () => rebuild.rebuilding,
  );
  const { append, settled } = createAppendEvents({
    streams,
    rebuild,
    storeEvents: (batch) => storeEvents(database, batch),
    epoch: settings.streamEpoch,
    count: (result, number) => events.add(number, { result }),
  });

  /** Since when Redis has not answered (monotonic, ms); undefined while it does. */
  let awaySince: number | undefined;
  async function probeRedis(signal: AbortSignal): Promise<void> {
    try {
      await redis.probe(signal);
      awaySince = undefined;
    } catch (error) {
      awaySince ??= performance.now();
      throw error;
    }
  }
  async function sendAway(): Promise<void> {
    const graceEnded = performance.now() - settings.readyGraceMs;
    if (awaySince === undefined || awaySince > graceEnded) return;
    const streams = feeds.sendAway(graceEnded);
    if (streams > 0) log.warning('streams.sent_away', { streams });
  }

  return {
    feeds,
    findPlace: (request) => places.add(request),
    consume() {
      consumer = messaging.consumeRaw({
        topic: 'conversation.outbound',
        group: 'gateway',
        handler: async (records) => {
          const [first] = records;
          if (first !== undefined) await append(first.partition, records);
        },
        settled,
        storesAnswer: () => redis.probe(AbortSignal.timeout(redisAnswerMs)),
        onAssigned: (partitions) => rebuild.assigned(partitions),
        onRevoked: (partitions) => rebuild.revoked(partitions),
      });
      return consumer;
    },
    watchRedis: (signal) =>
      repeat(awayCheckMs, sendAway, (error) => log.error('streams.not_sent_away', { error }), signal),
    probeRedis,
    watchBoot: (signal) =>
      repeat(
        bootCheckMs,
        () => rebuild.check(),
        (error) => {
          // Away is told by the readiness checks.
          if (!asFault(error).retryable) log.error('stream.boot_check_failed', { error });
        },
        signal,
      ),
  };
}
