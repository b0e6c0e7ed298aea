import { kafkaSettings } from '@signalbox/config/kafka-settings';
import { loadSettings } from '@signalbox/config/settings';
import { givenSources } from '@signalbox/config/sources';
import { conversationOutboundSchema, isDeltaEvent } from '@signalbox/contracts/conversation-outbound';
import { headerNames } from '@signalbox/contracts/headers';
import { newId } from '@signalbox/contracts/ids';
import { sessionKey, toolKey } from '@signalbox/contracts/keys';
import { toolCatalogSchema } from '@signalbox/contracts/tool-catalog';
import { newApiKey } from '@signalbox/identity/api-keys';
import { createKey, createTenant } from '@signalbox/identity/create-key';
import {
  type Messaging,
  type OutgoingMessage,
  openMessaging,
  type Receipt,
} from '@signalbox/messaging/messaging';
import { toRecord } from '@signalbox/messaging/outgoing';
import { type Database, openDatabase } from '@signalbox/postgres/database';
import { openRedis, type Redis } from '@signalbox/redis/redis';
import { silentLog as log, silentMetrics as metrics } from '@signalbox/telemetry/silent';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { testInfra } from '@signalbox/testkit/infra';
import { type SpawnedService, spawnService } from '@signalbox/testkit/service';
import { openSse, type SseOptions, type SseStream } from '@signalbox/testkit/sse';
import { type OwnTopics, ownTopics } from '@signalbox/testkit/topics';

/** Ids of an answered POST. */
export interface Posted {
  readonly session_id: string;
  readonly event_id: string;
  readonly turn_id: string;
}

export interface Answer<B = Record<string, unknown>> {
  readonly status: number;
  readonly headers: Headers;
  readonly body: B;
}

export interface OutboundEvent {
  readonly type: string;
  readonly value: Record<string, unknown>;
  /** The same id twice: the producer sent the record again. */
  readonly eventId?: string;
  readonly traceparent?: string;
}

export interface GatewayFixture {
  readonly keys: { readonly acme: string; readonly globex: string };
  readonly env: Record<string, string>;
  readonly database: TestDatabase;
  readonly db: Database;
  readonly redis: Redis;
  readonly redisPrefix: string;
  readonly topics: OwnTopics;
  /** A gateway of its own process, ready. */
  start(env?: Record<string, string>): Promise<SpawnedService>;
  /** Puts records into conversation.outbound as the conversation-worker would, one after the other. */
  publish(tenant: string, sessionId: string, events: readonly OutboundEvent[]): Promise<Receipt[]>;
  /** Puts one record into any topic, as the service that produces it would. */
  send(message: Omit<OutgoingMessage, 'eventId'> & { readonly eventId?: string }): Promise<Receipt>;
  catalog(tenant: string, name: string, value: Record<string, unknown> | null): Promise<void>;
  /** What a Redis that lost its memory looks like to this fixture's gateways. */
  emptyRedis(): Promise<void>;
  /** Keeps what Redis has now; the function that it answers brings that back, as a start from an old snapshot does. */
  snapshotRedis(): Promise<() => Promise<void>>;
  close(): Promise<void>;
}

/** What a gateway reads and writes. */
export const gatewayTopics = [
  'conversation.inbound',
  'conversation.outbound',
  'tool.catalog',
  'memory.writes',
  'memory.recall.requests',
  'memory.recall.results',
  'ui.notifications',
  'jobs.commands',
  'jobs.results',
] as const;

