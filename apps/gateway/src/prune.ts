import { repeat } from '@signalbox/api/repeat';
import { pause } from '@signalbox/lifecycle/pause';
import type { Database } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { prune } from './session-store.ts';
import type { GatewaySettings } from './settings.ts';

const everyMs = 60_000;

/** Forgets idempotency keys and session events past their time, once a minute; of several replicas one at a time does. */
export async function pruneForever(
  parts: {
    readonly settings: Pick<GatewaySettings, 'idempotencyKeepHours' | 'sessionEventsKeepDays'>;
    readonly database: Database;
    readonly log: Logger;
  },
  signal: AbortSignal,
): Promise<void> {
  const { settings, database, log } = parts;
  const keep = { keyHours: settings.idempotencyKeepHours, eventDays: settings.sessionEventsKeepDays };
  // Replicas that started together look at different moments.
  await pause(Math.random() * everyMs, signal);
  await repeat(
    everyMs,
    async () => {
      const rows = await prune(database, keep, signal);
      if (rows > 0) log.info('gateway.pruned', { rows });
    },
    (error) => log.warning('gateway.prune_failed', { error }),
    signal,
  );
}
