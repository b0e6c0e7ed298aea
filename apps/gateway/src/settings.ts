import { databaseSettings } from '@signalbox/config/database-settings';
import { httpSettings } from '@signalbox/config/http-settings';
import { kafkaSettings } from '@signalbox/config/kafka-settings';
import { outboxSettings } from '@signalbox/config/outbox-settings';
import { redisSettings } from '@signalbox/config/redis-settings';
import { serviceSettings } from '@signalbox/config/service-settings';
import { integer, type SettingsOf, text } from '@signalbox/config/settings';

/** What the gateway reads. */
export const gatewaySettings = {
  ...serviceSettings,
  ...databaseSettings,
  ...kafkaSettings,
  ...outboxSettings,
  ...redisSettings,
  ...httpSettings,
  defaultPersonaId: text({
    env: 'DEFAULT_PERSONA_ID',
    doc: 'Persona of a new session whose first message names none.',
    default: 'assistant',
    max: 128,
  }),
  acceptTimeoutMs: integer({
    env: 'ACCEPT_TIMEOUT_MS',
    doc: 'How long a message is tried to be stored, with the same ids, before 503.',
    default: 5_000,
    min: 100,
    max: 60_000,
  }),
  tenantMaxOpenTurns: integer({
    env: 'TENANT_MAX_OPEN_TURNS',
    doc: 'Turns of one tenant that may wait or run; past it a message is answered 429.',
    default: 10_000,
    min: 1,
  }),
  idempotencyKeepHours: integer({
    env: 'IDEMPOTENCY_KEEP_HOURS',
    doc: 'How long the answer to an Idempotency-Key is kept.',
    default: 24,
    min: 1,
    max: 8_760,
  }),
  sessionEventsKeepDays: integer({
    env: 'SESSION_EVENTS_KEEP_DAYS',
    doc: 'How long the events of a session are kept for resume and paging; past it a resume is 410.',
    default: 30,
    min: 1,
    max: 3_650,
  }),
  streamEpoch: integer({
    env: 'STREAM_EPOCH',
    doc: 'First part of every stream id. Raise it when the topic conversation.outbound is made anew.',
    default: 1,
    min: 1,
    max: 99_999_999,
  }),
  streamRebuildSeconds: integer({
    env: 'STREAM_REBUILD_SECONDS',
    doc: 'How far back conversation.outbound is read again when Redis was emptied.',
    default: 900,
    min: 1,
    max: 86_400,
  }),
  streamTtlSeconds: integer({
    env: 'STREAM_TTL_SECONDS',
    doc: "How long an idle session's stream stays in Redis; a later resume reads from Postgres.",
    default: 3_600,
    min: 10,
    max: 604_800,
  }),
  streamMaxEntries: integer({
    env: 'STREAM_MAX_ENTRIES',
    doc: "Entries of one session's stream in Redis, about; older events are read from Postgres.",
    default: 10_000,
    min: 100,
    max: 1_000_000,
  }),
  streamKeepaliveMs: integer({
    env: 'STREAM_KEEPALIVE_MS',
    doc: 'An idle event stream gets a comment, a WebSocket a ping, this often.',
    default: 15_000,
    min: 100,
    max: 120_000,
  }),
  streamRetryMs: integer({
    env: 'STREAM_RETRY_MS',
    doc: 'What an event stream tells its client to wait before it connects again.',
    default: 2_000,
    min: 0,
    max: 60_000,
  }),
  streamMaxBufferedBytes: integer({
    env: 'STREAM_MAX_BUFFERED_BYTES',
    doc: 'A reader that lets more than this wait for it is cut. Larger than any one event: about 1 MB, more when escaped.',
    default: 8_388_608,
    min: 1_048_576,
    max: 67_108_864,
  }),
  streamMaxStallMs: integer({
    env: 'STREAM_MAX_STALL_MS',
    doc: 'A reader that takes nothing of what waits for it in this time is cut.',
    default: 30_000,
    min: 100,
    max: 600_000,
  }),
};

export type GatewaySettings = SettingsOf<typeof gatewaySettings>;
