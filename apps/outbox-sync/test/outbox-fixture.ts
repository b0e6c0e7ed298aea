import { loadSettings } from '@signalbox/config/settings';
import { givenSources } from '@signalbox/config/sources';
import { newId } from '@signalbox/contracts/ids';
import type { SourceTopicName } from '@signalbox/contracts/topics';
import { putRows } from '@signalbox/messaging/outbox-sql';
import { type OutgoingMessage, toRecord } from '@signalbox/messaging/outgoing';
import { readAll } from '@signalbox/messaging/read-topic';
import { type Database, openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { testInfra } from '@signalbox/testkit/infra';
import {
  type LaunchedService,
  launchService,
  type SpawnedService,
  spawnService,
} from '@signalbox/testkit/service';
import { type OwnTopics, ownTopics } from '@signalbox/testkit/topics';
import { waitFor } from '@signalbox/testkit/wait';
import { outboxSyncSettings } from '../src/settings.ts';

const topic = 'conversation.inbound';

/** An outbox and a topic of one test, with relays and writers that are processes of their own. */
export interface OutboxFixture extends AsyncDisposable {
  readonly testDatabase: TestDatabase;
  relay(env?: Record<string, string>): Promise<SpawnedService>;
  /** Writes one row after the other to each session until it is killed; logs `committed` with session and n. */
  writer(sessions: readonly string[], env?: Record<string, string>): LaunchedService;
  put(writer: string | null, messages: readonly OutgoingMessage[]): Promise<unknown>;
  rowsLeft(): Promise<number>;
  emptied(timeoutMs?: number): Promise<unknown>;
  /** Rows that were ever put. */
  rowsPut(): Promise<number>;
  /**
   * Holds the log against the rows in the order of their ids: keys whose first copies are in another order or are not
   * all there, and how many records were there before.
   */
  published(): Promise<{ readonly wrong: string[]; readonly repeats: number }>;
}

export async function outboxFixture(): Promise<OutboxFixture> {
  const topics: OwnTopics = ownTopics();
  const [testDatabase] = await Promise.all([createTestDatabase(), topics.create(topic)]);
  await keepOrder(testDatabase);
  const database: Database = openDatabase({
    url: testDatabase.url,
    poolSize: 2,
    maxOverflow: 0,
    poolTimeoutMs: 5_000,
    poolRecycleMs: 600_000,
    applicationName: 'outbox-sync-test',
    log: silentLog,
    metrics: silentMetrics,
  });
  const environment = {
    DATABASE_URL: testDatabase.url,
    DATABASE_POOL_SIZE: '4',
    DATABASE_MAX_OVERFLOW: '0',
    KAFKA_BOOTSTRAP_SERVERS: testInfra().kafka,
    KAFKA_TOPIC_PREFIX: topics.prefix,
    KAFKA_GROUP_ID: 'outbox-sync-test',
    KAFKA_REQUEST_TIMEOUT_MS: '1000',
    OUTBOX_STALE_MS: '300',
  };
  const started: (LaunchedService | SpawnedService)[] = [];
  const count = async (from: string) => {
    const [row] = await testDatabase.query<{ n: string }>(`select count(*) as n from ${from}`);
    return Number(row?.n);
  };
  const rowsLeft = () => count('messaging.outbox');

  return {
    testDatabase,
    async relay(env = {}) {
      const service = await spawnService('outbox-sync', { ...environment, ...env }, { timeoutMs: 40_000 });
      started.push(service);
      return service;
    },
    writer(sessions, env = {}) {
      const writer = launchService(
        'writer',
        { ...environment, ...env },
        { entry: new URL('./writer-process.ts', import.meta.url), args: [sessions.join(',')] },
      );
      started.push(writer);
      return writer;
    },
    put(writer, messages) {
      const records = messages.map((each) => ({
        ...toRecord(each, undefined),
        tenant: each.tenant,
        eventId: each.eventId,
      }));
      return database.transaction((tx) => putRows(tx, writer, records));
    },
    rowsLeft,
    emptied: (timeoutMs = 15_000) =>
      waitFor(rowsLeft, (left) => left === 0, { timeoutMs, label: 'an empty outbox' }),
    rowsPut: () => count('public.put_order'),
    async published() {
      const rows = await testDatabase.query<{ key: string; event_id: string }>(
        'select key, event_id from public.put_order where topic = $1 order by id',
        [topic],
      );
      const settings = loadSettings('outbox-sync', outboxSyncSettings, givenSources(environment));
      const log = await readAll({ settings, topic, log: silentLog });
      const wanted = Map.groupBy(rows, ({ key }) => key);
      const found = Map.groupBy(log, ({ key }) => key ?? '');
      const wrong = [...wanted].flatMap(([key, own]) => {
        const ids = own.map(({ event_id: id }) => id);
        const firsts = [...new Set((found.get(key) ?? []).map(({ headers }) => headers.event_id))];
        const at = ids.findIndex((id, i) => firsts[i] !== id);
        if (at < 0 && firsts.length === ids.length) return [];
        return [`${key}: ${firsts.length} of ${ids.length}, other from place ${at}`];
      });
      return { wrong, repeats: log.length - rows.length };
    },
    async [Symbol.asyncDispose]() {
      for (const each of started) {
        each.kill('SIGKILL');
        await each.exited;
      }
      await database.close();
      await Promise.all([testDatabase.drop(), topics.drop()]);
    },
  };
}

/** Keeps what was put, in the order of the ids, for rows are deleted once they are published. */
async function keepOrder(testDatabase: TestDatabase): Promise<void> {
  await testDatabase.query(
    `create table public.put_order (id bigint primary key, topic text, key text, event_id uuid)`,
  );
  await testDatabase.query(`create function public.keep_order() returns trigger language plpgsql security definer as
    'begin insert into public.put_order values (new.id, new.topic, new.key, new.event_id); return null; end'`);
  await testDatabase.query(
    `create trigger keep_order after insert on messaging.outbox for each row execute function public.keep_order()`,
  );
}

export function message(session: string, to: SourceTopicName = topic): OutgoingMessage {
  const eventId = newId();
  return {
    topic: to,
    key: `acme:${session}`,
    tenant: 'acme',
    eventType: 'message.posted',
    schema: 'conversation.inbound.v1',
    eventId,
    sessionId: session,
    value: { text: eventId },
  };
}

/** Waits until the writer has told of so many commits. */
export function commits(writer: LaunchedService, count: number): Promise<unknown> {
  return waitFor(
    () => writer.logs.filter(({ event }) => event === 'committed').length,
    (told) => told >= count,
    { timeoutMs: 30_000, label: `${count} commits` },
  );
}