/** Database, topics, Redis prefix, two tenants with keys and personas of one test file. */
export async function gatewayFixture(): Promise<GatewayFixture> {
  const infra = testInfra();
  const topics = ownTopics();
  const [database] = await Promise.all([createTestDatabase(), topics.create(...gatewayTopics)]);
  const redisPrefix = `test-${newId().slice(-12)}:`;
  const redis = openRedis({ url: infra.redisUrl, log, metrics });
  const db = openDatabase({
    url: database.ownerUrl,
    poolSize: 2,
    maxOverflow: 0,
    poolTimeoutMs: 5000,
    poolRecycleMs: 600_000,
    applicationName: 'gateway-test',
    log,
    metrics,
  });
  const kafka = loadSettings(
    'gateway-test',
    kafkaSettings,
    givenSources({ KAFKA_BOOTSTRAP_SERVERS: infra.kafka, KAFKA_TOPIC_PREFIX: topics.prefix }),
  );
  let worker: Messaging | undefined;
  const messaging = () => {
    worker ??= openMessaging({
      settings: kafka,
      instanceId: newId(),
      service: 'conversation-worker',
      database: db,
      log,
      metrics,
    });
    return worker;
  };

  const keys = { acme: newApiKey('dev').text, globex: newApiKey('dev').text };
  for (const [tenant, text] of Object.entries(keys)) {
    await createTenant(db, tenant, tenant);
    await db.transaction((tx) => createKey(tx, { tenant, text, name: 'test' }), { tenant });
    await db.query('insert into gateway.personas (tenant, persona_id) select $1, unnest($2::text[])', [
      tenant,
      ['assistant', 'plain'],
    ]);
  }
  const env = {
    KAFKA_BOOTSTRAP_SERVERS: infra.kafka,
    KAFKA_TOPIC_PREFIX: topics.prefix,
    KAFKA_GROUP_ID: topics.prefix,
    DATABASE_URL: database.url,
    DATABASE_POOL_SIZE: '4',
    DATABASE_MAX_OVERFLOW: '0',
    REDIS_URL: infra.redisUrl,
    REDIS_KEY_PREFIX: redisPrefix,
    RATE_LIMIT_MAX: '0',
    TRACING_ENABLED: 'true',
  };
  const services: SpawnedService[] = [];

  const emptyRedis = async () => {
    const found = await redis.run((client) => client.keys(`${redisPrefix}*`));
    if (found.length > 0) await redis.run((client) => client.del(...found));
  };

  const snapshotRedis = async () => {
    const found = await redis.run((client) => client.keys(`${redisPrefix}*`));
    const dumps = await redis.run((client) => Promise.all(found.map((key) => client.dumpBuffer(key))));
    return async () => {
      await emptyRedis();
      await redis.run((client) =>
        Promise.all(found.map((key, i) => client.restore(key, 0, dumps[i] ?? '', 'REPLACE'))),
      );
    };
  };

  return {
    keys,
    env,
    database,
    db,
    redis,
    redisPrefix,
    topics,
    async start(more = {}) {
      const service = await spawnService('gateway', { ...env, ...more });
      services.push(service);
      await service.ready();
      return service;
    },
    async publish(tenant, sessionId, events) {
      const receipts: Receipt[] = [];
      for (const { type, value, eventId = newId(), traceparent } of events) {
        const topic = 'conversation.outbound';
        const key = sessionKey(tenant, sessionId);
        const trace = traceparent ?? `00-${newId().replaceAll('-', '')}-00f067aa0ba902b7-01`;
        const headers = isDeltaEvent(type)
          ? {
              [headerNames.traceparent]: trace,
              [headerNames.eventType]: type,
              [headerNames.schema]: conversationOutboundSchema,
            }
          : toRecord(
              {
                topic,
                key,
                tenant,
                eventType: type,
                schema: conversationOutboundSchema,
                eventId,
                sessionId,
                value,
              },
              trace,
            ).headers;
        receipts.push(await messaging().producer.direct({ topic, key, headers, value }));
      }
      return receipts;
    },
    async send(message) {
      const { topic, key, value } = message;
      const { headers } = toRecord({ eventId: newId(), ...message }, message.traceparent);
      return await messaging().producer.direct({ topic, key, headers, value: value ?? {} });
    },
    async catalog(tenant, name, value) {
      const topic = 'tool.catalog';
      const key = toolKey(tenant, name);
      const message = {
        topic,
        key,
        tenant,
        eventType: 'tool.catalogued',
        schema: toolCatalogSchema,
        eventId: newId(),
      } as const;
      await db.transaction((tx) => messaging().outbox.put(tx, [{ ...message, value }]));
    },
    emptyRedis,
    snapshotRedis,
    async close() {
      await Promise.all(services.map((service) => service[Symbol.asyncDispose]()));
      await worker?.close();
      await emptyRedis();
      await Promise.all([redis.close(), db.close()]);
      await Promise.all([database.drop(), topics.drop()]);
    },
  };
}

/** Sends a request and reads the JSON answer. */
export async function call<B = Record<string, unknown>>(
  service: { readonly url: string },
  path: string,
  options: {
    key?: string;
    body?: unknown;
    raw?: string | Uint8Array<ArrayBuffer>;
    headers?: Record<string, string>;
    method?: string;
  } = {},
): Promise<Answer<B>> {
  const { key, body, raw, headers = {}, method } = options;
  const payload = raw ?? (body === undefined ? undefined : JSON.stringify(body));
  const response = await fetch(service.url + path, {
    method: method ?? (payload === undefined ? 'GET' : 'POST'),
    headers: {
      ...(key === undefined ? {} : { 'x-api-key': key }),
      ...(payload === undefined ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
    ...(payload === undefined ? {} : { body: payload }),
  });
  const text = await response.text();
  // The caller names the form it checks next.
  const read: B = text === '' ? {} : JSON.parse(text);
  return { status: response.status, headers: response.headers, body: read };
}

export function post(
  service: { readonly url: string },
  key: string,
  body: Record<string, unknown>,
  headers: Record<string, string> = {},
): Promise<Answer<Posted & Record<string, unknown>>> {
  return call(service, '/v1/session/message', { key, body, headers });
}

/** Follows a session's stream. */
export function follow(
  service: { readonly url: string },
  key: string,
  sessionId: string,
  options: Omit<SseOptions, 'headers'> = {},
): Promise<SseStream> {
  return openSse(`${service.url}/v1/session/${sessionId}/events`, {
    ...options,
    headers: { 'x-api-key': key },
  });
}

/** The events of a whole plain turn, its answer cut into pieces. */
export function turnEvents(turnId: string, pieces: readonly string[], attempt = 1): OutboundEvent[] {
  let at = 0;
  const deltas = pieces.map((text) => {
    const value = { turn_id: turnId, attempt, at, text };
    at += [...text].length;
    return { type: 'assistant.delta', value };
  });
  return [
    {
      type: 'turn.started',
      value: { turn_id: turnId, attempt, persona_id: 'assistant', message_event_id: newId() },
    },
    ...deltas,
    finalEvent(turnId, pieces.join(''), attempt),
  ];
}

export function finalEvent(turnId: string, text: string, attempt = 1): OutboundEvent {
  return {
    type: 'assistant.final',
    value: {
      turn_id: turnId,
      attempt,
      text,
      length: [...text].length,
      end_reason: 'stop',
      model: 'test',
      usage: { input_tokens: 1, output_tokens: 1 },
    },
  };
}
