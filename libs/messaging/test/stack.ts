import { kafkaSettings } from '@signalbox/config/kafka-settings';
import { outboxSettings } from '@signalbox/config/outbox-settings';
import { loadSettings } from '@signalbox/config/settings';
import { givenSources } from '@signalbox/config/sources';
import { newId } from '@signalbox/contracts/ids';
import { sessionKey } from '@signalbox/contracts/keys';
import type { SourceTopicName, TopicName } from '@signalbox/contracts/topics';
import { type Database, openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { testInfra } from '@signalbox/testkit/infra';
import { type OwnTopics, ownTopics } from '@signalbox/testkit/topics';
import type { Kafka } from 'kafkajs';
import type { BusClient } from '../src/bus-client.ts';
import { createKafka, fewTries } from '../src/kafka-client.ts';
import { type Messaging, type MessagingSettings, openMessaging } from '../src/messaging.ts';
import type { OutgoingMessage } from '../src/outgoing.ts';
import { readAll } from '../src/read-topic.ts';

export interface LogLine {
  readonly level: string;
  readonly event: string;
  readonly fields: Record<string, unknown>;
}

/** A logger that keeps what it is told. */
export function keepingLog(): Logger & { readonly lines: LogLine[] } {
  const lines: LogLine[] = [];
  const at = (level: string) => (event: string, fields?: Readonly<Record<string, unknown>>) => {
    lines.push({ level, event, fields: fields ?? {} });
  };
  const log: Logger & { readonly lines: LogLine[] } = {
    ...silentLog,
    lines,
    debug: at('debug'),
    info: at('info'),
    warning: at('warning'),
    error: at('error'),
    critical: at('critical'),
    child: () => log,
  };
  return log;
}

export interface Process {
  readonly instanceId: string;
  readonly database: Database;
  readonly messaging: Messaging;
  readonly log: ReturnType<typeof keepingLog>;
  close(): Promise<void>;
}

export interface ProcessOptions {
  readonly bootstrap?: string;
  readonly databaseUrl?: string;
  readonly settings?: Partial<MessagingSettings>;
  readonly metrics?: Metrics;
  readonly service?: string;
  readonly bus?: BusClient;
}

/** Own database and topics of one test file, and as many processes on them as it wants. */
export class Stack {
  readonly topics: OwnTopics;
  readonly database: TestDatabase;
  readonly #open = new Set<Process>();

  private constructor(topics: OwnTopics, database: TestDatabase) {
    this.topics = topics;
    this.database = database;
  }

  static async create(...names: SourceTopicName[]): Promise<Stack> {
    const topics = ownTopics();
    const [database] = await Promise.all([createTestDatabase(), topics.create(...names)]);
    return new Stack(topics, database);
  }

  settings(overrides: Partial<MessagingSettings> = {}, bootstrap = testInfra().kafka): MessagingSettings {
    const loaded = loadSettings(
      'messaging-test',
      { ...kafkaSettings, ...outboxSettings },
      givenSources({
        KAFKA_BOOTSTRAP_SERVERS: bootstrap,
        KAFKA_TOPIC_PREFIX: this.topics.prefix,
        KAFKA_GROUP_ID: this.topics.prefix.replace(/\.$/, ''),
      }),
    );
    // No relay runs beside these tests: rows that a busy machine made wait for 2 s would stay for ever.
    return { ...loaded, outboxFastMaxAgeMs: 30_000, ...overrides };
  }

  process(options: ProcessOptions = {}): Process {
    const instanceId = newId();
    const log = keepingLog();
    const metrics = options.metrics ?? silentMetrics;
    const database = this.openDatabase(options.databaseUrl);
    const messaging = openMessaging({
      settings: this.settings(options.settings, options.bootstrap),
      instanceId,
      service: options.service ?? 'messaging-test',
      database,
      log,
      metrics,
      ...(options.bus === undefined ? {} : { bus: options.bus }),
    });
    const process: Process = {
      instanceId,
      database,
      messaging,
      log,
      close: async () => {
        this.#open.delete(process);
        await messaging.close(3_000);
        await database.close(1_000);
      },
    };
    this.#open.add(process);
    return process;
  }

  openDatabase(url = this.database.url): Database {
    return openDatabase({
      url,
      poolSize: 6,
      maxOverflow: 0,
      poolTimeoutMs: 2_000,
      poolRecycleMs: 600_000,
      statementTimeoutMs: 2_000,
      applicationName: 'messaging-test',
      log: silentLog,
      metrics: silentMetrics,
    });
  }

  kafka(): Kafka {
    return createKafka(this.settings(), 'messaging-test', silentLog, fewTries);
  }

  /** Everything that is in the topic now, in offset order within each partition. */
  async read(topic: TopicName): Promise<ReadRecord[]> {
    const records = await readAll({ settings: this.settings(), topic, log: silentLog });
    return records.map(({ partition, offset, key, value, headers }) => ({
      partition,
      offset,
      key: key ?? '',
      value: value?.toString() ?? '',
      headers,
    }));
  }

  async drop(): Promise<void> {
    for (const process of [...this.#open]) await process.close();
    await Promise.all([this.database.drop(), this.topics.drop()]);
  }
}

export interface ReadRecord {
  readonly partition: number;
  readonly offset: bigint;
  readonly key: string;
  readonly value: string;
  readonly headers: Record<string, string>;
}

/** A valid message on conversation.inbound whose text is `text`. */
export function inbound(session: string, text: string, more: Partial<OutgoingMessage> = {}): OutgoingMessage {
  const eventId = newId();
  const sessionId = session;
  return {
    topic: 'conversation.inbound',
    key: sessionKey('acme', sessionId),
    tenant: 'acme',
    eventType: 'message.posted',
    schema: 'conversation.inbound.v1',
    eventId,
    sessionId,
    value: {
      session_id: sessionId,
      turn_id: newId(),
      event_id: eventId,
      persona_id: 'assistant',
      message: text,
      accepted_at: new Date().toISOString(),
    },
    ...more,
  };
}

/** The text of an inbound record. */
export function textOf(record: ReadRecord): string {
  const value: { message?: string } = JSON.parse(record.value);
  return value.message ?? '';
}

/** First copies of each text, in the order of the log: repeats are allowed, disorder is not. */
export function firstCopies(records: readonly ReadRecord[], key: string): string[] {
  const seen = new Set<string>();
  const texts: string[] = [];
  for (const record of records) {
    if (record.key !== key) continue;
    const text = textOf(record);
    if (!seen.has(text)) texts.push(text);
    seen.add(text);
  }
  return texts;
}
