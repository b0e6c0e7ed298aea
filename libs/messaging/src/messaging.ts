import {
  isSourceTopic,
  type SourceTopicName,
  type TopicName,
  topicList,
  topics,
} from '@signalbox/contracts/topics';
import { fault } from '@signalbox/faults/fault';
import type { Lifecycle, StopPhase } from '@signalbox/lifecycle/lifecycle';
import type { Database } from '@signalbox/postgres/database';
import type { ProbeDetail } from '@signalbox/readiness/board';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import { type AppendHandler, createAppend, type SettledHandler } from './append.ts';
import type { BusClient } from './bus-client.ts';
import { createClusterGuard } from './cluster-guard.ts';
import type { Consumer } from './consumer.ts';
import { depthGauge } from './dead-letter-depth.ts';
import type { RecordHead } from './decode-record.ts';
import { FastPath } from './fast-path.ts';
import type { BatchProcessor } from './fetched-batch.ts';
import { createIntake, type IntakeHandler } from './intake.ts';
import { kafkajsBus } from './kafkajs-bus.ts';
import { messagingMetrics } from './messaging-metrics.ts';
import type { MessagingSettings } from './messaging-settings.ts';
import { offsetsAtTime } from './offsets-at-time.ts';
import { createOutbox, type Outbox } from './outbox.ts';
import { type DirectRecord, type Receipt, toDirectRecord } from './outgoing.ts';
import { createProducer, type Producer, type Sending } from './producer.ts';
import { RefusedRows } from './refused-rows.ts';
import { SentRows } from './sent-rows.ts';
import { openSubscription } from './subscription.ts';
import { refuseOtherCounts } from './topics.ts';

export type { AppendHandler, SettledRange } from './append.ts';
export type { Consumer } from './consumer.ts';
export type { IntakeRecord, RecordHead } from './decode-record.ts';
export type { IntakeContext, IntakeHandler } from './intake.ts';
export type { MessagingSettings } from './messaging-settings.ts';
export type { Outbox, PutResult } from './outbox.ts';
export type { DirectRecord, OutgoingMessage, Receipt } from './outgoing.ts';

interface Subscribing {
  readonly topic: SourceTopicName;
  /** The service; the group is `<KAFKA_GROUP_ID>.<group>.<topic>`, so one group a service and topic (delivery rule 9). */
  readonly group: string;
  /** Looks at key and headers before the value is read; a record it refuses is skipped (another reply_to). */
  readonly accepts?: (head: RecordHead) => boolean;
  /** Records a call of the handler at most. Default 256. */
  readonly maxBatch?: number;
  readonly onAssigned?: (partitions: readonly number[]) => void;
  readonly onRevoked?: (partitions: readonly number[]) => void;
  /**
   * At the first assignment of this process it goes on at the first record at or after this time (epoch milliseconds),
   * whatever its group has committed: for records that mean nothing to who was not there before.
   */
  readonly beginAt?: number;
  /** The phase of the stop in which it leaves its group. Default `intake`. */
  readonly stopPhase?: StopPhase;
  /** Called at the stop once the consumer has left: ends what its handler has begun, until the signal (5 s). */
  readonly onStopped?: (signal: AbortSignal) => Promise<void> | void;
}

export interface ConsumeOptions extends Subscribing {
  readonly handler: IntakeHandler;
  /** `own-row`: the effect's own row is unique by event id. `table`: the runner enters the ids into messaging.inbox. */
  readonly inbox: 'own-row' | 'table';
  /** After each commit: wake the work queue. */
  readonly onCommitted?: () => void;
}

export interface ConsumeRawOptions extends Subscribing {
  readonly handler: AppendHandler;
  readonly settled?: SettledHandler;
  /** Rejects while a store of the handler does not answer this process. The database is asked besides. */
  readonly storesAnswer?: () => Promise<unknown>;
}

export interface MessagingOptions {
  readonly settings: MessagingSettings;
  /** newId() of the process: the writer of its outbox rows. */
  readonly instanceId: string;
  readonly service: string;
  readonly database: Database;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** With it, the parts register their own steps of the stop (delivery rule 29), and a consumer beyond help starts it. */
  readonly lifecycle?: Lifecycle;
  /** Topics of the service, which the probe asks for; those consumed are added by themselves. */
  readonly topics?: readonly TopicName[];
  /** Another Kafka client than kafkajs. */
  readonly bus?: BusClient;
}

