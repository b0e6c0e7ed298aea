import { withoutTrace } from '@signalbox/telemetry/trace';
import type { Consumer, EachBatchPayload } from 'kafkajs';
import type { Member, MemberOptions } from './bus-client.ts';
import type { RawRecord } from './decode-record.ts';
import { FetchTimes } from './fetch-times.ts';
import { createKafka, patientRetry } from './kafka-client.ts';
import { PartitionOffsets, type PendingCommit } from './partition-offsets.ts';

const firstPauseMs = 100;
const maxPauseMs = 5_000;

/**
 * One life of a kafkajs consumer in its group: from the connection to its crash, its replacement or its stop. Nothing
 * ever throws into kafkajs (issues 1274, 1299, 1513: a TypeError stops it for good; 1271, 1721: anything else loops).
 */
export class GroupMember implements Member {
  readonly #offsets = new PartitionOffsets();
  readonly #fetches: FetchTimes;
  /** Monotonic milliseconds of the last answer to a heartbeat or join. */
  lastHeartbeatAt = performance.now();
  /** Between a rebalance's begin and the join: the others may take as long as the rebalance timeout. */
  joining = true;
  /** Called when the join under way is over. */
  readonly #onJoined = new Set<() => void>();
  readonly #o: MemberOptions;
  readonly #consumer: Consumer;
  /** Rises at every join and revocation: what began under an older one neither resolves nor commits. */
  #generation = 0;
  #ended = false;
  #commitNow: EachBatchPayload['commitOffsetsIfNecessary'] | undefined;
  #committing: Promise<void> | undefined;
  readonly #paused = new Map<number, { tries: number; timer: NodeJS.Timeout }>();
  readonly #processing = new Set<Promise<unknown>>();

