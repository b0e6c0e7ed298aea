import { kafkaSettings } from '@signalbox/config/kafka-settings';
import { outboxSettings } from '@signalbox/config/outbox-settings';
import { loadSettings } from '@signalbox/config/settings';
import { givenSources } from '@signalbox/config/sources';
import { newId } from '@signalbox/contracts/ids';
import type { UpkeepDone } from '@signalbox/contracts/jobs';
import type { SourceTopicName } from '@signalbox/contracts/topics';
import { type Asker, openAsker } from '@signalbox/messaging/asker';
import {
  type IntakeRecord,
  type Messaging,
  type MessagingSettings,
  openMessaging,
  type Receipt,
} from '@signalbox/messaging/messaging';
import { askUpkeep } from '@signalbox/messaging/upkeep';
import type { Database } from '@signalbox/postgres/database';
import { silentLog as log, silentMetrics as metrics } from '@signalbox/telemetry/silent';
import { createTestDatabase, openTestDatabase, type TestDatabase } from './database.ts';
import { testInfra } from './infra.ts';
import { type SpawnedService, type SpawnOptions, spawnService } from './service.ts';
import { type OwnTopics, ownTopics } from './topics.ts';

/** Settings by the names of their variables. */
type Environment = Readonly<Record<string, string>>;

/** Where the parts of the surroundings are, as a service is told it. */
export interface PartsEnvironment extends Environment {
  readonly KAFKA_BOOTSTRAP_SERVERS: string;
  readonly KAFKA_TOPIC_PREFIX: string;
  readonly KAFKA_GROUP_ID: string;
  readonly DATABASE_URL: string;
}

export interface SurroundingsOptions<Env extends Environment> {
  /** Topics to make, with their dead letters; all of the release when none is named. */
  readonly topics?: readonly SourceTopicName[];
  /** Settings of the services to start, beside the addresses of their parts. */
  readonly env: Env;
  /** As which service the test sends and reads. Default `test`. */
  readonly service?: string;
  /** Connects the test as the owner of the tables, who sees the rows of all tenants. */
  readonly asOwner?: boolean;
}

export interface StartOptions extends SpawnOptions {
  /** Whether to wait for GET /ready. Default true. */
  readonly ready?: boolean;
}

/** A record as a test has another service send it. */
export interface SentRecord {
  readonly topic: SourceTopicName;
  readonly tenant: string;
  readonly key: string;
  readonly eventType: string;
  readonly value: object;
  /** Beside (or instead of) those that every record has. */
  readonly headers?: Readonly<Record<string, string | undefined>>;
}

export interface PieceOptions {
  /** Default 1 000. */
  readonly limit?: number;
  readonly resume?: Record<string, unknown> | undefined;
}

/** What is around the services of one test file. */
export interface Surroundings<Env extends Environment = Environment> {
  /** What services are started with. */
  readonly env: PartsEnvironment & Env;
  /** The same as settings of messaging. */
  readonly settings: MessagingSettings;
  readonly database: TestDatabase;
  readonly topics: OwnTopics;
  /** The test's own connections. */
  readonly own: Database;
  /** The test's own messaging, opened when it is first asked for. */
  readonly messaging: Messaging;
  /** Starts to read a topic from its beginning; the list grows as records come. Once a topic. */
  read(topic: SourceTopicName): IntakeRecord[];
  /** Sends a record past the outbox. */
  send(record: SentRecord): Promise<Receipt>;
  /** One piece of upkeep, asked for as job-worker does. Needs the topics `jobs.commands` and `jobs.results`. */
  upkeep(owner: string, task: string, piece?: PieceOptions): Promise<UpkeepDone>;
  /** A service as a process of its own, which ends with the surroundings if not before. */
  start(service: string, env?: Record<string, string>, options?: StartOptions): Promise<SpawnedService>;
  /** Ends services, messaging and connections, then drops topics and database. */
  close(): Promise<void>;
}

/**
 * The rest of the world of a service under test: a database and topics of its own, a test that sends, reads and asks on
 * them as the neighbours would, and the service itself as a process with the settings of both.
 */
export async function openSurroundings<Env extends Environment>(
  options: SurroundingsOptions<Env>,
): Promise<Surroundings<Env>> {
  const { service = 'test' } = options;
  const topics = ownTopics();
  const [database] = await Promise.all([createTestDatabase(), topics.create(...(options.topics ?? []))]);
  const env = {
    KAFKA_BOOTSTRAP_SERVERS: testInfra().kafka,
    KAFKA_TOPIC_PREFIX: topics.prefix,
    KAFKA_GROUP_ID: `${topics.prefix}group`,
    DATABASE_URL: database.url,
    ...options.env,
  };
  const settings = loadSettings(service, { ...kafkaSettings, ...outboxSettings }, givenSources(env));
  const own = openTestDatabase(options.asOwner === true ? database.ownerUrl : database.url);
  let messaging: Messaging | undefined;
  let jobs: Asker<'jobs.commands', 'jobs.results'> | undefined;
  const started: SpawnedService[] = [];

  const opened = () => {
    messaging ??= openMessaging({
      ...{ settings, instanceId: newId(), service, database: own, log, metrics },
    });
    return messaging;
  };

  return {
    ...{ env, settings, database, topics, own },
    get messaging() {
      return opened();
    },
    read(topic) {
      const records: IntakeRecord[] = [];
      opened().consume({
        ...{ topic, group: 'test', inbox: 'own-row' },
        handler: async (batch) => void records.push(...batch),
      });
      return records;
    },
    send({ topic, tenant, key, eventType, value, headers }) {
      const all = {
        ...{ tenant_id: tenant, event_id: newId(), event_type: eventType, schema: `${topic}.v1` },
        ...headers,
      };
      return opened().producer.direct({ topic, key, headers: given(all), value });
    },
    upkeep(owner, task, { limit = 1_000, resume } = {}) {
      jobs ??= openAsker({
        ...{ messaging: opened(), service: 'job-worker', log, metrics },
        ...{ requests: 'jobs.commands', results: 'jobs.results' },
      });
      return askUpkeep(jobs, { owner, task, limit, resume, deadlineMs: 20_000 });
    },
    async start(name, more = {}, { ready = true, ...spawning } = {}) {
      const spawned = await spawnService(name, { ...env, ...more }, spawning);
      started.push(spawned);
      if (ready) await spawned.ready();
      return spawned;
    },
    async close() {
      // What cannot be ended keeps nothing from what is behind it.
      await using ending = new AsyncDisposableStack();
      ending.defer(() => database.drop());
      ending.defer(() => topics.drop());
      ending.defer(() => own.close());
      ending.defer(() => messaging?.close());
      for (const spawned of started) ending.use(spawned);
    },
  };
}

function given(headers: Readonly<Record<string, string | undefined>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])),
  );
}
