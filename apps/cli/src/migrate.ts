import { createTopics } from '@signalbox/messaging/topics';
import { migrate } from '@signalbox/postgres/migrate';
import { startTelemetry } from '@signalbox/telemetry/telemetry';
import { commandSettings, migrateSettings } from './settings.ts';

/** Brings tables, then topics, to this release. Safe to run again and from several places at once. */
export async function runMigrate(print: (line: string) => void): Promise<void> {
  const settings = commandSettings(migrateSettings);
  const { log } = startTelemetry({
    service: 'cli',
    version: '0',
    environment: 'dev',
    instanceId: String(process.pid),
    tracing: false,
    metrics: false,
    logLevel: 'INFO',
    logFormat: 'json',
  });
  const { databaseOwnerUrl: ownerUrl, databaseUrl: serviceUrl } = settings;
  const ran = await migrate({ ownerUrl, ...(serviceUrl === undefined ? {} : { serviceUrl }), log });
  print(ran.length === 0 ? 'migrations: up to date' : `migrations: ran ${ran.join(', ')}`);
  const { created } = await createTopics({ settings, log });
  print(created.length === 0 ? 'topics: up to date' : `topics: created ${created.join(', ')}`);
}
