import { type SourceTopicName, topics } from '@signalbox/contracts/topics';
import { asFault, fault, isFault } from '@signalbox/faults/fault';
import { pause } from '@signalbox/lifecycle/pause';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import type { BusClient, Member } from './bus-client.ts';
import type { ClusterGuard } from './cluster-guard.ts';
import type { BatchProcessor } from './fetched-batch.ts';

import type { MessagingMetrics } from './messaging-metrics.ts';
import type { KafkaSettings } from './messaging-settings.ts';
import { judgeMember, type MemberHealth } from './watchdog.ts';

/** A running consumer as its service sees it. */
export interface Consumer {
  readonly topic: SourceTopicName;
  readonly group: string;
  /** Partitions that this instance reads now. */
  assigned(): number[];
  /** Goes on at another offset; false when the partition is not assigned here. */
  seek(partition: number, offset: bigint): boolean;
  /** Seeks every assigned partition to its first record at or after that time. Resolves with the partitions that moved. */
  seekToTime(timestampMs: number): Promise<number[]>;
  /** Throws KAFKA_UNAVAILABLE when it is not a live member of its group. For probes. */
  probe(): void;
  /** Ends handlers, commits, leaves the group; within `deadlineMs` (5 000). */
  stop(deadlineMs?: number): Promise<void>;
}

export interface SubscriptionOptions {
  readonly bus: BusClient;
  readonly settings: KafkaSettings;
  readonly topic: SourceTopicName;
  readonly group: string;
  readonly clientId: string;
  readonly process: BatchProcessor;
  readonly onAssigned: ((partitions: readonly number[]) => void) | undefined;
  readonly onRevoked: ((partitions: readonly number[]) => void) | undefined;
  readonly guard: ClusterGuard;
  readonly offsetsAtTime: (topic: string, timestampMs: number) => Promise<ReadonlyMap<number, bigint>>;
  readonly log: Logger;
  readonly metrics: MessagingMetrics;
  readonly gauges: Metrics;
  /** Nothing here helps any more: the process must stop, so that its supervisor starts it anew. */
  readonly giveUp: (reason: string) => void;
}

const commitEveryMs = 300;
const watchEveryMs = 500;
const firstDelayMs = 50;
const maxDelayMs = 1_000;
/** Rebuilt so often in a row, with a broker that answers others and no fetch of ours: the process ends. */
const maxRebuilds = 4;
/** A member that has lived so long has recovered. */
const settledMs = 10_000;
const abandonedStopMs = 2_000;

/**
 * A subscription outlives the members that serve it:
 *
 * - `starting`: broker or topic may be missing; tried again until they are there.
 * - `running`: a member is in the group. A crash or the watchdog ends it, and a new one is started.
 * - `stopped`.
 */
type State =
  | { readonly name: 'starting' }
  | { readonly name: 'running'; readonly member: Member }
  | { readonly name: 'stopped' };