export interface Messaging {
  readonly producer: {
    /**
     * Sends a record past the outbox, behind everything of its key that this process has queued. Tried again in place
     * until it is acknowledged or the signal aborts (30 s at most); after an abort it may still appear in the log.
     * Faults: ABORTED, KAFKA_UNAVAILABLE, RECORD_REFUSED.
     */
    direct(record: DirectRecord, signal?: AbortSignal): Promise<Receipt>;
    /** For the relay: sends through the same queue. */
    enqueue(sending: Sending): void;
    /** How long what is being sent has waited for the broker's answer, in milliseconds; 0 when nothing is. */
    readonly waitingMs: number;
  };
  readonly outbox: Outbox;
  /** Starts a consumer whose handler runs in a transaction. Returns at once; the broker need not be there yet. */
  consume(options: ConsumeOptions): Consumer;
  /** Starts a consumer whose handler appends to stores of its own, in offset order. */
  consumeRaw(options: ConsumeRawOptions): Consumer;
  /** A readiness probe: metadata of the service's topics, cluster id, live membership. */
  probe(signal: AbortSignal): Promise<ProbeDetail | undefined>;
  /** @throws WRONG_CLUSTER, KAFKA_UNAVAILABLE, CONFIG_INVALID for another partition count. */
  checkCluster(): Promise<void>;
  /** Topics of the release that the broker does not have now. @throws KAFKA_UNAVAILABLE, WRONG_CLUSTER. */
  missingTopics(): Promise<TopicName[]>;
  /** What the board's `outbox` check shows. */
  outboxDetail(): ProbeDetail;
  /** Without a lifecycle: stops consumers, drains the outbox, closes the producer. */
  close(timeoutMs?: number): Promise<void>;
}

const defaultMaxBatch = 256;
/** How long what a handler has begun may go on at the stop. */
const endBegunMs = 5_000;

