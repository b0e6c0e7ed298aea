import { type SourceTopicName, topics } from '@signalbox/contracts/topics';
import { asFault, fault, isFault } from '@signalbox/faults/fault';
import { pause } from '@signalbox/lifecycle/pause';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import type { BusClient, Member } from './bus-client.ts';
import type { ClusterGuard } from './cluster-guard.ts';
import type { Consumer } from './consumer.ts';
import type { BatchProcessor } from './fetched-batch.ts';
import { openLogReader } from './log-reader.ts';
import type { MessagingMetrics } from './messaging-metrics.ts';
import type { KafkaSettings } from './messaging-settings.ts';
import { type OldestUnread, watchOldestUnread } from './oldest-unread.ts';
import { RebuildBudget } from './rebuild-budget.ts';
import { createStoreWatch } from './store-watch.ts';
import { judgeMember, type MemberHealth } from './watchdog.ts';

export interface SubscriptionOptions {
  readonly bus: BusClient;
  readonly settings: KafkaSettings;
  readonly topic: SourceTopicName;
  readonly group: string;
  readonly clientId: string;
  readonly processor: BatchProcessor;
  readonly onAssigned: ((partitions: readonly number[]) => void) | undefined;
  readonly onRevoked: ((partitions: readonly number[]) => void) | undefined;
  /** At its first assignment it goes on at the first record at or after this time (epoch milliseconds). */
  readonly beginAt: number | undefined;
  /** Rejects while a store of the handler does not answer this process. */
  readonly storesAnswer: () => Promise<unknown>;
  readonly guard: ClusterGuard;
  readonly offsetsAtTime: (topic: string, timestampMs: number) => Promise<ReadonlyMap<number, bigint>>;
  readonly log: Logger;
  readonly metrics: MessagingMetrics;
  readonly gauges: Metrics;
  /** Nothing here helps any more: the process must stop, so that its supervisor starts it anew. Called once. */
  readonly giveUp: (reason: string) => void;
}

const commitEveryMs = 300;
const watchEveryMs = 500;
const firstDelayMs = 50;
const maxDelayMs = 1_000;
const abandonedStopMs = 2_000;
const leaveMs = 2_000;
/** A handler that hangs costs this process its place in the group, and at last its life: after so many session timeouts. */
const leaveAfterTimeouts = 1;
const giveUpAfterTimeouts = 3;

/**
 * A subscription outlives the members that serve it:
 *
 * - `starting`: broker or topic may be missing, or a member joins; tried again until it has.
 * - `running`: a member is in the group. A crash or the watchdog ends it, and a new one is started.
 * - `held`: a handler hangs. There is no member, so that others have its partitions; the next one is started when the
 *   handler has come back.
 * - `away`: a store of the handler does not answer this process, though perhaps others. There is no member, so that they
 *   have its partitions; the next one is started when the store answers.
 * - `stopped`.
 */
type State = 'starting' | 'running' | 'held' | 'away' | 'stopped';

/** Why the life of a member is over. */
type Ending =
  | { readonly why: 'crash' | 'start' | 'store away'; readonly error: unknown }
  | { readonly why: 'silent' | 'handler hangs' | 'stop' };

interface Life {
  readonly member: Member;
  end(ending: Ending): void;
}