  constructor(options: MemberOptions) {
    this.#o = options;
    const { settings, group, maxWaitMs } = options;
    this.#fetches = new FetchTimes(2 * (settings.kafkaRequestTimeoutMs + maxWaitMs), performance.now());
    this.#consumer = createKafka(settings, options.clientId, options.log, patientRetry).consumer({
      groupId: group,
      sessionTimeout: settings.kafkaSessionTimeoutMs,
      heartbeatInterval: settings.kafkaHeartbeatIntervalMs,
      rebalanceTimeout: settings.kafkaRebalanceTimeoutMs,
      maxWaitTimeInMs: maxWaitMs,
      allowAutoTopicCreation: false,
      metadataMaxAge: 300_000,
      // A restart inside kafkajs keeps no count and tells nobody; a CRASH always ends this life (issue 1271).
      retry: { ...patientRetry, restartOnFailure: async () => false },
    });
    this.#listen();
  }

  /** Connects, subscribes and begins to fetch. Throws when the broker or the topic is not there. */
  async start(): Promise<void> {
    await withoutTrace(async () => {
      await this.#consumer.connect();
      // Always from the beginning: a new group would otherwise skip what was accepted before it was there (delivery rule 9).
      await this.#consumer.subscribe({ topic: this.#o.topic, fromBeginning: true });
      await this.#consumer.run({
        // autoCommit waits for a commit after every batch: a hop then takes 35 ms instead of 0.5.
        autoCommit: false,
        eachBatchAutoResolve: false,
        partitionsConsumedConcurrently: this.#o.partitions,
        eachBatch: (payload) => this.#eachBatch(payload),
      });
    });
  }

  get lastFetchAt(): number {
    return this.#fetches.lastAnswerAt(performance.now());
  }

  lag(): number {
    return this.#offsets.lag();
  }

  assigned(): number[] {
    return this.#offsets.assigned();
  }

  /** Goes on at another offset of an assigned partition; false when it is not assigned. */
  seek(partition: number, offset: bigint): boolean {
    if (this.#ended || !this.#offsets.isAssigned(partition)) return false;
    try {
      this.#consumer.seek({ topic: this.#o.topic, partition, offset: offset.toString() });
    } catch {
      return false; // the group has just ended
    }
    this.#offsets.forget(partition);
    return true;
  }

  /**
   * One try to commit what is finished, under the generation of this moment. kafkajs' own commitOffsets retries for ever
   * and takes the generation at each try: a commit begun before a rebalance would go out after it, for partitions that
   * are another member's by then. `commitOffsetsIfNecessary(offsets)` of a batch is a single try.
   */
  async commit(): Promise<void> {
    if (this.#committing !== undefined) return await this.#committing;
    const commits = this.#offsets.pending();
    if (commits.length === 0 || this.#commitNow === undefined) return;
    const generation = this.#generation;
    this.#committing = this.#send(commits)
      .then(() => {
        if (generation === this.#generation) this.#offsets.committed(commits);
      })
      .catch((error: unknown) => this.#o.log.debug('consumer.commit_failed', { error, topic: this.#o.topic }))
      .finally(() => {
        this.#committing = undefined;
      });
    await this.#committing;
  }

  /** Handlers under way end, what is finished is committed, the member leaves. Returns by `deadlineMs` at the latest. */
  async stop(deadlineMs: number): Promise<void> {
    const end = performance.now() + deadlineMs;
    const leftMs = () => Math.max(end - performance.now(), 50);
    // kafkajs sends no leave for a join under way: the broker would keep a member that is gone, and hand it partitions
    // that nobody reads until its session times out.
    await within(this.#joinOver(), leftMs() * 0.6);
    const partitions = this.assigned();
    if (!this.#ended) this.#fetching('pause', partitions);
    await within(Promise.allSettled([...this.#processing]), leftMs() * 0.6);
    await within(this.#committing ?? Promise.resolve(), leftMs() * 0.3);
    await within(this.commit(), leftMs() * 0.5);
    this.abandon();
    // stop() and disconnect() never come back while a handler or a socket hangs (issues 571, 967, 1639).
    await within(this.#consumer.disconnect(), leftMs());
    if (partitions.length > 0) this.#o.listener.revoked(partitions);
  }

  #joinOver(): Promise<void> {
    if (!this.joining || this.#ended) return Promise.resolve();
    return new Promise((resolve) => this.#onJoined.add(resolve));
  }

  /**
   * From here on this life takes no batch, tells nothing and commits nothing. Its kafkajs consumer is told to disconnect
   * and left alone: one that hangs in a dead connection leaves the group when the connection breaks.
   */
  abandon(): void {
    this.#ended = true;
    this.#generation += 1;
    for (const { timer } of this.#paused.values()) clearTimeout(timer);
    this.#paused.clear();
    this.#offsets.revokeAll();
  }

  disconnectLater(): void {
    this.#consumer.disconnect().catch((error: unknown) => {
      this.#o.log.debug('consumer.disconnect_failed', { error, topic: this.#o.topic });
    });
  }

  #listen(): void {
    const { events } = this.#consumer;
    const on = (
      event: (typeof events)[keyof typeof events],
      run: (payload: Record<string, unknown>) => void,
    ) =>
      this.#consumer.on(event, ({ payload }: { payload: Record<string, unknown> }) => {
        if (this.#ended) return;
        try {
          run(payload ?? {});
        } catch (error) {
          this.#o.log.critical('consumer.listener_failed', { error, topic: this.#o.topic });
        }
      });
    on(events.FETCH_START, ({ nodeId }) => this.#fetches.asked(nodeId, performance.now()));
    on(events.FETCH, ({ nodeId }) => this.#fetches.answered(nodeId, performance.now()));
    on(events.HEARTBEAT, () => {
      this.lastHeartbeatAt = performance.now();
    });
    on(events.REBALANCING, () => this.#revoke());
    on(events.GROUP_JOIN, ({ memberAssignment }) =>
      this.#join(partitionsOf(memberAssignment, this.#o.topic)),
    );
    on(events.CRASH, ({ error }) => this.#o.listener.crashed(error));
  }

  /**
   * A rebalance: the last commit goes out now, in this call, under the old generation; on the coordinator's connection
   * it is ahead of the join. Whatever is not finished in this moment is another member's, or comes again.
   */
  #revoke(): void {
    this.joining = true;
    const partitions = this.assigned();
    const commits = this.#offsets.pending();
    if (commits.length > 0) this.#send(commits).catch(() => undefined);
    this.#dropGeneration();
    this.#offsets.revokeAll();
    if (partitions.length > 0) this.#o.listener.revoked(partitions);
  }

  #join(partitions: readonly number[]): void {
    const before = this.assigned();
    this.joining = false;
    for (const joined of this.#onJoined) joined();
    this.#onJoined.clear();
    this.#dropGeneration();
    // A join without REBALANCING before it (stale metadata, an unknown member): the old assignment ends here.
    if (before.length > 0) this.#o.listener.revoked(before);
    this.#offsets.assign(partitions);
    this.#fetches.restart(performance.now());
    this.lastHeartbeatAt = performance.now();
    this.#o.listener.joined(partitions);
  }

  #dropGeneration(): void {
    this.#generation += 1;
    const paused = [...this.#paused.keys()];
    for (const { timer } of this.#paused.values()) clearTimeout(timer);
    this.#paused.clear();
    // kafkajs keeps pauses over a rebalance; a partition that comes back later would stay silent.
    this.#fetching('resume', paused);
  }

  /** pause and resume throw once kafkajs has ended its group, which a crash does before it tells. */
  #fetching(which: 'pause' | 'resume', partitions: readonly number[]): void {
    if (partitions.length === 0) return;
    try {
      this.#consumer[which]([{ topic: this.#o.topic, partitions: [...partitions] }]);
    } catch (error) {
      this.#o.log.debug('consumer.not_running', { error, which, topic: this.#o.topic });
    }
  }

  async #send(commits: readonly PendingCommit[]): Promise<void> {
    await this.#commitNow?.({
      topics: [
        {
          topic: this.#o.topic,
          partitions: commits.map(({ partition, offset }) => ({ partition, offset: offset.toString() })),
        },
      ],
    });
  }

  async #eachBatch(payload: EachBatchPayload): Promise<void> {
    const { batch } = payload;
    const generation = this.#generation;
    if (this.#ended || !this.#offsets.isAssigned(batch.partition)) return;
    this.#commitNow = payload.commitOffsetsIfNecessary;
    const first = batch.messages[0];
    if (first === undefined) return;
    this.#offsets.fetched(batch.partition, BigInt(first.offset), BigInt(batch.highWatermark));
    const isCurrent = () => generation === this.#generation && payload.isRunning() && !payload.isStale();
    const running = this.#o.listener.process({
      partition: batch.partition,
      records: batch.messages.map(rawRecord),
      isCurrent,
      // Under another generation kafkajs' resolveOffset would write into the new assignment's offsets, or throw because
      // the topic is not in it.
      finish: (nextOffset) => {
        if (!isCurrent()) return;
        payload.resolveOffset((nextOffset - 1n).toString());
        this.#offsets.finish(batch.partition, nextOffset);
      },
      // A heartbeat that says "rebalance" throws; kafkajs sends the next one itself right after the batch, and acts on it.
      heartbeat: () =>
        payload.heartbeat().then(
          () => true,
          () => false,
        ),
    });
    this.#processing.add(running);
    try {
      const outcome = await running;
      if (outcome.kind === 'away' && isCurrent()) this.#pause(batch.partition, outcome.error);
      else if (isCurrent()) this.#unpaused(batch.partition);
    } catch (error) {
      this.#o.log.critical('consumer.processor_threw', { error, topic: this.#o.topic });
      if (isCurrent()) this.#pause(batch.partition, error);
    } finally {
      this.#processing.delete(running);
    }
  }

  /** Resolves nothing and fetches the partition again later: its records come again in order, its neighbours go on. */
  #pause(partition: number, error: unknown): void {
    const tries = (this.#retries.get(partition) ?? 0) + 1;
    this.#retries.set(partition, tries);
    const delayMs =
      Math.min(firstPauseMs * 2 ** Math.min(tries - 1, 10), maxPauseMs) * (0.5 + Math.random() / 2);
    this.#fetching('pause', [partition]);
    const generation = this.#generation;
    const timer = setTimeout(() => {
      this.#paused.delete(partition);
      if (generation !== this.#generation) return;
      this.#fetching('resume', [partition]);
    }, delayMs);
    this.#paused.set(partition, { tries, timer });
    const fields = { error, topic: this.#o.topic, partition, tries, delayMs: Math.round(delayMs) };
    if (tries === 1) this.#o.log.warning('consumer.paused', fields);
    else this.#o.log.debug('consumer.paused', fields);
  }

  readonly #retries = new Map<number, number>();

  #unpaused(partition: number): void {
    if (this.#retries.delete(partition)) {
      this.#o.log.info('consumer.resumed', { topic: this.#o.topic, partition });
    }
  }
}

function rawRecord(message: EachBatchPayload['batch']['messages'][number]): RawRecord {
  return {
    offset: BigInt(message.offset),
    key: message.key,
    value: message.value,
    headers: message.headers ?? {},
    timestampMs: Number(message.timestamp),
  };
}

function partitionsOf(assignment: unknown, topic: string): number[] {
  if (typeof assignment !== 'object' || assignment === null) return [];
  const partitions: unknown = Object.entries(assignment).find(([name]) => name === topic)?.[1];
  return Array.isArray(partitions)
    ? partitions.filter((each): each is number => typeof each === 'number')
    : [];
}

/** Waits for the promise, at most so long; whatever becomes of it then is nobody's error. */
async function within(promise: Promise<unknown>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const bound = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([
    promise.then(
      () => undefined,
      () => undefined,
    ),
    bound,
  ]);
  clearTimeout(timer);
}