/** Opens messaging for a process; connects when it is first needed, so a service starts while the broker is away. */
export function openMessaging(options: MessagingOptions): Messaging {
  const { settings, instanceId, service, database, log, lifecycle } = options;
  const metrics = messagingMetrics(options.metrics);
  const clientId = `${service}-${instanceId.slice(-12)}`;
  const guard = createClusterGuard(settings, `${clientId}-guard`, log);
  const bus = options.bus ?? kafkajsBus;
  const client = bus.openProducer({ settings, clientId, log, ensureCluster: () => guard.ensure() });
  const producer = createProducer(client, log);
  const sentRows = new SentRows(database, log);
  const refusedRows = new RefusedRows(database, log);
  const maxAgeMs = settings.outboxFastMaxAgeMs ?? 2_000;
  const fastPath = new FastPath({
    database,
    producer,
    sentRows,
    refusedRows,
    writer: instanceId,
    log,
    metrics,
    maxRows: settings.outboxFastMaxRows ?? 5_000,
    maxAgeMs,
  });
  const maxRows = settings.outboxMaxRows ?? 100_000;
  const outbox = createOutbox({ database, producer, fastPath, instanceId, service, maxRows, maxAgeMs, log });
  const endGauges = [
    depthGauge(database, options.metrics, log),
    options.metrics.gauge('outbox_pending', { help: 'Rows in the outbox.' }, () => outbox.load?.pending),
    options.metrics.gauge(
      'outbox_oldest_seconds',
      { help: 'Age of the oldest row in the outbox, in seconds.' },
      () => outbox.load?.oldestSeconds,
    ),
  ];
  const consumers: Consumer[] = [];
  /** Ends the process through a main loop that fails: it drains and exits 70, and its supervisor starts it anew. */
  const beyondHelp = Promise.withResolvers<never>();
  const giveUp = (reason: string) => beyondHelp.reject(fault('INTERNAL_ERROR', reason));
  beyondHelp.promise.catch(() => undefined);
  const ownTopics = new Set<TopicName>(options.topics ?? []);

  function open(
    subscribing: Subscribing & Pick<ConsumeRawOptions, 'storesAnswer'>,
    createProcessor: (group: string) => BatchProcessor,
  ): Consumer {
    const { topic } = subscribing;
    if (!isSourceTopic(topic)) throw fault('INTERNAL_ERROR', `${topic} is not a topic that can be consumed`);
    const group = `${settings.kafkaGroupId}.${subscribing.group}.${settings.kafkaTopicPrefix}${topic}`;
    ownTopics.add(topic);
    const subscription = openSubscription({
      bus,
      settings,
      topic,
      group,
      clientId: `${clientId}-${topic}`,
      processor: createProcessor(group),
      onAssigned: subscribing.onAssigned,
      onRevoked: subscribing.onRevoked,
      beginAt: subscribing.beginAt,
      storesAnswer: () => Promise.all([database.urgent.query('select 1'), subscribing.storesAnswer?.()]),
      guard,
      offsetsAtTime: (wireTopic, timestampMs) => offsetsAtTime(settings, wireTopic, timestampMs, log),
      log,
      metrics,
      gauges: options.metrics,
      giveUp,
    });
    const { onStopped, stopPhase = 'intake' } = subscribing;
    const consumer: Consumer = {
      ...subscription,
      async stop(deadlineMs) {
        await subscription.stop(deadlineMs);
        await onStopped?.(AbortSignal.timeout(endBegunMs));
      },
    };
    if (consumers.length === 0) {
      lifecycle?.background('consumers', (signal) => Promise.race([beyondHelp.promise, aborted(signal)]));
    }
    consumers.push(consumer);
    lifecycle?.onStop({
      name: `consumer ${topic}`,
      phase: stopPhase,
      timeoutMs: 6_000 + (onStopped === undefined ? 0 : endBegunMs),
      run: () => consumer.stop(5_000),
    });
    return consumer;
  }

  async function checkCluster(): Promise<void> {
    const wanted = [...ownTopics];
    const counts = await guard.metadata(wanted);
    refuseOtherCounts(
      wanted.map((name) => topics[name]),
      (topic) => counts.get(topic.name),
    );
  }

  async function drain(signal: AbortSignal): Promise<void> {
    await outbox.drain(signal);
    await Promise.race([
      refusedRows.settled(),
      new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true })),
    ]);
    await sentRows.flush(signal);
  }

  async function closeClients(): Promise<void> {
    refusedRows.close();
    outbox.close();
    for (const end of endGauges) end();
    await Promise.allSettled([producer.close(), guard.close()]);
  }

  lifecycle?.onStop({ name: 'outbox', phase: 'producers', timeoutMs: 5_000, run: (signal) => drain(signal) });
  lifecycle?.onStop({ name: 'kafka', phase: 'clients', timeoutMs: 3_000, run: () => closeClients() });

  return {
    producer: {
      direct: async (record, signal) => fastPath.direct(toDirectRecord(record), signal),
      enqueue: (sending) => producer.enqueue(sending),
      get waitingMs() {
        return producer.waitingMs;
      },
    },
    outbox,
    consume: (consuming) =>
      open(consuming, (group) =>
        createIntake({
          topic: consuming.topic,
          group,
          consumer: consuming.group,
          handler: consuming.handler,
          accepts: consuming.accepts,
          inbox: consuming.inbox,
          maxBatch: consuming.maxBatch ?? defaultMaxBatch,
          onCommitted: consuming.onCommitted,
          database,
          outbox,
          log,
          metrics,
        }),
      ),
    consumeRaw: (consuming) =>
      open(consuming, (group) =>
        createAppend({
          topic: consuming.topic,
          group,
          handler: consuming.handler,
          settled: consuming.settled,
          accepts: consuming.accepts,
          maxBatch: consuming.maxBatch ?? defaultMaxBatch,
          database,
          outbox,
          log,
          metrics,
        }),
      ),
    async probe() {
      await checkCluster();
      for (const consumer of consumers) consumer.probe();
      return undefined;
    },
    checkCluster,
    async missingTopics() {
      const there = await guard.topicNames();
      return topicList.map(({ name }) => name).filter((name) => !there.has(name));
    },
    outboxDetail() {
      const load = outbox.load;
      return {
        status: outbox.full || producer.failingForMs > 0 ? 'degraded' : 'ok',
        pending: load?.pending,
        oldest_seconds: load?.oldestSeconds,
        unsent_here: fastPath.outstanding,
      };
    },
    async close(timeoutMs = 5_000) {
      await Promise.all(consumers.map((consumer) => consumer.stop(timeoutMs)));
      await drain(AbortSignal.timeout(timeoutMs));
      await closeClients();
    },
  };
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}

export type { Producer };