export function openSubscription(options: SubscriptionOptions): Consumer {
  const { settings, topic, group, log, metrics, guard } = options;
  const wireTopic = settings.kafkaTopicPrefix + topic;
  const closing = new AbortController();
  let state: State = { name: 'starting' };
  let current: Member | undefined;
  let rebuilds = 0;
  let builtAt = 0;
  let asking = false;
  let reachableSince: number | undefined;
  let lastError: unknown;
  let health: MemberHealth = { verdict: 'ok', fetchAgeMs: 0 };

  function createMember(): Member {
    const member: Member = options.bus.openMember({
      settings,
      topic: wireTopic,
      partitions: topics[topic].partitions,
      group,
      clientId: options.clientId,
      maxWaitMs: 500,
      log,
      listener: {
        joined(partitions) {
          log.info('consumer.assigned', { topic, group, partitions });
          options.onAssigned?.(partitions);
        },
        revoked(partitions) {
          log.info('consumer.revoked', { topic, group, partitions });
          options.onRevoked?.(partitions);
        },
        crashed(error) {
          if (member !== current) return;
          // A coordinator that loads or moves ends a member too: no defect, and the next member finds it.
          if (isPassing(error)) log.info('consumer.interrupted', { topic, group, reason: error.message });
          else log.error('consumer.crashed', { error, topic, group });
          void rebuild(member, 'crash');
        },
        process: options.process,
      },
    });
    return member;
  }

  /** Tries until a member runs or the subscription is stopped. */
  async function start(): Promise<void> {
    state = { name: 'starting' };
    for (let tries = 0; !closing.signal.aborted; tries += 1) {
      let member: Member | undefined;
      try {
        await guard.ensure();
        await requireTopic();
        member = createMember();
        current = member;
        await Promise.race([member.start(), aborted(closing.signal)]);
        if (closing.signal.aborted) return; // stop() sees the member out
        if (current !== member) return; // it crashed while it joined, and the next one is on its way
        lastError = undefined;
        builtAt = performance.now();
        state = { name: 'running', member };
        return;
      } catch (error) {
        lastError = error;
        member?.abandon();
        member?.disconnectLater();
        if (tries === 0 || isFault(error, 'WRONG_CLUSTER'))
          log.warning('consumer.start_delayed', { error, topic, group });
        await pause(Math.min(firstDelayMs * 2 ** Math.min(tries, 8), maxDelayMs), closing.signal);
      }
    }
  }

  // subscribe() on a topic that is missing throws, or asks for it for ever (issue 1563); another partition count means
  // that keys are elsewhere than their producers put them.
  async function requireTopic(): Promise<void> {
    const counts = await guard.metadata([topic]);
    const count = counts.get(topic);
    if (count !== topics[topic].partitions) {
      log.error('consumer.partition_count', { topic, count, expected: topics[topic].partitions });
      throw new Error(`topic ${topic} has ${count ?? 0} partitions, not ${topics[topic].partitions}`);
    }
  }

  async function rebuild(member: Member, why: string): Promise<void> {
    if (member !== current || closing.signal.aborted) return;
    current = undefined;
    metrics.restarted(options.topic);
    rebuilds += 1;
    log.warning('consumer.rebuilding', { topic, group, why, rebuilds });
    const partitions = member.assigned();
    member.abandon();
    member.disconnectLater();
    if (partitions.length > 0) options.onRevoked?.(partitions);
    if (rebuilds > maxRebuilds) {
      log.critical('consumer.given_up', { topic, group, why, rebuilds });
      options.giveUp(`consumer of ${topic} does not recover: ${why}`);
    }
    await pause(Math.min(firstDelayMs * 2 ** Math.min(rebuilds, 6), maxDelayMs), closing.signal);
    await start();
  }

  const watch = setInterval(() => {
    const member = current;
    if (member === undefined || state.name !== 'running') return;
    health = judgeMember({
      now: performance.now(),
      lastFetchAt: member.lastFetchAt,
      lastHeartbeatAt: member.lastHeartbeatAt,
      sessionTimeoutMs: settings.kafkaSessionTimeoutMs,
      rebalanceTimeoutMs: settings.kafkaRebalanceTimeoutMs,
      joining: member.joining,
    });
    if (health.verdict === 'silent') {
      void askBroker(member);
    } else {
      reachableSince = undefined;
      if (performance.now() - builtAt > settledMs) rebuilds = 0;
    }
  }, watchEveryMs).unref();

  /**
   * A silent member. While the broker answers nobody, a new member would not be better off, and would lose the place of
   * the old one in the group; kafkajs goes on by itself when the broker is back. Only when the broker answers our
   * question, and goes on doing so, and the member is still silent, it is the member that is broken.
   */
  async function askBroker(member: Member): Promise<void> {
    if (asking) return;
    asking = true;
    try {
      await guard.metadata([topic]);
      reachableSince ??= performance.now();
      if (performance.now() - reachableSince >= settings.kafkaSessionTimeoutMs / 2 && member === current) {
        reachableSince = undefined;
        health = { verdict: 'ok', fetchAgeMs: 0 };
        void rebuild(member, 'silent');
      }
    } catch (error) {
      reachableSince = undefined;
      lastError = error;
    } finally {
      asking = false;
    }
  }

  const committer = setInterval(() => void current?.commit(), commitEveryMs).unref();
  const endLag = options.gauges.gauge(
    'consumer_lag',
    { help: 'Records in the log that are not finished, as of the last fetch.', labels: ['topic', 'group'] },
    () => [{ value: current?.lag() ?? 0, labels: { topic, group } }],
  );
  const endAge = options.gauges.gauge(
    'consumer_last_fetch_age_seconds',
    { help: 'Seconds since the broker last answered a fetch.', labels: ['topic'] },
    () =>
      current === undefined
        ? undefined
        : [{ value: (performance.now() - current.lastFetchAt) / 1_000, labels: { topic } }],
  );
  const running = start();

  return {
    topic,
    group,
    assigned: () => current?.assigned() ?? [],
    seek: (partition, offset) => current?.seek(partition, offset) ?? false,
    async seekToTime(timestampMs) {
      const offsets = await options.offsetsAtTime(wireTopic, timestampMs);
      const member = current;
      return (member?.assigned() ?? []).filter((partition) => {
        const offset = offsets.get(partition);
        return offset !== undefined && member?.seek(partition, offset) === true;
      });
    },
    probe() {
      if (
        state.name === 'running' &&
        health.verdict === 'ok' &&
        current !== undefined &&
        current.lastFetchAt > 0
      )
        return;
      if (lastError !== undefined) throw asFault(lastError);
      throw fault(
        'KAFKA_UNAVAILABLE',
        `the consumer of ${topic} is ${state.name}, last fetch ${Math.round(health.fetchAgeMs)} ms ago`,
      );
    },
    async stop(deadlineMs = 5_000) {
      if (closing.signal.aborted) return;
      closing.abort();
      clearInterval(watch);
      clearInterval(committer);
      endLag();
      endAge();
      const member = current;
      await member?.stop(deadlineMs);
      state = { name: 'stopped' };
      current = undefined;
      await Promise.race([running, pause(abandonedStopMs)]);
    },
  };
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}

/** kafkajs says of the broker's own errors whether another try may find it otherwise. */
function isPassing(error: unknown): error is Error {
  return error instanceof Error && 'retriable' in error && error.retriable === true;
}
