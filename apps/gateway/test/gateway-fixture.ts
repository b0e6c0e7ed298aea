import { conversationOutboundSchema, isDeltaEvent } from '@signalbox/contracts/conversation-outbound';
import { headerNames } from '@signalbox/contracts/headers';
import { newId } from '@signalbox/contracts/ids';
import { sessionKey, toolKey } from '@signalbox/contracts/keys';
import { toolCatalogSchema } from '@signalbox/contracts/tool-catalog';
import { newApiKey } from '@signalbox/identity/api-keys';
import { createKey, createTenant } from '@signalbox/identity/create-key';
import type { MessagingSettings, OutgoingMessage, Receipt } from '@signalbox/messaging/messaging';
import { toRecord } from '@signalbox/messaging/outgoing';
import type { Database } from '@signalbox/postgres/database';
import { openRedis, type Redis } from '@signalbox/redis/redis';
import { silentLog as log, silentMetrics as metrics } from '@signalbox/telemetry/silent';
import { type Answer, call } from '@signalbox/testkit/api-call';
import type { TestDatabase } from '@signalbox/testkit/database';
import { testInfra } from '@signalbox/testkit/infra';
import type { SpawnedService } from '@signalbox/testkit/service';
import { openSse, type SseOptions, type SseStream } from '@signalbox/testkit/sse';
import { openSurroundings } from '@signalbox/testkit/surroundings';
import type { OwnTopics } from '@signalbox/testkit/topics';

/** Ids of an answered POST. */
export interface Posted {
  readonly session_id: string;
  readonly event_id: string;
  readonly turn_id: string;
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
  /** The same as settings of messaging. */
  readonly settings: MessagingSettings;
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
  const { redisUrl } = testInfra();
  const redisPrefix = `test-${newId().slice(-12)}:`;
  const around = await openSurroundings({
    ...{ topics: gatewayTopics, service: 'conversation-worker', asOwner: true },
    env: {
      DATABASE_POOL_SIZE: '4',
      DATABASE_MAX_OVERFLOW: '0',
      REDIS_URL: redisUrl,
      REDIS_KEY_PREFIX: redisPrefix,
      RATE_LIMIT_MAX: '0',
      TRACING_ENABLED: 'true',
    },
  });
  const { env, settings, database, topics, own: db } = around;
  const redis = openRedis({ url: redisUrl, log, metrics });
  const keys = { acme: newApiKey('dev').text, globex: newApiKey('dev').text };
  for (const [tenant, text] of Object.entries(keys)) {
    await createTenant(db, tenant, tenant);
    await db.transaction((tx) => createKey(tx, { tenant, text, name: 'test' }), { tenant });
    await db.query('insert into gateway.personas (tenant, persona_id) select $1, unnest($2::text[])', [
      tenant,
      ['assistant', 'plain'],
    ]);
  }

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
    settings,
    database,
    db,
    redis,
    redisPrefix,
    topics,
    start: (more) => around.start('gateway', more),
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
        receipts.push(await around.messaging.producer.direct({ topic, key, headers, value }));
      }
      return receipts;
    },
    async send(message) {
      const { topic, key, value } = message;
      const { headers } = toRecord({ eventId: newId(), ...message }, message.traceparent);
      return await around.messaging.producer.direct({ topic, key, headers, value: value ?? {} });
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
      await db.transaction((tx) => around.messaging.outbox.put(tx, [{ ...message, value }]));
    },
    emptyRedis,
    snapshotRedis,
    async close() {
      await around.close();
      await emptyRedis();
      await redis.close();
    },
  };
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
