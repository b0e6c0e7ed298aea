import { databaseSettings } from '@signalbox/config/database-settings';
import { httpSettings } from '@signalbox/config/http-settings';
import { kafkaSettings } from '@signalbox/config/kafka-settings';
import { outboxSettings } from '@signalbox/config/outbox-settings';
import { serviceSettings } from '@signalbox/config/service-settings';
import { integer, type SettingsOf, secret, url } from '@signalbox/config/settings';

/** What memory-sync reads. */
export const memorySyncSettings = {
  ...serviceSettings,
  ...databaseSettings,
  ...kafkaSettings,
  ...outboxSettings,
  httpClientMaxConnections: httpSettings.httpClientMaxConnections,
  memoryBackendUrl: url({
    env: 'MEMORY_BACKEND_URL',
    doc: 'Base address of the memory backend; without it the replica is the memory.',
    optional: true,
  }),
  memoryBackendApiKey: secret({
    env: 'MEMORY_BACKEND_API_KEY',
    doc: 'Sent to the memory backend as Authorization: Bearer.',
    optional: true,
  }),
  memoryBackendTimeoutMs: integer({
    env: 'MEMORY_BACKEND_TIMEOUT_MS',
    doc: 'Bound of one request to the memory backend.',
    default: 10_000,
    min: 100,
    max: 60_000,
  }),
  maxConcurrent: integer({
    env: 'MEMORY_SYNC_MAX_CONCURRENT',
    doc: 'Memories of a replica on their way to the memory backend at once, those of one request among them.',
    default: 64,
    min: 1,
    max: 1_024,
  }),
  maxTries: integer({
    env: 'MEMORY_SYNC_MAX_TRIES',
    doc: 'Pushes of one memory before it has failed and waits for `signalbox memory requeue`.',
    default: 8,
    min: 1,
    max: 100,
  }),
  retryMinMs: integer({
    env: 'MEMORY_SYNC_RETRY_MIN_MS',
    doc: 'Shortest pause before a push is tried again; the bound of the random pause doubles with each try.',
    default: 1_000,
    min: 10,
    max: 60_000,
  }),
  retryMaxMs: integer({
    env: 'MEMORY_SYNC_RETRY_MAX_MS',
    doc: 'Longest pause before a push is tried again, whatever Retry-After says.',
    default: 60_000,
    min: 10,
    max: 3_600_000,
  }),
  leaseMs: integer({
    env: 'MEMORY_SYNC_LEASE_MS',
    doc: 'A push of a replica that is gone is taken over after this.',
    default: 10_000,
    min: 2_000,
    max: 600_000,
  }),
};

export type MemorySyncSettings = SettingsOf<typeof memorySyncSettings>;
