import { databaseSettings } from '@signalbox/config/database-settings';
import { kafkaSettings } from '@signalbox/config/kafka-settings';
import { outboxSettings } from '@signalbox/config/outbox-settings';
import { serviceSettings } from '@signalbox/config/service-settings';
import { flag, integer, type SettingsOf, secret, text, url } from '@signalbox/config/settings';

/** What job-worker reads. */
export const jobWorkerSettings = {
  ...serviceSettings,
  ...databaseSettings,
  ...kafkaSettings,
  ...outboxSettings,
  maxConcurrent: integer({
    env: 'JOB_WORKER_MAX_CONCURRENT',
    doc: 'Jobs run at once by a replica.',
    default: 4,
    min: 1,
    max: 64,
  }),
  leaseMs: integer({
    env: 'JOB_WORKER_LEASE_MS',
    doc: 'Jobs of a replica that is gone run again elsewhere after this.',
    default: 15_000,
    min: 2_000,
    max: 600_000,
  }),
  askTimeoutMs: integer({
    env: 'JOB_ASK_TIMEOUT_MS',
    doc: 'How long a job waits for one answer of another service: a page, or a piece of upkeep.',
    default: 10_000,
    min: 100,
    max: 60_000,
  }),
  maxFailures: integer({
    env: 'JOB_MAX_FAILURES',
    doc: 'A requested job that failed as often is given up. It is tried again after e^n seconds.',
    default: 8,
    min: 1,
    max: 20,
  }),
  upkeepRows: integer({
    env: 'JOB_UPKEEP_ROWS',
    doc: 'Rows that one piece of upkeep takes at most.',
    default: 1_000,
    min: 1,
    max: 10_000,
  }),
  upkeepRunMs: integer({
    env: 'JOB_UPKEEP_RUN_MS',
    doc: 'Bound of one run of a schedule (30 times as long for a daily one); what is left then is for its next run.',
    default: 60_000,
    min: 100,
    max: 3_600_000,
  }),
  notificationsJanitor: flag({
    env: 'NOTIFICATIONS_JANITOR_ENABLED',
    doc: 'Whether notifications past their time are removed.',
    default: true,
  }),
  memoryCompaction: flag({
    env: 'MEMORY_COMPACTION_ENABLED',
    doc: 'Whether memories are compacted: old versions, expired and deleted ones, near-duplicates.',
    default: false,
  }),
  exportDir: text({
    env: 'EXPORT_DIR',
    doc: 'Folder of exports, where there are any.',
    default: '.data/exports',
  }),
  exportPublicUrl: url({
    env: 'EXPORT_PUBLIC_URL',
    doc: 'Address of job-worker as the readers of exports reach it; links to exports begin with it.',
    default: 'http://localhost:8028',
  }),
  exportSigningSecret: secret({
    env: 'EXPORT_SIGNING_SECRET',
    doc: 'Signs the links to exports; the same for all replicas. 32 characters or more.',
    min: 32,
    profiles: { dev: 'of a development machine, and of no other' },
  }),
  exportLinkTtlSeconds: integer({
    env: 'EXPORT_LINK_TTL_SECONDS',
    doc: 'How long the link to an export holds; its file is removed after it.',
    default: 86_400,
    min: 1,
    max: 2_592_000,
  }),
  exportMaxRows: integer({
    env: 'EXPORT_MAX_ROWS',
    doc: 'An export of more rows fails.',
    default: 1_000_000,
    min: 1,
    max: 1_000_000_000,
  }),
  exportMaxMb: integer({
    env: 'EXPORT_MAX_MB',
    doc: 'An export of more megabytes fails.',
    default: 1_024,
    min: 1,
    max: 1_048_576,
  }),
  exportTenantMaxMb: integer({
    env: 'EXPORT_TENANT_MAX_MB',
    doc: 'Megabytes of all exports of a tenant that are kept at once; one that goes beyond fails.',
    default: 4_096,
    min: 1,
    max: 1_048_576,
  }),
};

export type JobWorkerSettings = SettingsOf<typeof jobWorkerSettings>;
