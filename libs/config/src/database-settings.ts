import { integer, type SettingsOf, url } from './settings.ts';

/** The connection of a service to Postgres, in the role that owns nothing. */
export const databaseSettings = {
  databaseUrl: url({
    env: 'DATABASE_URL',
    doc: 'Postgres, as the service role: it owns nothing and row level security applies to it.',
    schemes: ['postgres', 'postgresql'],
  }),
  databasePoolSize: integer({
    env: 'DATABASE_POOL_SIZE',
    doc: 'Connections that are kept when idle.',
    default: 10,
    min: 1,
    max: 500,
  }),
  databaseMaxOverflow: integer({
    env: 'DATABASE_MAX_OVERFLOW',
    doc: 'Connections on top of the pool size under load; they close when idle.',
    default: 20,
    max: 500,
  }),
  databasePoolTimeoutMs: integer({
    env: 'DATABASE_POOL_TIMEOUT_MS',
    doc: 'How long a statement waits for a connection before DATABASE_UNAVAILABLE.',
    default: 30_000,
    min: 1,
    max: 600_000,
  }),
  databasePoolRecycleMs: integer({
    env: 'DATABASE_POOL_RECYCLE_MS',
    doc: 'Age at which a connection is replaced.',
    default: 1_800_000,
    min: 1_000,
  }),
};

/** They as the options of `openDatabase`. */
export function databaseOptions(settings: SettingsOf<typeof databaseSettings>) {
  return {
    url: settings.databaseUrl,
    poolSize: settings.databasePoolSize,
    maxOverflow: settings.databaseMaxOverflow,
    poolTimeoutMs: settings.databasePoolTimeoutMs,
    poolRecycleMs: settings.databasePoolRecycleMs,
  };
}