export function openSubscription(options: SubscriptionOptions): Consumer {
  const { settings, topic, group, log, metrics, guard, processor } = options;
  const sessionMs = settings.kafkaSessionTimeoutMs;
  const wireTopic = settings.kafkaTopicPrefix + topic;
  const closing = new AbortController();
  const budget = new RebuildBudget(2 * sessionMs + settings.kafkaRebalanceTimeoutMs);
  const stores = createStoreWatch({
    answer: options.storesAnswer,
    leaveAfterMs: settings.kafkaStoreAwayLeaveMs,
  });
  let state: State = 'starting';
  let current: Life | undefined;
  /** By assigned partition, ahead of what is committed. */
  const handled = new Map<number, bigint>();
  /** Where the first assignment goes on. */
  let beginnings: ReadonlyMap<number, bigint> | undefined;
  let unread: OldestUnread | undefined;
  let asking = false;
  let reachableSince: number | undefined;
  let lastError: unknown;
  let givenUp = false;

  /** One life after the other, until the stop. */
  async function live(): Promise<void> {
    for (let tries = 0; !closing.signal.aborted; ) {
      await handlersBack();
      await storesBack();
      if (await mayStart(tries)) {
        const ending = await oneLife();
        if (ending.why === 'stop') return; // stop() sees the member out
        tries = ending.why === 'start' ? tries + 1 : 1;
        await account(ending);
      } else tries += 1;
      await pause(Math.min(firstDelayMs * 2 ** Math.min(tries, 8), maxDelayMs), closing.signal);
    }
  }

  async function handlersBack(): Promise<void> {
    while (processor.hangingSince !== undefined && !closing.signal.aborted) {
      state = 'held';
      await pause(watchEveryMs / 4, closing.signal);
    }
    if (state === 'held') state = 'starting';
  }

  async function storesBack(): Promise<void> {
    await stores.back(closing.signal, (error) => {
      if (state !== 'away') log.warning('consumer.start_delayed', { error, topic, group });
      state = 'away';
    });
    if (state === 'away') state = 'starting';
  }

  async function mayStart(tries: number): Promise<boolean> {
    try {
      await guard.ensure();
      await requireTopic();
      if (options.beginAt !== undefined)
        beginnings ??= await options.offsetsAtTime(wireTopic, options.beginAt);
      return !closing.signal.aborted;
    } catch (error) {
      lastError = error;
      if (tries === 0 || isFault(error, 'WRONG_CLUSTER'))
        log.warning('consumer.start_delayed', { error, topic, group });
      return false;
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

  /** From the start of a member to its end. Whoever ends it first says why; one that is over is not heard any more. */
  async function oneLife(): Promise<Ending> {
    const { promise, resolve: end } = Promise.withResolvers<Ending>();
    const member = createMember(end);
    current = { member, end };
    state = 'starting';
    member.start().then(
      () => {
        if (current?.member !== member) return;
        lastError = undefined;
        state = 'running';
      },
      (error: unknown) => end({ why: 'start', error }),
    );
    const ending = await promise;
    if (ending.why === 'stop') return ending;
    current = undefined;
    reachableSince = undefined;
    if (ending.why === 'store away') {
      state = 'away';
      await member.stop(leaveMs); // its partitions are others' at once, not after a session timeout
      return ending;
    }
    state = 'starting';
    const partitions = member.assigned();
    member.abandon();
    member.disconnectLater();
    if (partitions.length > 0) options.onRevoked?.(partitions);
    return ending;
  }

  function createMember(end: (ending: Ending) => void): Member {
    return options.bus.openMember({
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
          handled.clear();
          for (const [partition, offset] of beginnings ?? []) seek(partition, offset);
          if (beginnings !== undefined) beginnings = new Map();
          stores.assigned(partitions);
          options.onAssigned?.(partitions);
        },
        revoked(partitions) {
          log.info('consumer.revoked', { topic, group, partitions });
          handled.clear();
          options.onRevoked?.(partitions);
        },
        crashed: (error) => end({ why: 'crash', error }),
        async process(batch) {
          const outcome = await processor.process({
            ...batch,
            finish(nextOffset) {
              if (batch.isCurrent()) handled.set(batch.partition, nextOffset);
              batch.finish(nextOffset);
            },
          });
          if (batch.isCurrent()) stores.seen(batch.partition, outcome.kind);
          return outcome;
        },
      },
    });
  }

  /** Tells and counts the end of a life. Its cause may be the broker's: then it is unready, and no more than that. */
  async function account(ending: Exclude<Ending, { why: 'stop' }>): Promise<void> {
    const { why } = ending;
    metrics.restarted(topic);
    if (why === 'store away') {
      log.warning('consumer.left_group', { error: ending.error, topic, group });
      return;
    }
    let ours = why === 'silent';
    if (why === 'crash' || why === 'start') {
      const { error } = ending;
      // A coordinator that loads or moves ends a member too: no defect, and the next member finds it.
      const passing = isPassing(error);
      if (passing) log.info('consumer.interrupted', { topic, group, reason: error.message });
      else log.error('consumer.crashed', { error, topic, group });
      ours = !passing && (await brokerAnswers());
    }
    const tooOften = ours && budget.spend(performance.now());
    log.warning('consumer.rebuilding', { topic, group, why, rebuilds: budget.spent });
    if (tooOften) giveUp(why);
  }

  async function brokerAnswers(): Promise<boolean> {
    try {
      await guard.metadata([topic]);
      return true;
    } catch (error) {
      lastError = error;
      return false;
    }
  }

  function giveUp(why: string): void {
    if (givenUp || closing.signal.aborted) return;
    givenUp = true;
    log.critical('consumer.given_up', { topic, group, why, rebuilds: budget.spent });
    options.giveUp(`the consumer of ${topic} does not recover: ${why}`);
  }

  function watch(): void {
    const { hangingSince } = processor;
    const hangingMs = hangingSince === undefined ? 0 : performance.now() - hangingSince;
    if (hangingMs > giveUpAfterTimeouts * sessionMs) giveUp('handler hangs');
    if (current === undefined) return;
    void askStores(current);
    if (hangingMs > leaveAfterTimeouts * sessionMs) current.end({ why: 'handler hangs' });
    else if (healthOf(current.member).verdict === 'silent') void askBroker(current);
    else reachableSince = undefined;
  }

  function healthOf(member: Member): MemberHealth {
    return judgeMember({
      now: performance.now(),
      lastFetchAt: member.lastFetchAt,
      lastHeartbeatAt: member.lastHeartbeatAt,
      sessionTimeoutMs: sessionMs,
      rebalanceTimeoutMs: settings.kafkaRebalanceTimeoutMs,
      joining: member.joining,
    });
  }

  /**
   * A silent member. While the broker answers nobody, a new member would not be better off, and would lose the place of
   * the old one in the group; the client goes on by itself when the broker is back. Only when the broker answers our
   * question, and goes on doing so, and the member is still silent, it is the member that is broken.
   */
  async function askBroker(life: Life): Promise<void> {
    if (asking) return;
    asking = true;
    const answers = await brokerAnswers();
    asking = false;
    if (!answers) reachableSince = undefined;
    else reachableSince ??= performance.now();
    if (reachableSince !== undefined && performance.now() - reachableSince >= sessionMs / 2)
      life.end({ why: 'silent' });
  }

  async function askStores(life: Life): Promise<void> {
    const error = await stores.leaveFor();
    if (error !== undefined) life.end({ why: 'store away', error });
  }

  function seek(partition: number, offset: bigint): boolean {
    handled.delete(partition);
    return current?.member.seek(partition, offset) ?? false;
  }

  const watcher = setInterval(watch, watchEveryMs).unref();

  const committer = setInterval(() => void current?.member.commit(), commitEveryMs).unref();
  const endLag = options.gauges.gauge(
    'consumer_lag',
    { help: 'Records in the log that are not finished, as of the last fetch.', labels: ['topic', 'group'] },
    () => [{ value: current?.member.lag() ?? 0, labels: { topic, group } }],
  );
  const endAge = options.gauges.gauge(
    'consumer_last_fetch_age_seconds',
    { help: 'Seconds since the broker last answered a fetch.', labels: ['topic'] },
    () =>
      current === undefined
        ? undefined
        : [{ value: (performance.now() - current.member.lastFetchAt) / 1_000, labels: { topic } }],
  );
  const running = live();

  return {
    topic,
    group,
    assigned: () => current?.member.assigned() ?? [],
    seek,
    async seekToTime(timestampMs) {
      const offsets = await options.offsetsAtTime(wireTopic, timestampMs);
      const member = current?.member;
      return (member?.assigned() ?? []).filter((partition) => {
        const offset = offsets.get(partition);
        return offset !== undefined && seek(partition, offset);
      });
    },
    watchUnread() {
      unread ??= watchOldestUnread({
        topic,
        openReader: () => openLogReader(settings, wireTopic, group, log),
        handled: (partition) => handled.get(partition),
        log,
      });
      return unread.seconds;
    },
    probe() {
      const { hangingSince } = processor;
      if (hangingSince !== undefined) {
        const overMs = Math.round(performance.now() - hangingSince);
        throw fault('TIMEOUT', `a handler of ${topic} hangs, ${overMs} ms over its bound`);
      }
      if (state === 'away') return; // the store's own check says so; Kafka is no worse for it
      const health = current === undefined ? undefined : healthOf(current.member);
      if (state === 'running' && health?.verdict === 'ok') return;
      if (lastError !== undefined) throw asFault(lastError);
      const age = health === undefined ? '' : `, last fetch ${Math.round(health.fetchAgeMs)} ms ago`;
      throw fault('KAFKA_UNAVAILABLE', `the consumer of ${topic} is ${state}${age}`);
    },
    async stop(deadlineMs = 5_000) {
      if (closing.signal.aborted) return;
      closing.abort();
      clearInterval(watcher);
      clearInterval(committer);
      endLag();
      endAge();
      unread?.close();
      const life = current;
      life?.end({ why: 'stop' });
      await life?.member.stop(deadlineMs);
      state = 'stopped';
      current = undefined;
      await Promise.race([running, pause(abandonedStopMs, undefined, { unref: true })]);
    },
  };
}

/** kafkajs says of the broker's own errors whether another try may find it otherwise. */
function isPassing(error: unknown): error is Error {
  return error instanceof Error && 'retriable' in error && error.retriable === true;
}
