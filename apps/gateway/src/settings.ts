import { streamSettings } from '@signalbox/api/stream-settings';
import { writeSettings } from '@signalbox/api/write-settings';
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
  ...writeSettings,
  ...streamSettings,
  defaultPersonaId: text({
    env: 'DEFAULT_PERSONA_ID',
    doc: 'Persona of a new session whose first message names none.',
    default: 'assistant',
    max: 128,
  }),
  tenantMaxOpenTurns: integer({
    env: 'TENANT_MAX_OPEN_TURNS',
    doc: 'Turns of one tenant that may wait or run; past it a message is answered 429.',
    default: 10_000,
    min: 1,
  }),
  sessionEventsKeepDays: integer({
    env: 'SESSION_EVENTS_KEEP_DAYS',
    doc: 'How long the events of a session are kept for resume and paging; past it a resume is 410.',
    default: 30,
    min: 1,
    max: 3_650,
  }),
  sessionExpireDays: integer({
    env: 'SESSION_EXPIRE_DAYS',
    doc: 'Sessions that nobody has used for so many days are deleted, and older turns leave the history that models are shown; 0: never.',
    default: 0,
    min: 0,
    max: 36_500,
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
};

export type GatewaySettings = SettingsOf<typeof gatewaySettings>;
